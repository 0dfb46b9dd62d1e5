"""Threads for what requests and websockets ask of the database: lent for as long as there is something to do.

Asgiref starts a thread for each request and ends it with the request, and a connection to the database with it:
together a quarter of the processor time of a short call to the API. Here a thread that has nothing to do waits, with
its connection, for the next call of any request. An answer that streams for minutes or a websocket that is open for
hours holds neither.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from django.db import close_old_connections, connections

IDLE = 8  # threads that may wait, each with its connection
REST = 60.0  # seconds that one may wait: as long as settings.CONN_MAX_AGE

_T = TypeVar("_T")


class Lender:
    """Threads that wait. The one that came back last goes first, so that few of them are used."""

    def __init__(self, idle: int = IDLE, rest: float = REST, now: Callable[[], float] = time.monotonic) -> None:
        self._idle = idle
        self._rest = rest
        self._now = now
        self._lock = threading.Lock()
        self._waiting: list[tuple[float, ThreadPoolExecutor]] = []  # since when; the latest last

    def take(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._waiting:
                return self._waiting.pop()[1]
        return ThreadPoolExecutor(1, thread_name_prefix="lent")

    def give_back(self, thread: ThreadPoolExecutor) -> None:
        now = self._now()
        with self._lock:
            self._waiting.append((now, thread))
            over = max(0, len(self._waiting) - self._idle)
            ended = [
                one for number, (since, one) in enumerate(self._waiting) if number < over or since <= now - self._rest
            ]
            del self._waiting[: len(ended)]  # those that wait longest come first
        for one in ended:
            end(one, wait=False)

    def close(self) -> None:
        """End those that wait, and their connections."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for _since, one in waiting:
            end(one)


def end(thread: ThreadPoolExecutor, wait: bool = True) -> None:
    thread.submit(connections.close_all)
    thread.shutdown(wait)


class Calls(Executor):
    """Runs calls one after another, on a thread that is lent from the first of them to the last.

    Nothing that a call leaves in its thread is there for the next one: that may run on another.
    """

    def __init__(self, lender: Lender) -> None:
        self._lender = lender
        self._lock = threading.Lock()
        self._left = 0
        self._thread: ThreadPoolExecutor | None = None

    def submit(self, call: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        with self._lock:
            self._left += 1
            if self._thread is None:
                self._thread = self._lender.take()
            future = self._thread.submit(_with_sound_connections, call, *args, **kwargs)
        future.add_done_callback(self._one_less)
        return future

    @property
    def busy(self) -> bool:
        return self._left > 0

    def _one_less(self, future: Future[Any]) -> None:
        with self._lock:
            self._left -= 1
            if self._left:
                return
            thread, self._thread = self._thread, None
        if thread is not None:
            self._lender.give_back(thread)


class LentThreads(ThreadSensitiveContext):
    """`async with LentThreads():` synchronous calls within it run one after another on lent threads.

    Tasks that outlive it go on with them. Inside another such context it changes nothing.
    """

    async def __aenter__(self) -> LentThreads:
        await super().__aenter__()
        if self.token is not None:
            SyncToAsync.context_to_thread_executor[self] = Calls(lender)
        return self

    async def __aexit__(self, *error: object) -> None:
        if self.token is None:
            return
        calls = SyncToAsync.context_to_thread_executor[self]
        SyncToAsync.thread_sensitive_context.reset(self.token)
        self.token = None
        if isinstance(calls, Calls) and calls.busy:  # who asked has gone: its call ends nevertheless
            await asyncio.wrap_future(calls.submit(int))


def _with_sound_connections(call: Callable[..., _T], /, *args: Any, **kwargs: Any) -> _T:
    """What Django does at the start and the end of a request, where the connection is: on this thread."""
    close_old_connections()
    try:
        return call(*args, **kwargs)
    finally:
        close_old_connections()


lender = Lender()
