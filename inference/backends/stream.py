"""Delivery of one request's events from the engine's I/O thread to the event loop that waits for them."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

FINAL = frozenset({"done", "error", "reply"})
MERGE_ABOVE = 64  # token pieces that wait before new ones are joined to the last
MAX_WAITING_CHARS = 512 * 1024


def is_final(event: dict[str, Any]) -> bool:
    """Whether nothing follows `event` for its request."""
    return event["type"] in FINAL


class Stream:
    """The events of one request, in order: an async iterator that ends after the final event.

    Belongs to the event loop that made it. Leaving the context (or garbage) cancels a request that still runs. A
    reader that is slower than the model costs bounded memory: beyond `MERGE_ABOVE` waiting pieces new text joins
    the last one, beyond `MAX_WAITING_CHARS` the request is cancelled and ends with the error `slow_reader`.
    """

    def __init__(self, request_id: str, cancel: Callable[[str], None], prompt_estimate: int = 0) -> None:
        self.id = request_id
        self.prompt_estimate = prompt_estimate  # tokens
        self._cancel = cancel
        self._lock = threading.Lock()
        self._events: deque[dict[str, Any]] = deque()
        self._wake = asyncio.Event()
        self._waking = False
        self._chars = 0
        self._pieces = 0  # token events in the buffer
        self._index = 0
        self._closed = False  # the final event is in the buffer, nothing more is accepted
        self._ended = False  # the final event was read
        self._cancelled = False
        self._tokens = 0
        self._usage: dict[str, int] | None = None
        self._loop = asyncio.get_running_loop()

    # On the engine's I/O thread

    def deliver(self, event: dict[str, Any]) -> bool:
        """Take an event over; false when the loop is gone and the request should be cancelled."""
        with self._lock:
            if self._closed:
                return True
            self._add(event)
            if self._waking:
                return True
            self._waking = True
        try:
            self._loop.call_soon_threadsafe(self._awake)
        except RuntimeError:  # the loop was closed under the request
            self._closed = True
            return False
        return True

    def _add(self, event: dict[str, Any]) -> None:
        self._closed = is_final(event)
        if event["type"] == "token":
            self._chars += weight(event)
            if self._chars > MAX_WAITING_CHARS:
                self._cancel(self.id)
                self._closed = True
                event = {"type": "error", "id": self.id, "code": "slow_reader", "message": "", "param": None}
                event["detail"] = {}
            elif self._pieces >= MERGE_ABOVE and self._events[-1]["type"] == "token":
                merge(self._events[-1], event)
                return
            else:
                self._pieces += 1
        elif event["type"] in ("queued", "loading"):
            last = self._events[-1] if self._events else None
            if last and last["type"] == event["type"] and last.get("stage") == event.get("stage"):
                self._events.pop()  # only the newest position and progress matter
        self._events.append(event)

    # On the event loop

    def _awake(self) -> None:
        with self._lock:
            self._waking = False
        self._wake.set()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> dict[str, Any]:
        if self._ended:
            raise StopAsyncIteration
        while True:
            with self._lock:
                if self._events:
                    return self._take(self._events.popleft())
                self._wake.clear()
            await self._wake.wait()

    def _take(self, event: dict[str, Any]) -> dict[str, Any]:
        if event["type"] == "token":
            self._pieces -= 1
            self._chars -= weight(event)
            self._tokens = event["tokens"]
            event["index"] = self._index  # pieces that were merged leave no gap
            self._index += 1
        elif is_final(event):
            self._ended = True
            self._usage = event.get("usage")
        return event

    @property
    def usage(self) -> dict[str, int]:
        """What the request has used; of one that was cut, the prompt (estimated) and the tokens that were read."""
        if self._usage is not None:
            return self._usage
        prompt = self.prompt_estimate if self._tokens else 0
        return {"prompt_tokens": prompt, "completion_tokens": self._tokens, "cached_tokens": 0}

    async def cancel(self) -> None:
        """Ask for the end; the stream still yields what was there, and `done` with reason `cancelled`."""
        self.cancel_nowait()

    def cancel_nowait(self) -> None:
        if not self._cancelled and not self._closed:
            self._cancelled = True
            self._cancel(self.id)

    async def final(self) -> dict[str, Any]:
        """Skip to the final event."""
        async for event in self:
            if is_final(event):
                return event
        raise RuntimeError("the stream was already read to its end")

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel_nowait()

    def __del__(self) -> None:
        self.cancel_nowait()


def weight(event: dict[str, Any]) -> int:
    """Roughly the characters that an event holds in memory."""
    extra = sum(48 * (1 + len(item.get("top", ()))) for item in event.get("logprobs") or ())
    return len(event["text"]) + 16 + extra


def merge(last: dict[str, Any], event: dict[str, Any]) -> None:
    last["text"] += event["text"]
    last["tokens"] = event["tokens"]
    if event.get("logprobs"):
        last.setdefault("logprobs", []).extend(event["logprobs"])
