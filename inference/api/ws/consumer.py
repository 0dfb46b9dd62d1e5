"""`/ws/generate`: answers over a websocket. Reading never waits for an answer, so stop and disconnect always work."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from django.utils import translation

from inference.errors import InferenceError

from .base import FrameConsumer
from .frames import Generate, Stop, interpret
from .generation import Generation

logger = logging.getLogger(__name__)

MAX_RUNNING = 16  # answers at once on one connection


class GenerateConsumer(FrameConsumer):
    """Each `generate` frame is a task of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.running: dict[str, Generation] = {}

    def running_ids(self) -> Collection[str]:
        return self.running

    def asks(self, frame: Mapping[str, Any]) -> bool:
        return frame.get("type") not in ("stop", "ack")

    async def handle(self, frame: Mapping[str, Any], frame_id: str | None) -> None:
        asked = interpret(frame)
        if isinstance(asked, Generate):
            await self.start(asked)
        elif asked.id not in self.running:
            pass  # it ended while the frame was on its way
        elif isinstance(asked, Stop):
            self.running[asked.id].stop()
        else:
            self.running[asked.id].ack(asked.index, asked.target)

    async def start(self, frame: Generate) -> None:
        if frame.id in self.running and self.running[frame.id].open:
            raise InferenceError("duplicate_id", param="id")
        if sum(generation.open for generation in self.running.values()) + len(frame.asked) > MAX_RUNNING:
            raise InferenceError("too_many_generations")
        if await self.may_ask():
            generation = Generation(frame, self.grant, self.send_frame, self.on_withdrawn)
            self.running[frame.id] = generation
            self.spawn(self.run(generation))

    async def run(self, generation: Generation) -> None:
        try:
            with translation.override(self.language):
                await generation.run()
        except Exception:  # noqa: BLE001  (nobody awaits this task: the log must know)
            logger.exception("a generation over the websocket failed")
        finally:
            if self.running.get(generation.frame.id) is generation:
                del self.running[generation.frame.id]
