"""The one way to ask: admit, stream, settle.

    async with await ask(grant, [Question(await resolve(name), params, messages)]) as asking:
        async for index, event in asking:
            ...

What is asked together goes to one model and counts as one request with as many answers. However it ends (done, error,
stop, a client that left, a task that was cancelled, garbage), the engine is told, the use is booked once, and the
places are given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from accounts.access import watcher
from accounts.grants import Grant
from inference.backends.interface import Event, Loading, Queued, Request, is_final
from inference.backends.stream import Stream
from inference.engine.params import SamplingParams
from inference.engine.protocol import Usage
from inference.errors import InferenceError, api_error
from inference.manager import Answer, Gathering, get_manager
from inference.quota.limits import Ticket, admit

from .targets import Target

__all__ = ["Answer", "Asking", "Event", "Loading", "Queued", "Question", "answer", "ask"]

Item = tuple[int, Event]  # the number of the question, and what became of it
NOTHING: Usage = {"prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0}


@dataclass(frozen=True)
class Question:
    """What one model is asked: exactly one of `messages` and `prompt`."""

    target: Target
    params: SamplingParams
    messages: list[dict[str, str]] | None = None
    prompt: str | None = None
    continue_last: bool = False  # the last message is the answer's beginning


async def ask(grant: Grant, questions: Sequence[Question], on_withdrawn: Callable[[], None] | None = None) -> Asking:
    """Ask one model these questions. Raises ApiError (429) where the account's limits forbid it.

    Access that is withdrawn ends everything with the error `revoked`, unless `on_withdrawn` is there to be called.
    """
    target = questions[0].target
    tokens = sum(question.params.max_tokens for question in questions)
    ticket = await admit(grant, target.slug, target.digest, len(questions), tokens)
    asking = Asking(grant, questions, ticket, on_withdrawn)
    try:
        await asking.start()
    except BaseException:
        asking.close()
        raise
    return asking


async def answer(grant: Grant, question: Question) -> Answer:
    """The whole answer to one question. Raises ApiError."""
    async with await ask(grant, [question]) as asking:
        return (await asking.answers())[0]


class Asking:
    """The events of all questions as they come, `(number, event)`, up to the last one's `done`.

    Iterating raises ApiError for the first that fails, and whatever cancels the task that waits loses no event. Whoever
    has an end has the place that it took: it is free before the event is handed out. Belongs to one event loop.
    """

    def __init__(
        self, grant: Grant, questions: Sequence[Question], ticket: Ticket, on_withdrawn: Callable[[], None] | None
    ) -> None:
        self.questions = questions
        self._user = f"user:{grant.user_id}"
        self._ticket = ticket
        self._streams: list[Stream] = []
        self._live: deque[int] = deque()  # whose end was not taken, in the order in which they are looked at
        self._wake = asyncio.Event()
        self._next: Item | None = None  # taken, and not handed out yet
        self._peeked: deque[Item] = deque()
        self._revoked = False
        self._loop = asyncio.get_running_loop()
        self._watcher = watcher()
        # The watcher must not keep alive what nobody reads.
        ref = weakref.ref(self)
        self._watch: object | None = self._watcher.add(grant, on_withdrawn or (lambda: revoke(ref())))

    @property
    def headers(self) -> dict[str, str]:
        """`x-ratelimit-*`, of whichever limit has least left."""
        return self._ticket.headers

    async def start(self) -> None:
        for index, question in enumerate(self.questions):
            request = Request(
                self._user,
                question.target.base,
                question.target.adapter,
                question.messages,
                question.prompt,
                question.params,
                question.continue_last,
            )
            self._streams.append(await get_manager().generate(request, self._wake))
            self._live.append(index)

    async def begin(self, patience: float) -> None:
        """Wait for the first sign of an answer, at most `patience` seconds while a model loads.

        Raises ApiError where it fails at once, so that this can still become an HTTP status; then it is closed.
        """
        seen: list[Item] = []
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    while not seen or seen[-1][1]["type"] in ("queued", "loading"):
                        seen.append(await anext(self))
        except BaseException:
            self.close()
            raise
        self._peeked.extend(seen)

    def __aiter__(self) -> Asking:
        return self

    async def __anext__(self) -> Item:
        if self._peeked:
            return self._peeked.popleft()
        while self._next is None:
            if self._revoked:
                raise InferenceError("revoked")
            if not self._live:
                raise StopAsyncIteration
            self._wake.clear()
            self._next = self._take()
            if self._next is None:
                await self._wake.wait()
        index, event = self._next
        if event["type"] == "error":
            self.close()
        if is_final(event):
            self._ticket.end(index, self._streams[index].usage)
            await self._ticket.freed()
        self._next = None
        if event["type"] == "error":
            question = self.questions[index]
            error = InferenceError.from_event(event)
            raise api_error(error, raw_prompt=question.prompt is not None, name=question.target.name)
        return index, event

    def _take(self) -> Item | None:
        for index in list(self._live):
            self._live.rotate(-1)  # each in its turn
            event = self._streams[index].take()
            if event is not None:
                if is_final(event):
                    self._live.remove(index)
                return index, event
        return None

    async def answers(self) -> list[Answer]:
        """The whole answers, in the questions' order. Raises ApiError."""
        gathering = [Gathering() for _question in self.questions]
        found: dict[int, Answer] = {}
        async for index, event in self:
            whole = gathering[index].add(event)
            if whole is not None:
                found[index] = whole
        return [found[index] for index in sorted(found)]

    def stop(self) -> None:
        """Ask for the end: what was there still comes, then `done` with reason `cancelled`."""
        for stream in self._streams:
            stream.cancel_nowait()

    def close(self) -> None:
        """Cancel what still runs and settle. Never blocks; safe to repeat, and from any thread."""
        self.stop()
        for index in range(len(self.questions)):  # what has ended is booked already
            self._ticket.end(index, self._streams[index].usage if index < len(self._streams) else NOTHING)
        self._live.clear()
        watch, self._watch = self._watch, None
        if watch is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._watcher.remove, watch)

    def revoke(self) -> None:
        """Whoever asked may not hear any more of it."""
        self._revoked = True
        self.close()
        self._wake.set()

    async def __aenter__(self) -> Asking:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_exception: object) -> None:
        self.close()
        if kind is None or issubclass(kind, Exception):  # else whoever asked has left
            await self._ticket.freed()

    def __del__(self) -> None:
        self.close()  # an answer whose reader left before it began is only ever dropped


def revoke(asking: Asking | None) -> None:
    if asking is not None:
        asking.revoke()
