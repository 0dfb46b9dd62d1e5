"""Assistants: a model with a purpose. Who sees which, conversations with one, and one-shot answers for programs."""

from __future__ import annotations

from typing import Any

from channels.db import database_sync_to_async
from django.http import Http404

from accounts.grants import Grant
from inference.engine.params import SamplingParams
from inference.errors import InferenceError
from inference.gateway.asking import Question, WholeAnswer, answer
from inference.gateway.targets import Target, find, resolve_adapter

from .models import Assistant, Conversation


def problem_of(target: str) -> str:
    """Why this model cannot answer now, as an error code; "" where it can."""
    try:
        find(target)
    except InferenceError as error:
        return error.code
    return ""


def talk(assistant: Assistant, user: Any) -> Conversation:
    """A new conversation, not saved yet, that begins with the assistant's settings."""
    return Conversation(
        user=user, assistant=assistant, system=assistant.system, target=assistant.target, params=assistant.params
    )


def talk_again(assistant: Assistant, user: Any) -> Conversation:
    """A conversation with the assistant in which nothing was said yet: the last such one, else a new one."""
    begun = talk(assistant, user)
    empty = Conversation.objects.of(user).filter(assistant=assistant, messages=None).first()
    if empty is not None:
        begun.pk, begun.created_at, begun.title = empty.pk, empty.created_at, empty.title
    begun.save()
    return begun


def visible(assistant_id: int, user_id: int) -> Assistant:
    """Raises Http404."""
    found = Assistant.objects.visible_to(user_id).select_related("owner").filter(pk=assistant_id).first()
    if found is None:
        raise Http404
    return found


async def chat_with_lora(assistant_id: int, lora_model_id: int, message: str, grant: Grant) -> WholeAnswer:
    """One answer of an assistant, given by the adapter `lora_model_id` whatever the assistant's own model is.

    Counts as a request of `grant`'s account. Raises Http404 (no such assistant or adapter for this account),
    ApiError (whatever keeps the model from answering, and limits).
    """
    assistant = await database_sync_to_async(visible)(assistant_id, grant.user_id)
    return await answer_of(assistant, await resolve_adapter(lora_model_id), message, grant)


async def answer_of(assistant: Assistant, target: Target, message: str, grant: Grant) -> WholeAnswer:
    """What `target` answers under the assistant's settings. Raises ApiError."""
    messages = [{"role": "user", "content": message}]
    if assistant.system.strip():
        messages.insert(0, {"role": "system", "content": assistant.system})
    return await answer(grant, Question(target, SamplingParams.model_validate(assistant.params), messages))
