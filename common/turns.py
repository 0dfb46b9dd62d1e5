"""Heavy work of requests, one after the other: an import or export of thousands of rows keeps the interpreter busy.

Each person has a queue, and the queues take turns: whoever comes with thirty waits for those of others as they for one
of theirs. A process has one of these; that requests of other processes write too is the database's matter.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from functools import wraps
from typing import Any

from django.utils.translation import gettext as _

from .api import ApiError

EACH = 30  # of one person, running and waiting
ALL = 60  # a request that waits holds its thread and its body
PATIENCE = 30.0  # seconds; proxies and clients give up after a minute
RETRY_AFTER = 5.0


class Turns:
    def __init__(self, each: int = EACH, most: int = ALL, patience: float = PATIENCE) -> None:
        self.each = each
        self.most = most
        self.patience = patience
        self._lock = threading.Lock()
        self._running = False
        self._counts: Counter[Hashable] = Counter()
        self._queues: OrderedDict[Hashable, deque[threading.Event]] = OrderedDict()  # of those who wait; next one first

    @contextlib.contextmanager
    def turn(self, person: Hashable) -> Iterator[None]:
        """Wait for a turn and hold it. Raises ApiError 503: too many wait, or the wait was too long."""
        mine = self._join(person)
        if not mine.wait(self.patience) and self._leave(person, mine):
            raise _full()
        try:
            yield
        finally:
            self._end(person)

    def _join(self, person: Hashable) -> threading.Event:
        with self._lock:
            if self._counts[person] >= self.each or self._counts.total() >= self.most:
                raise _full()
            self._counts[person] += 1
            mine = threading.Event()
            if self._running:
                self._queues.setdefault(person, deque()).append(mine)
            else:
                self._running = True
                mine.set()
            return mine

    def _leave(self, person: Hashable, mine: threading.Event) -> bool:
        """Wait no longer; false where the turn has come in this moment."""
        with self._lock:
            if mine.is_set():
                return False
            self._queues[person].remove(mine)
            if not self._queues[person]:
                del self._queues[person]
            self._uncount(person)
            return True

    def _end(self, person: Hashable) -> None:
        with self._lock:
            self._uncount(person)
            if not self._queues:
                self._running = False
                return
            following, queue = self._queues.popitem(last=False)
            queue.popleft().set()
            if queue:
                self._queues[following] = queue  # behind everybody else

    def _uncount(self, person: Hashable) -> None:
        self._counts[person] -= 1
        if not self._counts[person]:
            del self._counts[person]


def _full() -> ApiError:
    message = _("Too many requests are waiting. Try again in a moment.")
    return ApiError("queue_full", message, 503, retry_after=RETRY_AFTER)


turns = Turns()


def heavy(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a DRF view that waits for its turn, before its body is parsed. Raises ApiError 503."""

    @wraps(method)
    def in_turn(view: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        with turns.turn(request.user.pk):
            return method(view, request, *args, **kwargs)

    return in_turn
