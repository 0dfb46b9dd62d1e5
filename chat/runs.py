"""Answers that are being written. They outlive the connection that asked: a reload follows them on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from channels.db import database_sync_to_async
from django.db import DatabaseError
from django.utils import translation

from accounts.grants import Grant
from common.api import ApiError, unforeseen
from inference.engine.params import SamplingParams
from inference.gateway.asking import Asking, Event, Question, ask
from inference.gateway.operating import count
from inference.gateway.targets import Target, resolve
from inference.measuring import refusals

from .flows import save_end
from .keeping import keeper
from .models import Message, State

logger = logging.getLogger(__name__)

GRACE = 30.0  # seconds that an answer goes on without a reader
SAVE_ATTEMPTS = 20
SAVE_AGAIN = 1.0  # seconds between them

running: dict[int, Run] = {}  # by the message's id; of this process's event loop


class Run:
    """One answer. Readers wait on events of their own; each reads `text`, `progress` and `ended` when woken."""

    def __init__(
        self,
        message: Message,
        prompt: list[dict[str, str]],
        params: SamplingParams,
        grant: Grant,
        language: str,
    ) -> None:
        self.message = message  # as it began; once `unsaved`, as it ended
        self.message_id: int = message.pk
        self.target = message.target
        self.prompt = prompt
        self.params = params
        self.grant = grant
        self.language = language
        self.continues = bool(prompt) and prompt[-1]["role"] == "assistant"
        self.text = prompt[-1]["content"] if self.continues else ""
        # Of the whole answer, so none where its beginning is older. For those who hear its end; they are not kept.
        self.logprobs: list[dict[str, Any]] = []
        self.progress: dict[str, Any] | None = None
        self.progress_at = 0.0
        self.state: str = State.RUNNING
        self.digest = ""
        # What a reader has edited stays marked when a model goes on with it
        self.info: dict[str, Any] = {"edited": True} if message.info.get("edited") else {}
        self.error: ApiError | None = None
        self.ended = False
        self.unsaved = False  # the database stayed away: nobody but `message` knows the end
        self._asking: Asking | None = None
        self._stopped = False
        self._readers: set[asyncio.Event] = set()
        self._abandoned: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        running[self.message_id] = self
        self._task = asyncio.create_task(self._run())

    @contextlib.contextmanager
    def reader(self) -> Iterator[asyncio.Event]:
        """An event that is set whenever there is news."""
        event = asyncio.Event()
        self._readers.add(event)
        if self._abandoned is not None:
            self._abandoned.cancel()
            self._abandoned = None
        try:
            yield event
        finally:
            self._readers.discard(event)
            if not self._readers and not self.ended:
                self._abandoned = asyncio.get_running_loop().call_later(GRACE, self.stop)

    def progress_now(self) -> dict[str, Any]:
        """`progress` for somebody who hears it now: what was expected then has come nearer."""
        now = dict(self.progress or {})
        if "expected" in now:
            now["expected"] -= round(time.monotonic() - self.progress_at)
            if now["expected"] < 1:
                del now["expected"]
        return now

    def stop(self) -> None:
        self._stopped = True
        if self._asking is not None:
            self._asking.stop()

    def stop_soon(self) -> None:
        """As `stop`, from another thread."""
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self.stop)

    def _tell(self) -> None:
        for event in self._readers:
            event.set()

    async def _run(self) -> None:
        keeper.keep(self)  # also while it waits: other processes see that it lives, and it hears a stop from them
        try:
            with translation.override(self.language):
                await self._answer()
        except ApiError as error:
            self._fail(error)
        except asyncio.CancelledError:
            self.state = State.STOPPED
            raise
        except Exception as error:  # noqa: BLE001  (nobody awaits this task: the log must know)
            with translation.override(self.language):
                self._fail(unforeseen(error, "an answer of a conversation"))
        finally:
            await asyncio.shield(self._end())

    def _fail(self, error: ApiError) -> None:
        refusals.count(error, self.grant.user_id)
        self.state = State.FAILED
        self.error = error
        self.info["error"] = {"code": error.code, "message": error.message, "param": error.param}

    async def _answer(self) -> None:
        question = await self._fit(await resolve(self.target))
        async with await ask(self.grant, [question], self.stop) as asking:
            self._asking = asking
            if self._stopped:
                asking.stop()
            async for _index, event in asking:
                self._take(event)

    def _take(self, event: Event) -> None:
        told: Mapping[str, Any] = event
        if not self.continues:
            self.logprobs += told.get("logprobs") or []
        if event["type"] == "token":
            self.text += event["text"]
            self.progress = None
        elif event["type"] == "done":
            self.digest = event["digest"]
            self.info |= {key: told[key] for key in ("finish_reason", "usage", "timings", "stop") if key in told}
            self.state = State.STOPPED if event["finish_reason"] == "cancelled" else State.DONE
        else:
            self.progress = {key: value for key, value in told.items() if key not in ("id", "type")}
            self.progress["kind"] = event["type"]
            self.progress_at = time.monotonic()
        self._tell()

    async def _fit(self, target: Target) -> Question:
        """The prompt without the oldest turns that do not fit; how many these are is reported."""
        system = [turn for turn in self.prompt[:1] if turn["role"] == "system"]
        turns = self.prompt[len(system) :]
        whole = Question(target, self.params, self.prompt, continue_last=self.continues)
        if len(turns) <= 1:
            return whole

        async def fits(question: Question) -> bool:
            tokens, context = await count(question, self._take)
            return tokens <= context - self.params.max_tokens

        starts = [index for index, turn in enumerate(turns) if turn["role"] == "user" and index]
        if await fits(whole) or not starts:
            return whole
        shorter = [replace(whole, messages=system + turns[start:]) for start in starts]
        low, high = 0, len(starts) - 1
        while low < high:  # the fewest turns to leave out; a prompt only gets shorter with them
            middle = (low + high) // 2
            low, high = (low, middle) if await fits(shorter[middle]) else (middle + 1, high)
        self.info["trimmed"] = starts[low]
        self._tell()
        return shorter[low]

    async def _end(self) -> None:
        if self.state == State.RUNNING:
            self.state = State.STOPPED
        try:
            await self._save_end()
        finally:
            keeper.forget(self)  # not before: until the end is saved, its text is kept
        if self._abandoned is not None:
            self._abandoned.cancel()
        self.ended = True
        running.pop(self.message_id, None)
        self._tell()

    async def _save_end(self) -> None:
        for _attempt in range(SAVE_ATTEMPTS):
            try:
                await database_sync_to_async(save_end)(self.message_id, self.text, self.state, self.digest, self.info)
                return
            except DatabaseError as error:
                logger.warning("an answer cannot be saved yet: %s", error.__class__.__name__)
                await asyncio.sleep(SAVE_AGAIN)
        self.unsaved = True
        self.info["unsaved"] = True
        self.message.content, self.message.state = self.text, self.state
        self.message.digest, self.message.info = self.digest, self.info
