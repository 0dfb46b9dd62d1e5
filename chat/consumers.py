"""`/ws/chat`: ask in a conversation, follow answers, stop them. The frames are declared in `frames.py`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from channels.db import database_sync_to_async
from django.db import transaction
from django.utils import translation

from accounts.access import watched
from accounts.models import Scope
from accounts.permissions import may
from common.answers import Frame
from common.api import ApiError
from inference.api.ws.base import FrameConsumer
from inference.engine.params import SamplingParams
from inference.errors import InferenceError
from inference.gateway.targets import find
from inference.params import body

from . import flows
from .frames import (
    CLIENT_FRAMES,
    Again,
    Ask,
    Beginning,
    ClientFrame,
    Continue,
    Done,
    Follow,
    More,
    Progress,
    Started,
    Sync,
    Trimmed,
)  # fmt: skip
from .keeping import settled
from .models import Conversation, Message, State
from .runs import Run, running

logger = logging.getLogger(__name__)

MAX_FOLLOWED = 16
LOOK_EVERY = 1.0  # seconds between looks at an answer that another process writes


def not_found(param: str) -> ApiError:
    return ApiError("not_found", translation.gettext("The requested object was not found."), 404, param)


def shape_of(frame: Mapping[str, Any]) -> ClientFrame | None:
    kind = frame.get("type")
    return CLIENT_FRAMES.get(kind) if isinstance(kind, str) else None


class ChatConsumer(FrameConsumer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.followed: set[int] = set()

    def may_open(self, user: Any) -> bool:
        return may(user, self.scope.get("token"), Scope.INFER)

    def asks(self, frame: Mapping[str, Any]) -> bool:
        shape = shape_of(frame)
        return shape is None or shape.begins

    async def handle(self, frame: Mapping[str, Any], frame_id: str | None) -> None:
        shape = shape_of(frame)
        if shape is None:
            raise InferenceError("malformed_frame")
        if shape.begins and not await self.may_ask():
            return
        asked = body(shape, frame)
        if isinstance(asked, Beginning):
            run, started = await database_sync_to_async(self.begin)(asked, frame_id)
            run.start()
            await self.send_frame(started)
            self.follow(run.message_id)
            return
        message_id = await self.own(asked.message)
        if isinstance(asked, Follow):
            self.follow(message_id)
        elif (run_here := running.get(message_id)) is not None:
            run_here.stop()
        else:
            await database_sync_to_async(flows.ask_to_stop)(message_id)

    @transaction.atomic
    def begin(self, asked: Beginning, frame_id: str | None) -> tuple[Run, dict[str, Any]]:
        """Rows for what a frame asks: the run that is to fill them, and the frame that says so. Raises ApiError."""
        own = Conversation.objects.of(self.scope["user"])
        # Locked: of two that ask at once the second sees what the first did.
        conversation = own.select_for_update().filter(pk=asked.conversation).first()
        if conversation is None:
            raise not_found("conversation")
        if asked.seen is not None and asked.seen != (conversation.leaf_id or 0):
            message = translation.gettext("This conversation was continued in another window.")
            raise ApiError("conversation_changed", message, 409, "seen")
        params = asked.params or SamplingParams()
        question: Message | None = None
        if isinstance(asked, Continue):
            answer = self.continued(conversation, asked.message)
            leaf = answer.pk
        elif isinstance(asked, Ask):
            target = find(asked.target)
            question, answer = flows.ask(conversation, asked.parent, asked.content, target.slug, target.name)
            leaf = question.pk
        else:
            assert isinstance(asked, Again)  # noqa: S101  (for the type checker)
            target = find(asked.target)
            leaf = asked.message
            answer = flows.again(conversation, leaf, target.slug, target.name)
        Conversation.objects.filter(pk=conversation.pk).update(params=params.given())
        prompt = flows.prompt_of(conversation, leaf)
        run = Run(answer, prompt, params, self.grant, self.language)
        return run, Started.of(id=frame_id, conversation=conversation, question=question, answer=answer)

    def continued(self, conversation: Conversation, message_id: int) -> Message:
        answer = conversation.messages.filter(pk=message_id, role="assistant").exclude(content="").first()
        if answer is None:
            raise not_found("message")
        find(answer.target)
        if not flows.reopen(answer):
            raise ApiError("busy", translation.gettext("This answer is already being generated."), 409, "message")
        answer.refresh_from_db()
        return answer

    async def own(self, message_id: int) -> int:
        """The id, where it is that of a message of this user. Raises ApiError 404."""
        if not await Message.objects.filter(pk=message_id, conversation__user=self.scope["user"]).aexists():
            raise not_found("message")
        return message_id

    def follow(self, message_id: int) -> None:
        if message_id not in self.followed and len(self.followed) < MAX_FOLLOWED:
            self.followed.add(message_id)
            self.spawn(self.relay(message_id)).add_done_callback(lambda _task: self.followed.discard(message_id))

    async def relay(self, message_id: int) -> None:
        try:
            async with watched(self.grant, self.on_withdrawn):
                run = running.get(message_id)
                if run is not None:
                    await self.relay_run(run)
                if run is not None and run.unsaved:
                    await self.tell(Done, message=run.message)
                else:
                    await self.relay_row(message_id, {"logprobs": run.logprobs} if run and run.logprobs else {})
        except Exception:  # noqa: BLE001  (nobody awaits this task: the log must know)
            logger.exception("an answer could not be followed")

    async def relay_run(self, run: Run) -> None:
        with run.reader() as news:
            sent, progress, trimmed = len(run.text), None, 0
            await self.tell(Sync, message=run.message_id, text=run.text)
            while True:
                news.clear()
                if run.info.get("trimmed", 0) != trimmed:
                    trimmed = run.info["trimmed"]
                    await self.tell(Trimmed, message=run.message_id, count=trimmed)
                if run.progress is not None and run.progress != progress:
                    progress = run.progress
                    await self.tell(Progress, message=run.message_id, **run.progress_now())
                if len(run.text) > sent:
                    text, sent = run.text[sent:], len(run.text)
                    await self.tell(More, message=run.message_id, text=text)
                if run.ended:
                    return
                await news.wait()

    async def relay_row(self, message_id: int, more: Mapping[str, Any]) -> None:
        """The end, from the database, with `more`; until then what another process writes."""
        shown: str | None = None
        while (message := await Message.objects.filter(pk=message_id).afirst()) is not None:
            if message.state != message.live_state:
                message = await database_sync_to_async(settled)(message)
            if message.state != State.RUNNING:
                await self.tell(Done, message=message, **more)
                return
            if message.content != shown:
                shown = message.content
                await self.tell(Sync, message=message_id, text=shown)
            await asyncio.sleep(LOOK_EVERY)

    async def tell(self, shape: type[Frame], **fields: Any) -> None:
        await self.send_frame(shape.of(**fields))
