"""`/ws/chat`: ask in a conversation, follow answers, stop them.

Client: `ask {id, conversation, parent, content, target, params}`, `again {id, conversation, message, target, params}`,
`continue {id, conversation, message, params}`, `follow {message}`, `stop {message}`.
Server: `started {id, conversation, question, answer}`, `sync {message, text}` (all so far), `text {message, text}`
(more), `trimmed {message, count}` (earlier messages left out), `progress {message, kind, ...}`, `done {message}` (the
row), `error {id, target: null, code, message, param, status, retry_after}`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from channels.db import database_sync_to_async
from django.utils import translation

from accounts.access import watched
from accounts.models import Scope
from accounts.permissions import may
from common.api import ApiError
from inference import params as reading
from inference.api.ws.base import FrameConsumer
from inference.engine.protocol import Params
from inference.errors import InferenceError
from inference.gateway.targets import find

from . import flows
from .models import Conversation, Message, State
from .present import conversation_json, message_json
from .runs import Run, running

logger = logging.getLogger(__name__)

BEGINNING = ("ask", "again", "continue")  # frames that start an answer
FRAME_TYPES = (*BEGINNING, "follow", "stop")
MAX_FOLLOWED = 16
LOOK_EVERY = 1.0  # seconds between looks at an answer that another process writes


class ChatConsumer(FrameConsumer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.followed: set[int] = set()

    def may_open(self, user: Any) -> bool:
        return may(user, self.scope.get("token"), Scope.INFER)

    async def handle(self, frame: Mapping[str, Any], frame_id: str | None) -> None:
        kind = frame.get("type")
        if kind == "stop":
            message_id = await self.own(frame)
            run = running.get(message_id)
            if run is not None:
                run.stop()
            else:
                await database_sync_to_async(flows.ask_to_stop)(message_id)
        elif kind == "follow":
            self.follow(await self.own(frame))
        elif kind in BEGINNING:
            if not await self.may_ask():
                return
            raw = frame.get("params")
            params = reading.sampling({} if raw is None else raw, "params.")
            run, started = await database_sync_to_async(self.begin)(frame, params)
            run.start()
            await self.tell("started", id=frame_id, **started)
            self.follow(run.message_id)
        else:
            raise InferenceError("malformed_frame")

    def begin(self, frame: Mapping[str, Any], params: Params) -> tuple[Run, dict[str, Any]]:
        """Rows for what a frame asks, and the run that is to fill them. Raises ApiError."""
        conversation_id = reading.integer(frame.get("conversation"), "conversation", 1, 2**63 - 1)
        conversation = Conversation.objects.of(self.scope["user"]).filter(pk=conversation_id).first()
        if conversation is None:
            raise ApiError("not_found", translation.gettext("There is no such thing."), 404, "conversation")
        question: Message | None = None
        if frame["type"] == "continue":
            answer = self.continued(conversation, frame)
            leaf = answer.pk
        else:
            target = find(frame.get("target"))
            if frame["type"] == "ask":
                parent = frame.get("parent")
                parent_id = None if parent is None else reading.integer(parent, "parent", 1, 2**63 - 1)
                content = reading.prompt(frame.get("content"), "content")
                question, answer = flows.ask(conversation, parent_id, content, target.slug, target.name)
                leaf = question.pk
            else:
                leaf = reading.integer(frame.get("message"), "message", 1, 2**63 - 1)
                answer = flows.again(conversation, leaf, target.slug, target.name)
        Conversation.objects.filter(pk=conversation.pk).update(params=params)
        prompt = flows.prompt_of(conversation, leaf)
        run = Run(answer.pk, answer.target, prompt, params, self.grant, self.language)
        return run, {
            "conversation": json_safe(conversation_json(conversation)),
            "question": message_json(question) if question else None,
            "answer": message_json(answer),
        }

    def continued(self, conversation: Conversation, frame: Mapping[str, Any]) -> Message:
        pk = reading.integer(frame.get("message"), "message", 1, 2**63 - 1)
        answer = conversation.messages.filter(pk=pk, role="assistant").exclude(content="").first()
        if answer is None:
            raise ApiError("not_found", translation.gettext("There is no such thing."), 404, "message")
        find(answer.target)
        if not flows.reopen(answer):
            raise ApiError("busy", translation.gettext("This answer is being written already."), 409, "message")
        answer.refresh_from_db()
        return answer

    async def own(self, frame: Mapping[str, Any]) -> int:
        """The id of a message of this user. Raises ApiError 404."""
        pk = reading.integer(frame.get("message"), "message", 1, 2**63 - 1)
        if not await Message.objects.filter(pk=pk, conversation__user=self.scope["user"]).aexists():
            raise ApiError("not_found", translation.gettext("There is no such thing."), 404, "message")
        return pk

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
                await self.relay_row(message_id)
        except Exception:  # noqa: BLE001  (nobody awaits this task: the log must know)
            logger.exception("an answer could not be followed")

    async def relay_run(self, run: Run) -> None:
        with run.reader() as news:
            sent, progress, trimmed = len(run.text), None, 0
            await self.tell("sync", message=run.message_id, text=run.text)
            while True:
                news.clear()
                if run.info.get("trimmed", 0) != trimmed:
                    trimmed = run.info["trimmed"]
                    await self.tell("trimmed", message=run.message_id, count=trimmed)
                if run.progress is not None and run.progress != progress:
                    progress = run.progress
                    await self.tell("progress", message=run.message_id, **run.progress_now())
                if len(run.text) > sent:
                    text, sent = run.text[sent:], len(run.text)
                    await self.tell("text", message=run.message_id, text=text)
                if run.ended:
                    return
                await news.wait()

    async def relay_row(self, message_id: int) -> None:
        """The end, from the database; until then what another process writes."""
        shown: str | None = None
        while (message := await Message.objects.filter(pk=message_id).afirst()) is not None:
            if message.live_state != State.RUNNING:
                await self.tell("done", message=message_json(message))
                return
            if message.content != shown:
                shown = message.content
                await self.tell("sync", message=message_id, text=shown)
            await asyncio.sleep(LOOK_EVERY)

    async def tell(self, kind: str, /, **frame: Any) -> None:
        await self.send_frame({"type": kind, **frame})


def json_safe(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value.isoformat() if hasattr(value, "isoformat") else value for key, value in data.items()}
