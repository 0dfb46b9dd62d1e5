"""`/ws/generate`: answers over a websocket. Reading never waits for an answer, so stop and disconnect always work."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.utils import translation

from accounts.access import Grant, watched, withdrawn
from accounts.models import Scope
from accounts.permissions import CanInfer, may
from common.api import ApiError
from inference.api.ws.generation import Generation
from inference.errors import InferenceError, api_error

from .frames import Ack, FrameError, Generate, Stop, error_frame, read

logger = logging.getLogger(__name__)

MAX_RUNNING = 16  # answers at once on one connection
# Of the range for applications: the server in front refuses those of RFC 6455 from an application.
GOING_AWAY = 4503
TOO_BIG = 4413
UNAUTHENTICATED = 4401


class GenerateConsumer(AsyncWebsocketConsumer):
    """One connection; each `generate` frame is a task of its own."""

    channel_layer_alias = ""  # none: the channel layer's outages are no business of a running answer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.running: dict[str, Generation] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.closed = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        except asyncio.CancelledError:  # the server is going away
            await self.end("shutting_down", GOING_AWAY)
            raise
        finally:
            self.drop_all()

    async def connect(self) -> None:
        user = self.scope.get("user")
        if user is None or not user.is_authenticated or not user.is_active:
            await self.close(UNAUTHENTICATED)
            return
        self.grant = Grant.of_scope(self.scope)
        self.language = self.scope.get("language", settings.LANGUAGE_CODE)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        self.closed = True
        self.drop_all()

    def drop_all(self) -> None:
        """Cancelling a task leaves its streams' contexts, which cancels the requests in the engine."""
        for task in self.tasks:
            task.cancel()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if self.closed:
            return
        with translation.override(self.language):
            if text_data is None:
                error = api_error(InferenceError("malformed_frame"))
                await self.send_frame(error_frame(error, None))
            elif len(text_data) > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
                await self.close(TOO_BIG)
            else:
                await self.handle(text_data)

    async def handle(self, text: str) -> None:
        try:
            frame = read(text)
            if isinstance(frame, Generate):
                await self.start(frame)
            elif frame.id in self.running:
                await self.direct(self.running[frame.id], frame)
            # else: it ended while the frame was on its way
        except FrameError as refused:
            await self.send_frame(error_frame(refused.error, refused.id))
        except Exception:  # noqa: BLE001  (the database is away, say: the connection stays)
            logger.exception("a frame could not be handled")
            await self.send_frame(error_frame(api_error(InferenceError("server_error")), None))

    async def direct(self, generation: Generation, frame: Stop | Ack) -> None:
        if isinstance(frame, Stop):
            await generation.stop()
        else:
            generation.ack(frame.index, frame.target)

    async def start(self, frame: Generate) -> None:
        if frame.id in self.running and self.running[frame.id].open:
            raise FrameError(api_error(InferenceError("duplicate_id", param="id")), frame.id)
        if sum(generation.open for generation in self.running.values()) + len(frame.targets) > MAX_RUNNING:
            raise FrameError(api_error(InferenceError("too_many_generations")), frame.id)
        if await database_sync_to_async(withdrawn)([self.grant]):
            await self.end("revoked", UNAUTHENTICATED)
            return
        if not may(self.scope["user"], self.scope.get("token"), Scope.INFER):
            raise FrameError(ApiError("permission_denied", str(CanInfer.message), 403), frame.id)
        generation = Generation(frame, self.grant, self.language, self.send_frame)
        self.running[frame.id] = generation
        task = asyncio.create_task(self.run(generation))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def run(self, generation: Generation) -> None:
        try:
            async with watched(self.grant, self.on_withdrawn):
                await generation.run()
        except Exception:  # noqa: BLE001  (nobody awaits this task: the log must know)
            logger.exception("a generation over the websocket failed")
        finally:
            if self.running.get(generation.frame.id) is generation:
                del self.running[generation.frame.id]

    def on_withdrawn(self) -> None:
        ending = self.end("revoked", UNAUTHENTICATED, list(self.running))
        self.drop_all()
        task = asyncio.create_task(ending)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def end(self, code: str, close_code: int, ids: list[str] | None = None) -> None:
        """Say why, for each answer that runs or ran (or once for the connection), and close."""
        if self.closed:
            return
        with translation.override(getattr(self, "language", settings.LANGUAGE_CODE)):
            error = api_error(InferenceError(code))
            concerned: list[str | None] = [*(ids or self.running)]
            for frame_id in concerned or [None]:
                await self.send_frame(error_frame(error, frame_id))
        self.closed = True
        await self.close(close_code)

    async def send_frame(self, frame: Mapping[str, Any]) -> None:
        if not self.closed:
            await self.send(text_data=json.dumps(frame, ensure_ascii=False))
