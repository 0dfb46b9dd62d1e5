"""Conversations and messages as JSON, and back."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils.translation import gettext as _

from common.api import ApiError
from inference import params as reading

from .flows import MOST_MESSAGES
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
    messages = [message_json(message) for message in conversation.messages.all()]
    return {**conversation_json(conversation), "messages": messages}


def import_json(user: Any, data: Any) -> Conversation:
    """A conversation from an export: `whole_json`, or `{"markdown": text}`. Raises ApiError 400."""
    if isinstance(data, dict) and "markdown" in data:
        data = parse(reading.text(data["markdown"], "markdown", settings.DATA_UPLOAD_MAX_MEMORY_SIZE))
    if not isinstance(data, dict) or not isinstance(data.get("messages"), list):
        raise ApiError("invalid", _("This is not an exported conversation."), 400, "messages")
    if len(data["messages"]) > MOST_MESSAGES:
        raise ApiError("too_many", _("The conversation has too many messages."), 400, "messages")
    with transaction.atomic():
        conversation = Conversation.objects.create(
            user=user,
            title=reading.text(data.get("title") or "", "title", 200),
            system=reading.text(data.get("system") or "", "system", settings.MAX_PROMPT_CHARS),
            target=reading.text(data.get("target") or "", "target", 128),
            params=reading.sampling(data.get("params") or {}, "params."),
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
    key = reading.integer(item.get("id"), f"{where}.id", 0, 2**63 - 1)
    parent = item.get("parent")
    if key in made or (parent is not None and (not isinstance(parent, int) or parent not in made)):
        raise ApiError("invalid", _("This is not an exported conversation."), 400, f"{where}.parent")
    return key, Message.objects.create(
        conversation=conversation,
        parent=made.get(parent),  # type: ignore[arg-type]
        role=item["role"],
        content=reading.text(item.get("content") or "", f"{where}.content", settings.MAX_PROMPT_CHARS),
        state=State.DONE,
        target=reading.text(item.get("target") or "", f"{where}.target", 128),
        target_name=reading.text(item.get("target_name") or "", f"{where}.target_name", 255),
        digest=reading.text(item.get("digest") or "", f"{where}.digest", 64),
    )
