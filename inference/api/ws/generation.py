"""One `generate` frame at work: every target an answer of its own, side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from accounts.grants import Grant
from common.api import ApiError, unforeseen
from inference.engine.params import SamplingParams
from inference.engine.protocol import Token
from inference.errors import InferenceError
from inference.gateway.asking import Asking, Question, ask
from inference.gateway.blends import resolve_blend
from inference.gateway.targets import resolve
from inference.measuring import refusals

from .flow_control import Credits, SlowReaderError
from .frames import Generate, error_frame, frame_of

SendFrame = Callable[[Mapping[str, Any]], Awaitable[None]]


class Generation:
    """Runs until every target has had its `done` or `error`. `stop` ends it; cancelling its task drops it silently."""

    def __init__(self, frame: Generate, grant: Grant, send: SendFrame, on_withdrawn: Callable[[], None]) -> None:
        self.frame = frame
        self.grant = grant
        self.send = send
        self.on_withdrawn = on_withdrawn
        self.asked = frame.asked
        self.credits = {target: Credits() for target in self.asked}
        self.askings: list[Asking] = []
        self.stopped = False
        self.open = len(self.asked)  # answers whose end is not sent yet

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for target in self.asked:
                group.create_task(self.answer(target))

    def stop(self) -> None:
        self.stopped = True
        for credit in self.credits.values():
            credit.lift()
        for asking in self.askings:
            asking.stop()

    def ack(self, index: int, target: str | None) -> None:
        for name, credit in self.credits.items():
            if target in (None, name):
                credit.ack(index)

    async def answer(self, target: str) -> None:
        try:
            await self.relay(target)
        except ApiError as error:
            await self.fail(target, error)
        except Exception as error:  # noqa: BLE001  (one target's failure must not end its neighbours)
            await self.fail(target, unforeseen(error, "an answer over the websocket"))

    async def relay(self, name: str) -> None:
        asked, adapters = self.frame, self.asked[name]
        target = await resolve(name) if adapters is None else await resolve_blend(adapters)
        question = Question(target, asked.params or SamplingParams(), asked.turns, asked.prompt)
        async with await ask(self.grant, [question], self.on_withdrawn) as asking:
            self.askings.append(asking)
            if self.stopped:
                asking.stop()
            async for _index, event in asking:
                if event["type"] == "token":
                    await self.may_go(name, event)
                if event["type"] == "done":
                    self.open -= 1
                await self.send(frame_of(event, asked.id, name, target.recipe))

    async def may_go(self, name: str, event: Token) -> None:
        try:
            await self.credits[name].take(event["index"], len(event["text"]))
        except SlowReaderError:
            raise InferenceError("slow_reader") from None

    async def fail(self, target: str, error: ApiError) -> None:
        refusals.count(error, self.grant.user_id)
        self.open -= 1
        await self.send(error_frame(error, self.frame.id, target))
