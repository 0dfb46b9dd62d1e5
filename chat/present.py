"""Conversations and messages as JSON, and back."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.utils.translation import gettext as _

from common.api import ApiError
from common.shapes import ExportedId, Str, read, text
from inference.params import Text, sampling

from .flows import MOST_MESSAGES
from .keeping import settled
from .markdown import parse
from .models import Conversation, Message, State


def conversation_json(conversation: Conversation) -> dict[str, Any]:
    return {
        "id": conversation.pk,
        "title": conversation.title,
        "system": conversation.system,
        "target": conversation.target,
        "params": conversation.params,
        "leaf": conversation.leaf_id,
        "assistant": conversation.assistant_id,
        "created_at": conversation.created_at,
        "updated_at": conversation.updated_at,
    }


def message_json(message: Message) -> dict[str, Any]:
    return {
        "id": message.pk,
        "parent": message.parent_id,
        "role": message.role,
        "content": message.content,
        "state": message.live_state,
        "target": message.target,
        "target_name": message.target_name,
        "digest": message.digest,
        "info": message.info,
        "created_at": message.created_at.isoformat(),
    }


def whole_json(conversation: Conversation) -> dict[str, Any]:
    messages = [message_json(settled(message)) for message in conversation.messages.all()]
    return {**conversation_json(conversation), "messages": messages}


def import_json(user: Any, data: Any) -> Conversation:
    """A conversation from an export: `whole_json`, or `{"markdown": text}`. Raises ApiError 400."""
    if isinstance(data, dict) and "markdown" in data:
        data = parse(read(Str, data["markdown"], "", "markdown"))
    if not isinstance(data, dict) or not isinstance(data.get("messages"), list):
        raise ApiError("invalid", _("This is not an exported conversation."), 400, "messages")
    if len(data["messages"]) > MOST_MESSAGES:
        raise ApiError("too_many", _("The conversation has too many messages."), 400, "messages")
    with transaction.atomic():
        conversation = Conversation.objects.create(
            user=user,
            title=read(text(200), data.get("title") or "", "", "title"),
            system=read(Text, data.get("system") or "", "", "system"),
            target=read(text(128), data.get("target") or "", "", "target"),
            params=sampling(data.get("params") or {}, "params.").given(),
        )
        made: dict[int, Message] = {}
        for index, item in enumerate(data["messages"]):
            key, message = _import_message(conversation, item, made, f"messages.{index}")
            made[key] = message
        end = data.get("leaf")
        leaf = (made.get(end) if isinstance(end, int) else None) or next(reversed(made.values()), None)
        conversation.leaf = leaf
        conversation.save(update_fields=["leaf"])
    return conversation


def _import_message(conversation: Conversation, item: Any, made: dict[int, Message], where: str) -> tuple[int, Message]:
    if not isinstance(item, dict) or item.get("role") not in ("user", "assistant"):
        raise ApiError("invalid", _("This is not an exported conversation."), 400, where)
    key = read(ExportedId, item.get("id"), "", f"{where}.id")
    parent = item.get("parent")
    if key in made or (parent is not None and (not isinstance(parent, int) or parent not in made)):
        raise ApiError("invalid", _("This is not an exported conversation."), 400, f"{where}.parent")
    return key, Message.objects.create(
        conversation=conversation,
        parent=made.get(parent),  # type: ignore[arg-type]
        role=item["role"],
        content=read(Text, item.get("content") or "", "", f"{where}.content"),
        state=State.DONE,
        target=read(text(128), item.get("target") or "", "", f"{where}.target"),
        target_name=read(text(255), item.get("target_name") or "", "", f"{where}.target_name"),
        digest=read(text(64), item.get("digest") or "", "", f"{where}.digest"),
    )
