"""The one queue of evaluations: whichever process holds its lease works on what is under way and oldest: a run, a
parity report, or a head to head of a run's answers.

A portal holds the lease as long as it lives. One that is gone is seen to be gone (`adapters/leases.py`), so that the
next one goes on with its run at once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from django.db import close_old_connections, connections

from adapters.failures import BusyError
from adapters.leases import HeldLease
from common.lent_threads import LentThreads
from evaluations.models import Duel, Parity, Run

from .duels.working import Judging
from .job import Job
from .parity_working import ParityWorker
from .working import Worker

logger = logging.getLogger(__name__)

Between = Callable[[Callable[[], None]], object]

LEASE = "evaluations"
IDLE = 2.0  # seconds between looks for a run that another process has made
REST = 10.0  # seconds until a lease that somebody else holds is asked for again, or after an error
RENEW_EVERY = 15.0  # seconds


class Queue:
    """A thread with an event loop of its own for each run; the engine is asked as every door asks it.

    `between` is called before each look for a run, with a function that renews the lease during long work.
    """

    def __init__(self, between: Between = lambda alive: None) -> None:
        self._between = between
        self._news = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="evaluations", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """There is a new run."""
        self._news.set()

    def stop(self, timeout: float = 10.0) -> None:
        self._stopped = True
        self._news.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopped:
            close_old_connections()
            rest = REST
            try:
                with HeldLease(LEASE) as lease:
                    while not self._stopped:
                        self._turn(lease)
            except BusyError:
                logger.debug("another process works on the evaluations")
            except Exception:  # the database may be away for a while
                logger.exception("evaluations rest for %d s", REST)
            finally:
                connections.close_all()
            self._wait(rest)

    def _turn(self, lease: HeldLease) -> None:
        self._news.clear()
        self._between(lambda: renew(lease))
        if not work_on_next(lease, self._check):
            connections.close_all()
            self._wait(IDLE)
        renew(lease)

    def _check(self) -> None:
        if self._stopped:
            raise BusyError  # whoever holds the lease next goes on

    def _wait(self, seconds: float) -> None:
        if not self._stopped:
            self._news.wait(seconds)


def renew(lease: HeldLease) -> None:
    """Raises BusyError where the lease was taken over."""
    if time.monotonic() - lease.touched >= RENEW_EVERY:
        lease.touch()


def work_on_next(lease: HeldLease, check: Callable[[], None] = lambda: None) -> bool:
    """Work on what is under way and oldest, to its end. False where there is nothing.

    Raises BusyError where the lease was taken over, and what `check` raises, which is called about once a second.
    """

    def alive() -> None:
        check()
        renew(lease)

    job = _next(alive)
    if job is None:
        return False
    asyncio.run(_work(job))
    return True


def _next(alive: Callable[[], None]) -> Job | None:
    """What waits longest."""
    waiting: tuple[tuple[Any, type[Any]], ...] = (
        (Run.objects.under_way().select_related("owner", "version"), Worker),
        (Parity.objects.under_way().select_related("owner", "version"), ParityWorker),
        (Duel.objects.under_way().select_related("run__owner"), Judging),
    )
    found = [(row, kind) for rows, kind in waiting if (row := rows.order_by("pk").first()) is not None]
    if not found:
        return None
    row, kind = min(found, key=lambda one: one[0].created_at)
    job: Job = kind(row, alive)
    return job


async def _work(job: Job) -> None:
    async with LentThreads():
        await job.work()


_queue: Queue | None = None


def start(between: Between = lambda alive: None) -> Queue:
    """The one queue of this process."""
    global _queue
    if _queue is None:
        _queue = Queue(between)
        _queue.start()
    return _queue


def wake() -> None:
    if _queue is not None:
        _queue.wake()
