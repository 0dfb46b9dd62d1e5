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
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence

from accounts.access import watcher
from accounts.grants import Grant
from inference.backends.interface import Event, Loading, Queued, Reading, is_final
from inference.backends.stream import Stream
from inference.engine.protocol import Usage
from inference.errors import InferenceError, api_error
from inference.manager import ModelManager, PartialAnswer, WholeAnswer, get_manager
from inference.measuring import refusals
from inference.quota.limits import LimitError, Ticket, admit

from .outcome import ENGINES_OWN, Outcome, Question

__all__ = ["WholeAnswer", "Asking", "Event", "Loading", "Queued", "Question", "Reading", "answer", "ask"]

Item = tuple[int, Event]  # the number of the question, and what became of it
AT_ONCE = 8  # answers of one request that run together; each of the others begins when one has ended
NOTHING: Usage = {"prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0}


async def ask(
    grant: Grant, questions: Sequence[Question], on_withdrawn: Callable[[], None] | None = None, bounded: bool = False,
    manager: ModelManager | None = None,
) -> Asking:  # fmt: skip
    """Ask one model these questions. Raises LimitError where the account's limits forbid it.

    Access that is withdrawn ends everything with the error `revoked`, unless `on_withdrawn` is there to be called.
    `bounded`: as `limits_of` takes it. `manager`: of another engine than the portal's own (`apart.py`).
    """
    target = questions[0].target
    tokens = sum(question.most for question in questions)
    outcome = Outcome(grant, questions)
    try:
        at_once = min(len(questions), AT_ONCE)
        ticket = await admit(grant, target.slug, target.digest, at_once, tokens, bounded)
    except LimitError as refusal:
        outcome.failed(refusal)
        raise
    ticket.parts = len(questions)
    ticket.record.members = tuple(part.digest for part in target.recipe)
    asking = Asking(grant, questions, ticket, outcome, on_withdrawn, manager or get_manager())
    try:
        await asking.begin_next()
    except BaseException as error:
        asking.close(error)
        raise
    return asking


async def answer(
    grant: Grant, question: Question, bounded: bool = False, manager: ModelManager | None = None
) -> WholeAnswer:
    """The whole answer to one question. `bounded`, `manager`: as `ask` takes them. Raises ApiError."""
    async with await ask(grant, [question], bounded=bounded, manager=manager) as asking:
        return (await asking.answers())[0]


class Asking:
    """The events of all questions as they come, `(number, event)`, up to the last one's `done`.

    Iterating raises ApiError for the first that fails, and whatever cancels the task that waits loses no event. Whoever
    has an end has the place that it took: it is free before the event is handed out. Belongs to one event loop.
    """

    def __init__(
        self, grant: Grant, questions: Sequence[Question], ticket: Ticket, outcome: Outcome,
        on_withdrawn: Callable[[], None] | None, manager: ModelManager,
    ) -> None:  # fmt: skip
        self.questions = questions
        self._manager = manager
        self._outcome = outcome
        self._full_since: float | None = None  # as many ran together as may
        self._user = f"user:{grant.user_id}"
        self._ticket = ticket
        self._streams: list[Stream] = []
        self._live: deque[int] = deque()  # whose end was not taken, in the order in which they are looked at
        self._wake = asyncio.Event()
        self._next: Item | None = None  # taken, and not handed out yet
        self._peeked: deque[Item] = deque()
        self._revoked = self._stopped = False
        self._loop = asyncio.get_running_loop()
        self._watcher = watcher()
        # The watcher must not keep alive what nobody reads.
        ref = weakref.ref(self)
        self._watch: object | None = self._watcher.add(grant, on_withdrawn or (lambda: revoke(ref())))

    @property
    def headers(self) -> dict[str, str]:
        """`x-ratelimit-*`, of whichever limit has least left."""
        return self._ticket.headers

    async def begin_next(self) -> None:
        """Ask the next questions, as many as may run together."""
        while len(self._live) < AT_ONCE and len(self._streams) < len(self.questions) and not self._stopped:
            index = len(self._streams)
            question = self.questions[index]
            request = question.request(self._user)
            trace = self._outcome.begin(self._full_since)
            self._streams.append(await self._manager.generate(request, self._wake, trace))
            self._live.append(index)
        if self._full_since is None:
            self._full_since = time.monotonic()

    async def begin(self, patience: float) -> None:
        """Wait for the first sign of an answer, at most `patience` seconds while a model loads.

        Raises ApiError where it fails at once, so that this can still become an HTTP status; then it is closed.
        """
        seen: list[Item] = []
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    while not seen or seen[-1][1]["type"] in ("queued", "loading"):
                        seen.append(await self._take_next())
        except BaseException as error:
            self.close(error)
            raise
        self._peeked.extend(seen)

    def __aiter__(self) -> Asking:
        return self

    async def __anext__(self) -> Item:
        index, event = self._peeked.popleft() if self._peeked else await self._take_next()
        if event["type"] == "token":
            self._outcome.token(index, event)
        return index, event

    async def _take_next(self) -> Item:
        while self._next is None:
            if self._revoked:
                raise self._counted(InferenceError("revoked"))
            if not self._live:
                raise StopAsyncIteration
            self._wake.clear()
            self._next = self._take()
            if self._next is None:
                await self._wake.wait()
        index, event = self._next
        if is_final(event):
            self._outcome.ended(index)
        if event["type"] == "error":
            code = event["code"]
            self._post("error", code, str(event["detail"].get("reason", "")) if code in ENGINES_OWN else "")
            self.close()
        if is_final(event):
            self._ticket.end(index, self._streams[index].usage)
            await self.begin_next()
            await self._ticket.freed()
            if event["type"] == "done" and not self._live:
                self._post(event["finish_reason"])
        self._next = None
        if event["type"] == "error":
            question = self.questions[index]
            error = InferenceError.from_event(event)
            raise self._counted(api_error(error, question.messages is None, question.target.name))
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

    async def answers(self) -> list[WholeAnswer]:
        """The whole answers, in the questions' order. Raises ApiError."""
        gathering = [PartialAnswer() for _question in self.questions]
        found: dict[int, WholeAnswer] = {}
        async for index, event in self:
            whole = gathering[index].add(event)
            if whole is not None:
                found[index] = whole
        return [found[index] for index in sorted(found)]

    def stop(self) -> None:
        """Ask for the end: what was there still comes, then `done` with reason `cancelled`, of those that run."""
        self._stopped = True
        for stream in self._streams:
            stream.cancel()

    def close(self, error: BaseException | None = None) -> None:
        """Cancel what still runs and settle. Never blocks; safe to repeat, and from any thread.

        `error`: that ended it. Who only leaves, as a task that is cancelled does, is no failure.
        """
        if isinstance(error, Exception):
            self._outcome.failed(error, self._usages)
        else:
            self._post("cancelled")  # where it has not ended by itself
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
        self._post("error", "revoked")
        self.close()
        self._wake.set()

    @property
    def _usages(self) -> list[Usage]:
        return [stream.usage for stream in self._streams]

    def _post(self, reason: str, code: str = "", detail: str = "") -> None:
        self._outcome.post(reason, self._usages, code, detail)

    def _counted(self, error: InferenceError) -> InferenceError:
        refusals.settle(error)
        return error

    async def __aenter__(self) -> Asking:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, *_trace: object) -> None:
        self.close(error)
        if kind is None or issubclass(kind, Exception):  # else whoever asked has left
            await self._ticket.freed()

    def __del__(self) -> None:
        self.close()  # an answer whose reader left before it began is only ever dropped


def revoke(asking: Asking | None) -> None:
    if asking is not None:
        asking.revoke()
