"""Delivery of one request's events from the engine's I/O thread to the event loop that waits for them."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable

from inference.engine.protocol import Token, Usage

from .interface import Event, failure, is_final

MERGE_ABOVE = 64  # token pieces that wait before new ones are joined to the last
MAX_WAITING_CHARS = 512 * 1024


class Stream:
    """The events of one request, in order: an async iterator that ends after the final event.

    Belongs to the event loop that made it. Leaving the context (or garbage) cancels a request that still runs. A
    reader that is slower than the model costs bounded memory: beyond `MERGE_ABOVE` waiting pieces new text joins
    the last one, beyond `MAX_WAITING_CHARS` the request is cancelled and ends with the error `slow_reader`.
    """

    def __init__(
        self,
        request_id: str,
        cancel: Callable[[str], None],
        prompt_estimate: int = 0,
        wake: asyncio.Event | None = None,
    ) -> None:
        """`prompt_estimate`: tokens. `wake`, which streams may share, is set when there is something to take."""
        self.id = request_id
        self._prompt_estimate = prompt_estimate
        self._cancel = cancel
        self._lock = threading.Lock()
        self._events: deque[Event] = deque()
        self._wake = wake or asyncio.Event()
        self._waking = False
        self._chars = 0
        self._pieces = 0  # token events in the buffer
        self._index = 0
        self._closed = False  # the final event is in the buffer, nothing more is accepted
        self._ended = False  # the final event was read
        self._cancelled = False
        self._tokens = 0
        self._told = 0  # tokens of the prompt whose probabilities were read
        self._usage: Usage | None = None
        self._loop = asyncio.get_running_loop()

    # On the engine's I/O thread

    def deliver(self, event: Event) -> bool:
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

    def _add(self, event: Event) -> None:
        self._closed = is_final(event)
        last = self._events[-1] if self._events else None
        if event["type"] == "token":
            self._chars += weight(event)
            if self._chars > MAX_WAITING_CHARS:
                self._cancel(self.id)
                self._closed = True
                event = failure(self.id, "slow_reader")
            elif self._pieces >= MERGE_ABOVE and last is not None and last["type"] == "token":
                merge(last, event)
                return
            else:
                self._pieces += 1
        elif event["type"] in ("queued", "loading"):
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

    async def __anext__(self) -> Event:
        while not self._ended:
            self._wake.clear()
            event = self.take()
            if event is not None:
                return event
            await self._wake.wait()
        raise StopAsyncIteration

    def take(self) -> Event | None:
        """The next event, if there is one already."""
        with self._lock:
            if not self._events:
                return None
            event = self._events.popleft()
            if event["type"] == "token":
                self._pieces -= 1
                self._chars -= weight(event)
                self._tokens = event["tokens"]
                event["index"] = self._index  # pieces that were merged leave no gap
                self._index += 1
            elif event["type"] == "prompt":
                self._told += len(event["logprobs"])
            elif is_final(event):
                self._ended = True
                self._usage = event["usage"] if event["type"] == "done" else None
            return event

    @property
    def usage(self) -> Usage:
        """What the request has used; of one that was cut, the prompt (estimated) and the tokens that were read, or what
        was told of the prompt."""
        if self._usage is not None:
            return self._usage
        prompt = self._prompt_estimate if self._tokens else self._told
        return {"prompt_tokens": prompt, "completion_tokens": self._tokens, "cached_tokens": 0}

    def cancel(self) -> None:
        """Ask for the end; the stream still yields what was there, and `done` with reason `cancelled`."""
        if not self._cancelled and not self._closed:
            self._cancelled = True
            self._cancel(self.id)

    async def final(self) -> Event:
        """Skip to the final event."""
        async for event in self:
            if is_final(event):
                return event
        raise RuntimeError("the stream was already read to its end")

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self.cancel()

    def __del__(self) -> None:
        self.cancel()


def weight(event: Token) -> int:
    """Roughly the characters that an event holds in memory."""
    extra = sum(48 * (1 + len(item.get("top", ()))) for item in event.get("logprobs") or ())
    return len(event["text"]) + 16 + extra


def merge(last: Token, event: Token) -> None:
    last["text"] += event["text"]
    last["tokens"] = event["tokens"]
    if event.get("logprobs"):
        last.setdefault("logprobs", []).extend(event["logprobs"])
