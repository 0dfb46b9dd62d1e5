"""What can be done with conversations. Synchronous; callers have checked whose they are."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from adapters.processes import own_name
from common.api import ApiError

from .keeping import settled
from .models import Conversation, Message, State

TITLE_CHARS = 60
MOST_MESSAGES = 5000


def branch(conversation: Conversation, leaf_id: int | None) -> list[Message]:
    """The messages from the root to `leaf_id`."""
    known = {message.pk: message for message in conversation.messages.all()}
    found: list[Message] = []
    message = known.get(leaf_id or 0)
    while message is not None:
        found.append(message)
        message = known.get(message.parent_id or 0)
    return found[::-1]


def prompt_of(conversation: Conversation, leaf_id: int) -> list[dict[str, str]]:
    """The branch as the engine takes it. Empty answers and the questions that got none are left out."""
    turns = [{"role": message.role, "content": message.content} for message in branch(conversation, leaf_id)]
    kept: list[dict[str, str]] = []
    for index, turn in enumerate(turns):
        if turn["role"] == "assistant" and not turn["content"]:
            continue
        following = turns[index + 1] if index + 1 < len(turns) else None
        if turn["role"] == "user" and following and following["role"] == "assistant" and not following["content"]:
            continue
        kept.append(turn)
    if conversation.system.strip():
        kept.insert(0, {"role": "system", "content": conversation.system})
    return kept


def ask(
    conversation: Conversation, parent_id: int | None, content: str, target: str, name: str
) -> tuple[Message, Message]:
    """A user's message under `parent_id` and the answer that is to be written. Raises ApiError."""
    with transaction.atomic():
        parent = _member(conversation, parent_id)
        _check_room(conversation)
        question = Message.objects.create(conversation=conversation, parent=parent, role="user", content=content)
        answer = _answer(conversation, question, target, name)
    return question, answer


def again(conversation: Conversation, question_id: int, target: str, name: str) -> Message:
    """One more answer to a user's message. Raises ApiError."""
    with transaction.atomic():
        question = _member(conversation, question_id)
        if question is None or question.role != "user":
            raise ApiError("invalid", _("Only your own messages can be answered again."), 400, "message")
        _check_room(conversation)
        return _answer(conversation, question, target, name)


def edit_answer(conversation: Conversation, message_id: int, content: str) -> Message:
    """A version of an answer as its reader wants it, beside the original; it ends the branch that is shown.

    It is no model's answer: it has no digest and says that it was edited. Raises ApiError.
    """
    with transaction.atomic():
        conversation = Conversation.objects.select_for_update().get(pk=conversation.pk)
        original = _member(conversation, message_id)
        if original is None or original.role != "assistant":
            raise ApiError("invalid", _("Only answers can be edited."), 400, "message")
        if original.live_state == State.RUNNING:
            raise ApiError("busy", _("This answer is already being generated."), 409, "message")
        _check_room(conversation)
        version = Message.objects.create(
            conversation=conversation,
            parent_id=original.parent_id,
            role="assistant",
            content=content,
            target=original.target,
            target_name=original.target_name,
            info={"edited": True},
        )
        Conversation.objects.filter(pk=conversation.pk).update(leaf=version, updated_at=timezone.now())
    return version


def _check_room(conversation: Conversation) -> None:
    if conversation.messages.count() >= MOST_MESSAGES:
        raise ApiError("too_many", _("The conversation has too many messages."), 400, "conversation")


def _member(conversation: Conversation, pk: int | None) -> Message | None:
    if pk is None:
        return None
    found = conversation.messages.filter(pk=pk).first()
    if found is None:
        raise ApiError("not_found", _("Message not found."), 404, "message")
    return found


def _answer(conversation: Conversation, question: Message, target: str, name: str) -> Message:
    answer = Message.objects.create(
        conversation=conversation,
        parent=question,
        role="assistant",
        state=State.RUNNING,
        writer=own_name(),
        target=target,
        target_name=name,
    )
    title = conversation.title or _title(question.content)
    Conversation.objects.filter(pk=conversation.pk).update(
        leaf=answer, target=target, title=title, updated_at=timezone.now()
    )
    conversation.leaf, conversation.target, conversation.title = answer, target, title
    return answer


def _title(content: str) -> str:
    line = " ".join(content.split())
    return line if len(line) <= TITLE_CHARS else line[: TITLE_CHARS - 1].rstrip() + "…"


def ask_to_stop(message_id: int) -> None:
    """Leave word for whichever process writes this answer; nothing once it has ended."""
    Message.objects.filter(pk=message_id, state=State.RUNNING).update(stop_asked=True)


def save_end(message_id: int, content: str, state: str, digest: str, info: dict[str, Any]) -> None:
    Message.objects.filter(pk=message_id).update(
        content=content, state=state, digest=digest, info=info, writer="", updated_at=timezone.now()
    )


def reopen(message: Message) -> bool:
    """Continue an answer that has ended, or whose writer is gone. False where somebody else does so already."""
    settled(message)
    ended = Message.objects.filter(pk=message.pk, role="assistant").exclude(state=State.RUNNING)
    return bool(ended.update(state=State.RUNNING, writer=own_name(), stop_asked=False, updated_at=timezone.now()))
