"""Where one answer's time went, from the events of its request. Plain bookkeeping, fed on the engine's I/O thread."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from .figures import bucket_of

# What an answer can wait for, in the order in which it does, and the answer itself.
STAGES = ("door", "start", "base", "memory", "adapter", "queue", "prompt", "answer")
MOST_SPANS = 64
WAITING = {
    "loading_base": "base",
    "other_base": "base",
    "loading_adapter": "adapter",
    "memory": "memory",
    "batch_full": "queue",
}


class RequestTrace:
    """Seconds by stage: at the "door" before the engine had it, "start" of the engine's process, "base" and "adapter"
    being loaded, "memory" that others hold, "queue" for a place in the batch, "prompt" being read, "answer" being
    written. `gaps`: how many tokens came how many seconds after the one before, by bucket.

    `waited_since`: when it began to wait for answers of the same request to end, after it was asked."""

    def __init__(self, now: float, waited_since: float | None = None) -> None:
        self.asked = now
        self.spans: list[tuple[str, float, float]] = []  # each from and until so many seconds after it was asked
        self.gaps: Counter[int] = Counter()
        self.gap_seconds = 0.0
        self.first: float | None = None  # token
        self.ended: float | None = None
        self.told: float | None = None  # when the first token was handed out
        self._stage = "door"
        self._since = self._last = now
        self._tokens = 0
        if waited_since is not None:
            self._enter("queue", waited_since)

    def seen(self, event: Mapping[str, Any], started: bool, now: float) -> None:
        """`started`: whether the engine's process runs."""
        kind = event["type"]
        if self.ended is not None:
            return  # it was closed on another thread
        if kind == "token":
            self._token(event["tokens"], now)
        elif kind == "queued" and self.first is None:
            self._enter(WAITING.get(event["reason"], "queue"), now)
        elif kind == "loading" and self.first is None:
            stage = event["stage"]
            starting = stage == "starting" and not started
            self._enter("start" if starting else "adapter" if stage == "adapter" else "base", now)
        elif kind in ("done", "error"):
            self.end(now, event.get("timings"))

    def end(self, now: float, timings: Mapping[str, float] | None = None) -> None:
        """Safe to repeat. `timings`: the engine's, which alone knows when a place in the batch was given."""
        if self.ended is not None:
            return
        self._enter("answer", now)
        self.ended = now
        if timings is not None:
            self._split(max(0.0, timings["ttft"] - timings["queue"]))

    def close(self, now: float) -> None:
        """Its end was handed out, or nobody waits for it any more: what passed until then counts as well."""
        self.end(now)
        if self.spans:
            stage, since, until = self.spans[-1]
            self.spans[-1] = stage, since, max(until, now - self.asked)

    @property
    def stages(self) -> dict[str, float]:
        """Seconds by stage."""
        found: defaultdict[str, float] = defaultdict(float)
        for stage, since, until in self.spans:
            found[stage] += until - since
        return dict(found)

    def _enter(self, stage: str, now: float) -> None:
        since, until = self._since - self.asked, now - self.asked
        if until <= since:
            pass
        elif self.spans and self.spans[-1][0] == self._stage:
            self.spans[-1] = self._stage, self.spans[-1][1], until
        elif len(self.spans) < MOST_SPANS:
            self.spans.append((self._stage, since, until))
        else:  # it goes to and fro: the last one takes the rest
            self.spans[-1] = self.spans[-1][0], self.spans[-1][1], until
        self._stage, self._since = stage, now

    def _split(self, prompt: float) -> None:
        """The last `prompt` seconds before the first token were no waiting."""
        at = next((at for at in reversed(range(len(self.spans))) if self.spans[at][0] != "answer"), None)
        if at is not None:
            stage, since, until = self.spans[at]
            middle = max(since, until - prompt)
            parts = [(stage, since, middle), ("prompt", middle, until)]
            self.spans[at : at + 1] = [part for part in parts if part[1] < part[2]]

    def _token(self, tokens: int, now: float) -> None:
        if self.first is None:
            self.first = now
            self._enter("answer", now)
        elif tokens > self._tokens:
            count = tokens - self._tokens
            self.gaps[bucket_of((now - self._last) / count)] += count
            self.gap_seconds += now - self._last
        self._last, self._tokens = now, tokens
