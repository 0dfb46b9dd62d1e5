"""One `generate` frame at work: every target an answer of its own, side by side."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from django.http import Http404
from django.utils import translation

from accounts.access import Grant
from common.api import ApiError
from inference.api.ws.flow_control import Credits, SlowReaderError
from inference.api.ws.frames import Generate, error_frame
from inference.backends.stream import Stream, is_final
from inference.errors import InferenceError, api_error
from inference.gateway.targets import resolve
from inference.manager import Request, get_manager
from inference.quota.limits import Ticket, admit

logger = logging.getLogger(__name__)

SendFrame = Callable[[Mapping[str, Any]], Awaitable[None]]
CARRIED = {
    "queued": ("position", "reason", "detail", "expected"),
    "loading": ("stage", "progress", "name", "expected"),
    "token": ("text", "index", "logprobs"),
    "done": ("finish_reason", "usage", "timings", "digest", "stop", "logprobs"),
}


class Generation:
    """Runs until every target has had its `done` or `error`. `stop` ends it; cancelling its task drops it silently."""

    def __init__(self, frame: Generate, grant: Grant, language: str, send: SendFrame) -> None:
        self.frame = frame
        self.grant = grant
        self.language = language
        self.send = send
        self.credits = {target: Credits() for target in frame.targets}
        self.streams: dict[str, Stream] = {}
        self.stopped = False
        self.open = len(frame.targets)  # answers whose end is not sent yet

    async def run(self) -> None:
        with translation.override(self.language):
            async with asyncio.TaskGroup() as group:
                for target in self.frame.targets:
                    group.create_task(self.answer(target))

    async def stop(self) -> None:
        self.stopped = True
        for credit in self.credits.values():
            credit.lift()
        for stream in list(self.streams.values()):
            await stream.cancel()

    def ack(self, index: int, target: str | None) -> None:
        for name, credit in self.credits.items():
            if target in (None, name):
                credit.ack(index)

    async def answer(self, target: str) -> None:
        try:
            await self.relay(target)
        except ApiError as error:
            await self.fail(target, error)
        except InferenceError as error:
            await self.fail(target, api_error(error, raw_prompt=self.frame.prompt is not None, name=target))
        except SlowReaderError:
            await self.fail(target, api_error(InferenceError("slow_reader")))
        except Exception as error:  # noqa: BLE001  (one target's failure must not end its neighbours)
            if not isinstance(error, Http404):
                logger.exception("an answer over the websocket failed")
            await self.fail(target, api_error(InferenceError("server_error")))

    async def relay(self, name: str) -> None:
        target = await resolve(name)
        request = Request(
            user=f"user:{self.grant.user_id}",
            base=target.base,
            adapter=target.adapter,
            messages=self.frame.messages,
            prompt=self.frame.prompt,
            params=self.frame.params,
        )
        async with await admit(self.grant, target.slug, target.digest, self.frame.params) as ticket:
            async with await get_manager().generate(request) as stream:
                self.streams[name] = stream
                try:
                    await self.forward(name, stream, ticket)
                finally:
                    ticket.end(0, stream.usage)

    async def forward(self, name: str, stream: Stream, ticket: Ticket) -> None:
        if self.stopped:
            await stream.cancel()
        async for event in stream:
            if event["type"] == "error":
                raise InferenceError.from_event(event)
            if event["type"] == "token":
                await self.credits[name].take(event["index"], len(event["text"]))
            if is_final(event):
                ticket.end(0, stream.usage)
                await ticket.freed()
                self.open -= 1
            await self.send(self.to_frame(name, event))

    def to_frame(self, target: str, event: Mapping[str, Any]) -> dict[str, Any]:
        kind = event["type"]
        carried = {key: event[key] for key in CARRIED[kind] if key in event}
        return {"type": kind, "id": self.frame.id, "target": target, **carried}

    async def fail(self, target: str, error: ApiError) -> None:
        self.open -= 1
        await self.send(error_frame(error, self.frame.id, target))
