"""What the websockets share: who may open one, frames in and out, errors as frames, and the ways it is closed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Coroutine, Mapping
from datetime import datetime
from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.utils import translation
from django.utils.translation import gettext as _

from accounts.access import withdrawn
from accounts.grants import Grant
from accounts.models import Scope
from accounts.permissions import CanInfer, may
from common.api import ApiError, unforeseen
from common.parsers import loads
from common.request_ids import CAME_IN, begin
from inference.errors import InferenceError
from inference.measuring import refusals

from .frames import MAX_ID_CHARS, error_frame

# Of the range for applications: the server in front refuses those of RFC 6455 from an application.
GOING_AWAY = 4503
TOO_BIG = 4413
UNAUTHENTICATED = 4401


class FrameConsumer(AsyncWebsocketConsumer):
    """One connection. Each frame is a JSON object with a `type`; what goes wrong is told in an `error` frame.

    Reading never waits for an answer: what takes time is a task (`spawn`), and ends with the connection.
    """

    channel_layer_alias = ""  # none: the channel layer's outages are no business of a running answer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tasks: set[asyncio.Task[None]] = set()
        self.language: str = settings.LANGUAGE_CODE
        self.ending = False
        self.closed = False
        self.came_in: float | None = None  # when the frame in hand was read from the socket

    async def handle(self, frame: Mapping[str, Any], frame_id: str | None) -> None:
        """Do what a frame asks. Raises ApiError, which becomes the `error` frame of `frame_id`."""
        raise NotImplementedError

    def may_open(self, user: Any) -> bool:
        return bool(user.is_authenticated and user.is_active)

    def running_ids(self) -> Collection[str]:
        """The frames that are not done with: each is told of the connection's end."""
        return ()

    # The connection

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
        if user is None or not self.may_open(user):
            refusals.note("permission_denied", getattr(user, "pk", None) or 0)
            await self.close(UNAUTHENTICATED)
            return
        self.grant = Grant.of_scope(self.scope)
        self.language = self.scope.get("language", settings.LANGUAGE_CODE)
        await self.accept()

    async def websocket_receive(self, message: Any) -> None:
        self.came_in = message.get(CAME_IN)
        await super().websocket_receive(message)

    async def disconnect(self, code: int) -> None:
        self.closed = True

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def drop_all(self) -> None:
        for task in self.tasks:
            task.cancel()

    def on_withdrawn(self) -> None:
        if not self.ending:
            self.ending = True
            concerned: list[str | None] = [*self.running_ids()]
            self.drop_all()
            self.spawn(self.close_with("revoked", UNAUTHENTICATED, concerned))

    async def end(self, code: str, close_code: int) -> None:
        if not self.ending:
            self.ending = True
            await self.close_with(code, close_code, [*self.running_ids()])

    async def close_with(self, code: str, close_code: int, concerned: list[str | None]) -> None:
        """Say why, for each frame that is concerned (or once for the connection), and close."""
        with translation.override(self.language):
            error = InferenceError(code)
        for frame_id in concerned or [None]:
            await self.refuse(error, frame_id)
        if not self.closed:
            self.closed = True
            await self.close(close_code)

    # Frames

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if self.closed:
            return
        if text_data is not None and len(text_data) > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
            refusals.note("body_too_large", self.grant.user_id)
            await self.close(TOO_BIG)
            return
        frame: Mapping[str, Any] = {}
        frame_id = None
        begin(at=self.came_in)
        with translation.override(self.language):
            try:
                frame = json_object(text_data)
                given = frame.get("id")
                frame_id = given if isinstance(given, str) and 0 < len(given) <= MAX_ID_CHARS else None
                await self.handle(frame, frame_id)
            except ApiError as error:
                await self.refuse_frame(error, frame, frame_id)
            except Exception as error:  # noqa: BLE001  (the database is away, say: the connection stays)
                await self.refuse_frame(unforeseen(error, "a frame of a websocket"), frame, frame_id)

    def asks(self, frame: Mapping[str, Any]) -> bool:
        """Whether a frame that is refused would have asked a model, as far as one can see."""
        return True

    async def refuse_frame(self, error: ApiError, frame: Mapping[str, Any], frame_id: str | None) -> None:
        if self.asks(frame):
            refusals.count(error, self.grant.user_id)
        await self.refuse(error, frame_id)

    async def may_ask(self) -> bool:
        """Raises ApiError where the token lacks the scope; false where access was withdrawn, which ends everything."""
        if await database_sync_to_async(withdrawn)([self.grant]):
            refusals.note("revoked", self.grant.user_id)
            await self.end("revoked", UNAUTHENTICATED)
            return False
        if not may(self.scope["user"], self.scope.get("token"), Scope.INFER):
            raise ApiError("permission_denied", str(CanInfer.message), 403)
        return True

    async def refuse(self, error: ApiError, frame_id: str | None) -> None:
        await self.send_frame(error_frame(error, frame_id))

    async def send_frame(self, frame: Mapping[str, Any]) -> None:
        if not self.closed:
            await self.send(text_data=json.dumps(frame, ensure_ascii=False, default=datetime.isoformat))


def json_object(text: str | None) -> Mapping[str, Any]:
    """Of a frame's text; None where it is binary. Raises ApiError."""
    if text is None:
        raise InferenceError("malformed_frame")
    try:
        data = loads(text)
    except ValueError:
        raise ApiError("malformed_json", _("The message is not valid JSON.")) from None
    if not isinstance(data, Mapping):
        raise ApiError("malformed_frame", _("A message must be a JSON object with a “type”."))
    return data
