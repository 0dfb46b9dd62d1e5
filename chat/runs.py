"""Answers that are being written. They outlive the connection that asked: a reload follows them on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

from channels.db import database_sync_to_async
from django.conf import settings
from django.db import DatabaseError
from django.http import Http404
from django.utils import translation

from accounts.access import Grant, watched
from common.api import ApiError
from inference.backends.stream import Stream
from inference.engine.protocol import Params
from inference.errors import InferenceError, api_error
from inference.gateway.targets import Target, resolve
from inference.manager import Request, get_manager
from inference.quota.limits import admit

from .flows import asked_to_stop, save_end, save_progress
from .models import State

logger = logging.getLogger(__name__)

SAVE_EVERY = 3.0  # seconds
LOOK_EVERY = 1.0  # seconds between looks for a stop that another process was asked for
GRACE = 30.0  # seconds that an answer goes on without a reader
SAVE_ATTEMPTS = 20

running: dict[int, Run] = {}  # by the message's id; of this process's event loop


class Run:
    """One answer. Readers wait on events of their own; each reads `text`, `progress` and `ended` when woken."""

    def __init__(
        self, message_id: int, target: str, prompt: list[dict[str, str]], params: Params, grant: Grant, language: str
    ) -> None:
        self.message_id = message_id
        self.target = target
        self.prompt = prompt
        self.params = params
        self.grant = grant
        self.language = language
        self.continues = bool(prompt) and prompt[-1]["role"] == "assistant"
        self.text = prompt[-1]["content"] if self.continues else ""
        self.progress: dict[str, Any] | None = None
        self.progress_at = 0.0
        self.state: str = State.RUNNING
        self.digest = ""
        self.info: dict[str, Any] = {}
        self.error: ApiError | None = None
        self.ended = False
        self._stream: Stream | None = None
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
                loop = asyncio.get_running_loop()
                self._abandoned = loop.call_later(GRACE, lambda: loop.create_task(self.stop()))

    def progress_now(self) -> dict[str, Any]:
        """`progress` for somebody who hears it now: what was expected then has come nearer."""
        now = dict(self.progress or {})
        if "expected" in now:
            now["expected"] -= round(time.monotonic() - self.progress_at)
            if now["expected"] < 1:
                del now["expected"]
        return now

    async def stop(self) -> None:
        self._stopped = True
        if self._stream is not None:
            await self._stream.cancel()

    def _on_withdrawn(self) -> None:
        self._stopped = True
        if self._stream is not None:
            self._stream.cancel_nowait()

    def _tell(self) -> None:
        for event in self._readers:
            event.set()

    async def _run(self) -> None:
        keeping = asyncio.create_task(self._keep())
        try:
            with translation.override(self.language):
                async with watched(self.grant, self._on_withdrawn):
                    await self._answer()
        except ApiError as error:
            self._fail(error)
        except InferenceError as error:
            with translation.override(self.language):
                self._fail(api_error(error, name=self.target))
        except asyncio.CancelledError:
            self.state = State.STOPPED
            raise
        except Exception as error:  # noqa: BLE001  (nobody awaits this task: the log must know)
            if not isinstance(error, Http404):
                logger.exception("an answer of a conversation failed")
            with translation.override(self.language):
                self._fail(api_error(InferenceError("server_error")))
        finally:
            keeping.cancel()
            await asyncio.shield(self._end())

    def _fail(self, error: ApiError) -> None:
        self.state = State.FAILED
        self.error = error
        self.info["error"] = {"code": error.code, "message": error.message, "param": error.param}

    async def _answer(self) -> None:
        target = await resolve(self.target)
        messages = await self._fit(target)
        request = Request(
            user=f"user:{self.grant.user_id}",
            base=target.base,
            adapter=target.adapter,
            messages=messages,
            params=self.params,
            continue_last=self.continues,
        )
        async with await admit(self.grant, target.slug, target.digest, self.params) as ticket:
            async with await get_manager().generate(request) as stream:
                self._stream = stream
                try:
                    if self._stopped:
                        await stream.cancel()
                    async for event in stream:
                        await self._take(event)
                finally:
                    ticket.end(0, stream.usage)

    async def _take(self, event: Mapping[str, Any]) -> None:
        kind = event["type"]
        if kind == "error":
            raise InferenceError.from_event(event)
        if kind == "token":
            self.text += event["text"]
            self.progress = None
        elif kind == "done":
            self.digest = event["digest"]
            self.info |= {key: event[key] for key in ("finish_reason", "usage", "timings", "stop") if key in event}
            self.state = State.STOPPED if event["finish_reason"] == "cancelled" else State.DONE
        else:
            self.progress = {key: value for key, value in event.items() if key not in ("id", "type")} | {"kind": kind}
            self.progress_at = time.monotonic()
        self._tell()

    async def _keep(self) -> None:
        """Beside the answer, also while it waits: show other processes that it lives, and hear a stop from them."""
        saved = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_EVERY)
            with contextlib.suppress(DatabaseError):  # tokens keep flowing; the end is saved in any case
                if time.monotonic() - saved >= SAVE_EVERY:
                    await database_sync_to_async(save_progress)(self.message_id, self.text)
                    saved = time.monotonic()
                if not self._stopped and await database_sync_to_async(asked_to_stop)(self.message_id):
                    await self.stop()

    async def _fit(self, target: Target) -> list[dict[str, str]]:
        """The prompt without the oldest turns that do not fit; how many these are is reported."""
        system = [turn for turn in self.prompt[:1] if turn["role"] == "system"]
        turns = self.prompt[len(system) :]
        if len(turns) <= 1:
            return self.prompt
        if get_manager().backend.state != "ready":  # counting starts it, and says nothing meanwhile
            await self._take({"type": "loading", "stage": "starting", "progress": 0.0, "name": target.base["name"]})
        room = self.params.get("max_tokens", 256)
        tokens, context = await get_manager().count_tokens(target.base, self.prompt)
        limit = min(context, settings.ENGINE_MAX_CONTEXT) - room
        if tokens <= limit:
            return self.prompt
        starts = [index for index, turn in enumerate(turns) if turn["role"] == "user" and index]
        low, high = 0, len(starts) - 1
        while low < high:  # the fewest turns to leave out; a prompt only gets shorter with them
            middle = (low + high) // 2
            tokens, _context = await get_manager().count_tokens(target.base, system + turns[starts[middle] :])
            low, high = (low, middle) if tokens <= limit else (middle + 1, high)
        if not starts:
            return self.prompt
        self.info["trimmed"] = starts[low]
        self._tell()
        return system + turns[starts[low] :]

    async def _end(self) -> None:
        if self.state == State.RUNNING:
            self.state = State.STOPPED
        for _attempt in range(SAVE_ATTEMPTS):
            try:
                await database_sync_to_async(save_end)(self.message_id, self.text, self.state, self.digest, self.info)
                break
            except DatabaseError as error:
                logger.warning("an answer cannot be saved yet: %s", error.__class__.__name__)
                await asyncio.sleep(1)
        else:
            self.info["unsaved"] = True
        if self._abandoned is not None:
            self._abandoned.cancel()
        self.ended = True
        running.pop(self.message_id, None)
        self._tell()
