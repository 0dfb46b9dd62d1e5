"""Which adapters the portals of one database have requests running with, so that none of them takes one away from
another's: a row for each adapter and process, from before its first request is sent until after the last has ended.

A row outlives its last request by a moment, so that requests that follow each other cost no statement. One of a process
that was killed counts no more: at once on its machine, elsewhere when it was not renewed (`adapters/processes.py`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from django.db import DatabaseError, IntegrityError, InterfaceError, connections, transaction
from django.db.models import Q
from django.utils import timezone

from adapters.processes import is_dead, own_name

from .models import AdapterUse

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=60)
RENEWED = 20.0  # seconds


class SharedUses:
    """See `backends/fleet/flights.py`. `begin` and `end` count in memory alone; the others wait for the database, in
    threads of the backend's own, and raise nothing that it does: answers go on without it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._written: dict[str, float] = {}  # digest -> when its row was written last

    def begin(self, digest: str) -> bool:
        with self._lock:
            self._counts[digest] += 1
            return time.monotonic() - self._written.get(digest, -RENEWED) >= RENEWED

    def end(self, digest: str) -> bool:
        with self._lock:
            self._counts[digest] -= 1
            return self._counts[digest] <= 0

    def write(self, digest: str) -> None:
        with _logged():
            row = AdapterUse.objects.filter(digest=digest, process=own_name())
            expires = timezone.now() + LEASE
            if not row.update(expires_at=expires):
                with suppress(IntegrityError), transaction.atomic():  # another thread of this process may be first
                    AdapterUse.objects.create(digest=digest, process=own_name(), expires_at=expires)
            with self._lock:
                self._written[digest] = time.monotonic()

    def tidy(self) -> None:
        with self._lock:
            unused = [digest for digest, count in self._counts.items() if count <= 0]
            due = [digest for digest, when in self._written.items() if time.monotonic() - when >= RENEWED]
        if unused:
            with _logged():
                AdapterUse.objects.filter(digest__in=unused, process=own_name()).delete()
                due = self._forget(unused, due)
        for digest in due:
            self.write(digest)

    def _forget(self, unused: list[str], due: list[str]) -> list[str]:
        """Their rows are gone. Returns what is to be written: also that for which a request has begun meanwhile."""
        with self._lock:
            for digest in unused:
                self._written.pop(digest, None)
                if self._counts[digest] <= 0:
                    del self._counts[digest]
            return [digest for digest in {*due, *unused} if self._counts.get(digest, 0) > 0]

    def elsewhere(self, digest: str) -> bool:
        with _logged():
            return used_elsewhere(digest)
        return True  # nobody can say that it is unused


@contextmanager
def _logged() -> Iterator[None]:
    try:
        yield
    except (DatabaseError, InterfaceError) as error:
        logger.warning("which adapters are in use is not known: %s", error.__class__.__name__)
    finally:
        connections.close_all()  # own threads close their connections


def used_elsewhere(digest: str) -> bool:
    """Whether another process has requests running with it. Raises DatabaseError."""
    rows = AdapterUse.objects.filter(digest=digest, expires_at__gt=timezone.now())
    return any(not is_dead(name) for name in rows.exclude(process=own_name()).values_list("process", flat=True))


def forget_dead() -> int:
    """Remove the rows of processes that are gone; returns how many. Raises DatabaseError."""
    gone = [name for name in AdapterUse.objects.values_list("process", flat=True).distinct() if is_dead(name)]
    return AdapterUse.objects.filter(Q(process__in=gone) | Q(expires_at__lte=timezone.now())).delete()[0]
