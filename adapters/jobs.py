"""Work that takes minutes or hours, on a thread beside the requests: begun under a lock, told and cancelled by its row,
ended by name whatever happens. A process that is killed leaves a row whose lock nobody holds."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any, TypeVar

from django.db import connections
from django.utils import timezone, translation

from .failures import Refused
from .leases import HeldLease, is_held
from .models import JobState
from .models.job import JobRow

logger = logging.getLogger(__name__)
Row = TypeVar("Row", bound=JobRow)

TOLD_EVERY = 1.0  # seconds
_threads: list[threading.Thread] = []


class CancelledError(Exception):
    """Somebody does not want it any more."""


class Job:
    """One of them, whose lock is held. `work` does it, and returns what its row becomes."""

    failed = ""  # code of failures.py for what nobody foresaw

    def __init__(self, row: JobRow, hold: HeldLease) -> None:
        self.row, self.hold = row, hold
        self.told = 0.0
        self.language = translation.get_language()

    def work(self) -> dict[str, Any]:
        """Raises CancelledError, Refused, or whatever goes wrong."""
        raise NotImplementedError

    def start(self) -> None:
        """The lock is freed at its end."""
        thread = threading.Thread(target=self._run, name=self.row.lease, daemon=True)
        _threads[:] = [*(one for one in _threads if one.is_alive()), thread]
        thread.start()

    def _run(self) -> None:
        try:
            with translation.override(self.language):
                self._end(state=JobState.DONE, progress=1.0, **self.work())
        except CancelledError:
            self._end(state=JobState.CANCELLED)
        except Refused as refused:
            self._end(state=JobState.FAILED, failure_code=refused.code, failure_details=refused.details)
        except Exception as error:
            logger.exception("%s failed", self.row)
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
            self._end(state=JobState.FAILED, failure_code=self.failed, failure_details={"reason": reason})
        finally:
            try:
                self.hold.__exit__(None, None, None)
            finally:
                connections.close_all()

    def _end(self, **facts: Any) -> None:
        if _running(type(self.row), pk=self.row.pk).update(ended_at=timezone.now(), **facts):
            self.ended(facts["state"])

    def ended(self, state: JobState) -> None:
        """The row says so."""

    def alive(self, share: float, **facts: Any) -> None:
        """Called often: stay alive, tell how far it is, and look whether it is still wanted. Raises CancelledError,
        BusyError."""
        if time.monotonic() - self.told < TOLD_EVERY:
            return
        self.told = time.monotonic()
        self.hold.touch()
        rows = _running(type(self.row), pk=self.row.pk, cancel_asked=False)
        if not rows.update(progress=min(0.99, share), **facts):
            raise CancelledError


def _running(kind: type[JobRow], **which: Any) -> Any:
    return kind._default_manager.filter(state=JobState.RUNNING, **which)


def fail_others(kind: type[JobRow], lease: str, code: str) -> None:
    """Whoever has just taken the lock knows that nobody else is at these."""
    _fail(kind, [row.pk for row in _running(kind) if row.lease == lease], code)


def end_interrupted(kind: type[JobRow], code: str) -> int:
    """Jobs whose process is gone have failed; returns how many that were."""
    running = list(_running(kind))
    # Whoever began one of these has held its lock since before, until it was written how it ended.
    return _fail(kind, [row.pk for row in running if not is_held(row.lease)], code)


def _fail(kind: type[JobRow], keys: list[int], code: str) -> int:
    if not keys:
        return 0
    rows = _running(kind, pk__in=keys)
    return int(rows.update(state=JobState.FAILED, failure_code=code, ended_at=timezone.now()))


def cancel(row: JobRow) -> bool:
    """Ask for the end of one that runs; False where it does not."""
    return bool(_running(type(row), pk=row.pk).update(cancel_asked=True))


def wait() -> None:
    """Until what was started in this process has ended."""
    for thread in _threads:
        thread.join()
