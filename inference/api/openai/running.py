"""The answers of one request side by side: every choice a request to the engine of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from accounts.access import Grant, watcher
from inference.backends.stream import is_final
from inference.errors import InferenceError
from inference.manager import Request, get_manager
from inference.quota.limits import Ticket

logger = logging.getLogger(__name__)

Event = dict[str, Any]
Item = tuple[int, Event]
NOTHING = {"prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0}
AHEAD = 16  # events that wait for the reader beyond what the streams hold themselves


class Run:
    """Events of all choices as they come: `(choice, event)`. Ends with the last choice, or raises InferenceError.

    Takes over `ticket`, which has one part for each request; its slots are free before the last end is sent. `close`
    (or garbage) cancels what still runs. Access that is withdrawn ends it with `revoked`.
    """

    def __init__(self, requests: Sequence[Request], grant: Grant, ticket: Ticket) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Item] = asyncio.Queue(AHEAD)
        self._tasks = [
            self._loop.create_task(pump(choice, request, self._queue, ticket))
            for choice, request in enumerate(requests)
        ]
        for choice, task in enumerate(self._tasks):  # counted already, except where there was no stream
            task.add_done_callback(partial(ended, ticket, choice))
        self._open = len(requests)
        self._peeked: list[Item] = []
        queue, tasks = self._queue, self._tasks
        self._watcher = watcher()
        self._watch = self._watcher.add(grant, lambda: withdraw(queue, tasks))

    async def next(self, silence: float | None = None) -> Item | None:
        """The next event; None at the end. Raises TimeoutError after `silence` seconds, and InferenceError."""
        if self._peeked:
            return self._peeked.pop(0)
        if self._open == 0:
            return None
        async with asyncio.timeout(silence):
            choice, event = await self._queue.get()
        if event["type"] == "error":
            raise InferenceError.from_event(event)
        self._open -= is_final(event)
        return choice, event

    async def begin(self, patience: float) -> None:
        """Wait for the first sign of an answer, at most `patience` seconds while a model loads.

        Raises InferenceError where the request fails at once, so that it can still become an HTTP status.
        """
        seen: list[Item] = []
        try:
            async with asyncio.timeout(patience):
                while not seen or seen[-1][1]["type"] in ("queued", "loading"):
                    item = await self.next()
                    if item is None:
                        break
                    seen.append(item)
        except TimeoutError:
            pass
        self._peeked = seen

    def close(self) -> None:
        """Cancel what still runs. Safe to repeat."""
        self._watcher.remove(self._watch)
        for task in self._tasks:
            task.cancel()

    def __del__(self) -> None:
        # A response whose client left before it began is only ever dropped.
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._watcher.remove, self._watch)
        for task in self._tasks:
            self._loop.call_soon_threadsafe(task.cancel)


async def pump(choice: int, request: Request, queue: asyncio.Queue[Item], ticket: Ticket) -> None:
    try:
        async with await get_manager().generate(request) as stream:
            try:
                async for event in stream:
                    if is_final(event):
                        ticket.end(choice, stream.usage)
                        await ticket.freed()
                    await queue.put((choice, event))
            finally:
                ticket.end(choice, stream.usage)
    except Exception:  # noqa: BLE001  (whoever waits for this choice must hear)
        logger.exception("an answer failed")
        await queue.put((choice, InferenceError("server_error").event("")))


def ended(ticket: Ticket, choice: int, _task: asyncio.Task[None]) -> None:
    ticket.end(choice, NOTHING)


def withdraw(queue: asyncio.Queue[Item], tasks: Sequence[asyncio.Task[None]]) -> None:
    """Replace what waits for the reader by the news that access was withdrawn."""
    for task in tasks:
        task.cancel()
    while not queue.empty():
        queue.get_nowait()
    queue.put_nowait((0, InferenceError("revoked").event("")))
