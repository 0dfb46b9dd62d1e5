"""How long until an answer begins, from how long such things took before. Plain bookkeeping: no clock, no database.

A `WaitEstimates` hears every request, every event and the time, and says nothing where it has not seen enough. Safe to
call from any thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any

ENOUGH = 3  # samples, below which nothing is said
KEPT = 20  # the newest samples of one kind
MOST_KEYS = 1024
BEGINNINGS = ("unloading", "starting")  # first stages of a base that takes its place
ENDED = frozenset({"done", "error"})

Key = tuple[str, str]  # ("start", ""), ("base", key), ("adapter", digest or its base's key), ("answer", base's key)


class Samples:
    """The newest durations of one kind, in seconds."""

    def __init__(self) -> None:
        self.values: deque[float] = deque(maxlen=KEPT)

    def left(self, elapsed: float = 0.0) -> float | None:
        """Seconds that are left on average after `elapsed`; None without history, or where it took longer than ever."""
        if len(self.values) < ENOUGH:
            return None
        longer = [value - elapsed for value in self.values if value > elapsed]
        return sum(longer) / len(longer) if longer else None


NOTHING = Samples()


@dataclass
class Waiting:
    """A request that has not ended."""

    base: str
    digest: str
    asked: float
    began: float | None = None  # its first token


class WaitEstimates:
    """`on_sample(kind, key, seconds)` hears the loads that are worth keeping beyond this process."""

    def __init__(self, patience: float = 0.0, on_sample: Callable[[str, str, float], None] | None = None) -> None:
        self.patience = patience  # longest that a busy base keeps requests for another one waiting
        self.on_sample = on_sample
        self.samples: dict[Key, Samples] = {}  # those heard of last are last
        self.under_way: dict[Key, float] = {}  # since when
        self.requests: dict[str, Waiting] = {}
        self.lock = threading.RLock()

    def remember(self, kind: str, key: str, seconds: float) -> None:
        """A duration, of this process or an earlier one."""
        with self.lock:
            samples = self.samples[kind, key] = self.samples.pop((kind, key), Samples())
            samples.values.append(seconds)
            while len(self.samples) > MOST_KEYS:
                del self.samples[next(iter(self.samples))]

    def asked(self, request_id: str, base: str, digest: str, now: float) -> None:
        """`digest`: of the adapter, "" for the base alone."""
        with self.lock:
            self.requests[request_id] = Waiting(base, digest, now)

    def gone(self, request_id: str) -> None:
        """Nobody will hear of this request's end."""
        with self.lock:
            request = self.requests.pop(request_id, None)
            if request is not None:
                self._drop_abandoned(request)

    def seen(self, event: Mapping[str, Any], started: bool, now: float) -> int | None:
        """Learn from an event; for `queued` and `loading`, the whole seconds until its answer is likely to begin.

        `started`: whether the engine's process runs, which is what comes before everything else.
        """
        with self.lock:
            request = self.requests.get(event["id"])
            if request is None:
                return None
            self._begin(event, request, started, now)
            self._end(event, request, started, now)
            left = None
            if event["type"] == "queued":
                left = self._queued(event, request, now)
            elif event["type"] == "loading":
                left = self._loading(event, request, now)
            return None if left is None else max(1, round(left))

    # Learning

    def _begin(self, event: Mapping[str, Any], request: Waiting, started: bool, now: float) -> None:
        kind, stage = event["type"], event.get("stage")
        if kind == "loading" and stage == "starting" and not started:
            self.under_way.setdefault(("start", ""), now)
        elif kind == "loading" and stage in BEGINNINGS:
            self.under_way.setdefault(("base", request.base), now)
        elif kind == "loading" and stage == "adapter":
            self.under_way.setdefault(("adapter", request.digest), now)
        elif kind == "token" and request.began is None:
            request.began = now

    def _end(self, event: Mapping[str, Any], request: Waiting, started: bool, now: float) -> None:
        kind, reason, stage = event["type"], event.get("reason"), event.get("stage")
        if started:
            self._ended(("start", ""), "", now)
        served = kind in ("prompt", "token") or reason == "batch_full"
        if served or stage == "adapter" or reason == "loading_adapter":
            self._ended(("base", request.base), request.base, now)
        if served and request.digest:
            self._ended(("adapter", request.digest), request.base, now)
        if kind in ENDED:
            self.gone(event["id"])
            if kind == "done" and request.began is not None:
                timings = event["timings"]
                self.remember("answer", request.base, timings["total"] - timings["queue"])

    def _ended(self, what: Key, kept_as: str, now: float) -> None:
        since = self.under_way.pop(what, None)
        if since is None:
            return
        kind, key = what
        for name in {key, kept_as}:
            self.remember(kind, name, now - since)
        if self.on_sample is not None:
            self.on_sample(kind, kept_as, now - since)

    def _drop_abandoned(self, request: Waiting) -> None:
        """What nobody waits for any more is not measured to its end."""
        others = self.requests.values()
        if not others:
            self.under_way.pop(("start", ""), None)
        if not any(other.base == request.base for other in others):
            self.under_way.pop(("base", request.base), None)
        if not any(other.digest == request.digest for other in others):
            self.under_way.pop(("adapter", request.digest), None)

    # Telling

    def _loading(self, event: Mapping[str, Any], request: Waiting, now: float) -> float | None:
        if event["stage"] == "adapter":
            return self._adapter(request, now)
        if ("start", "") in self.under_way:
            return total([self._left("start", "", now), self._load(request, now)])
        return self._load(request, now)

    def _queued(self, event: Mapping[str, Any], request: Waiting, now: float) -> float | None:
        reason = event["reason"]
        if reason == "loading_adapter":
            return self._adapter(request, now)
        if reason == "loading_base":
            return self._load(request, now)
        if reason == "other_base":
            return total([self._switch(request, now), self._load(request, now)])
        if reason == "batch_full":
            return self._place(request.base, event["position"], event["detail"].get("running", 0), now)
        return None

    def _known(self, kind: str, key: str) -> Samples:
        return self.samples.get((kind, key), NOTHING)

    def _left(self, kind: str, key: str, now: float) -> float | None:
        return self._known(kind, key).left(now - self.under_way.get((kind, key), now))

    def _load(self, request: Waiting, now: float) -> float | None:
        return total([self._left("base", request.base, now), self._adapter(request, now)])

    def _adapter(self, request: Waiting, now: float) -> float | None:
        """Of the adapter alone; by this very adapter's loads, else by those of any on its base."""
        if not request.digest:
            return 0.0
        elapsed = now - self.under_way.get(("adapter", request.digest), now)
        own = self._known("adapter", request.digest)
        return (own if len(own.values) >= ENOUGH else self._known("adapter", request.base)).left(elapsed)

    def _answers(self, now: float, base: str | None = None) -> list[float | None]:
        """What is left of each answer that is being written: on `base`, or on any."""
        return [
            self._answer(other.base, now - other.began)
            for other in self.requests.values()
            if other.began is not None and base in (None, other.base)
        ]

    def _answer(self, base: str, elapsed: float) -> float | None:
        """One that takes longer than any before may as well have just begun."""
        known = self._known("answer", base)
        return known.left(elapsed) or known.left()

    def _switch(self, request: Waiting, now: float) -> float | None:
        """Until the loaded base lets go: its answers end, after the patience with what still comes in."""
        writing = self._answers(now)
        if None in writing:
            return None
        patience = max(0.0, self.patience - (now - request.asked)) if writing else 0.0
        return patience + max((left for left in writing if left is not None), default=0.0)

    def _place(self, base: str, position: int, running: int, now: float) -> float | None:
        """Until a place is free for the one at `position`: places free one by one and are taken again."""
        whole = self._answer(base, 0.0)
        if whole is None or not running:
            return None
        ends = [left for left in self._answers(now, base)[:running] if left is not None]
        ends += [whole] * (running - len(ends))  # those whose first token is still to come
        heapify(ends)
        for _ahead in range(position):
            heappush(ends, heappop(ends) + whole)
        return ends[0]


def total(parts: Iterable[float | None]) -> float | None:
    """None as soon as one part is not known."""
    known = list(parts)
    return None if None in known else sum(part for part in known if part is not None)
