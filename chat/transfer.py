"""Whole conversations as JSON, and back."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from django.utils import timezone
from django.utils.translation import gettext as _
from pydantic import BeforeValidator, Field, RootModel, WithJsonSchema

from common.api import ApiError
from common.shapes import CHARACTERS, SENTENCES, ExportedId, Lenient, Str, read, refuse
from inference.engine.params import SamplingParams
from inference.params import Text, body

from .answers import ExportedConversation, WholeConversation
from .flows import MOST_MESSAGES
from .foreign import Foreign, OpenAiMessage, is_openai, kind_of
from .keeping import settled
from .markdown import parse
from .models import Conversation, Message, State
from .whole import Whole, insert_all

MOST_CHATS = 500  # of one file
MOST_IMPORTED = 20_000  # messages of one file
EMPTY = BeforeValidator(lambda value: value or "")  # null is as good as nothing
AnyId = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "null"}]})]


def _turns(value: Any) -> Any:
    if not isinstance(value, list):
        raise refuse("not_exported")
    if len(value) > MOST_MESSAGES:
        raise refuse("too_many_messages")
    return value


def _turn(value: Any) -> Any:
    if not isinstance(value, dict) or value.get("role") not in ("user", "assistant"):
        raise refuse("not_exported")
    return value


class ImportedInfo(Lenient):
    """What of a message's facts is true of a copy as well."""

    edited: Literal[True]


def _of_a_copy(value: Any) -> Any:
    return {"edited": True} if isinstance(value, dict) and value.get("edited") is True else None


class ImportedMessage(Lenient):
    id: ExportedId
    parent: AnyId = None
    role: Literal["user", "assistant"]
    content: Annotated[Text, EMPTY] = ""
    target: Annotated[str, Field(max_length=128), CHARACTERS, EMPTY] = ""
    target_name: Annotated[str, Field(max_length=255), CHARACTERS, EMPTY] = ""
    digest: Annotated[str, Field(max_length=64), CHARACTERS, EMPTY] = ""
    info: Annotated[ImportedInfo | None, BeforeValidator(_of_a_copy)] = None


class Imported(Lenient):
    """What an export holds: as JSON (`messages` and the rest; parents first), or as Markdown (`markdown` alone)."""

    title: Annotated[str, Field(max_length=200), CHARACTERS, EMPTY] = ""
    system: Annotated[Text, EMPTY] = ""
    target: Annotated[str, Field(max_length=128), CHARACTERS, EMPTY] = ""
    params: Annotated[SamplingParams, BeforeValidator(lambda value: value or {})] = SamplingParams()
    leaf: AnyId = None
    messages: Annotated[list[Annotated[ImportedMessage, BeforeValidator(_turn)]], BeforeValidator(_turns)] = []
    markdown: Str = ""


def whole_json(conversation: Conversation) -> dict[str, Any]:
    return WholeConversation.of(conversation, messages=_messages(conversation))


def exported_json(conversation: Conversation) -> dict[str, Any]:
    return ExportedConversation.of(conversation, messages=_messages(conversation))


def _messages(conversation: Conversation) -> list[Message]:
    return [settled(message) for message in conversation.messages.all()]


class ImportFile(RootModel[Imported | Foreign | list[Imported | Foreign | OpenAiMessage]]):
    """An export of ours, OpenAI's messages, ShareGPT, an export of Open WebUI; or a list of such conversations."""


def import_file(user: Any, data: Any, room: int) -> list[Conversation]:
    """All conversations of a file, or none of them; the first one is the newest then.

    `room`: how many more this person may have. Raises ApiError 400, 409.
    """
    if isinstance(data, list) and data and all(is_openai(one) for one in data):
        data = {"messages": data}
    if not isinstance(data, list):
        found = [new_whole(user, data)]
    elif not data or len(data) > MOST_CHATS:
        raise ApiError("out_of_range", _("A file can hold up to %(n)d conversations.") % {"n": MOST_CHATS}, 400)
    else:
        found = [new_whole(user, one, f"{place}.") for place, one in enumerate(data)]
    if len(found) > room:
        raise ApiError("too_many", _("You have too many conversations. Delete some first."), 409)
    if sum(len(one.messages) for one in found) > MOST_IMPORTED:
        raise refused("too_many_messages", "")
    now = timezone.now()
    for one in found:
        one.conversation.updated_at = now  # of one moment: the last id comes first in lists
    insert_all(found[::-1])
    return [one.conversation for one in found]


def refused(kind: str, param: str) -> ApiError:
    code, sentence = SENTENCES[kind]
    return ApiError(code, str(sentence), 400, param or None)


def new_whole(user: Any, data: Any, prefix: str = "") -> Whole:
    """A conversation that is not saved yet, from an export: ours (`exported_json`, or `{"markdown": text}`) or another
    program's. Raises ApiError 400; `prefix` precedes the names of fields in it."""
    if isinstance(data, dict) and "markdown" in data:
        data = parse(read(Str, data["markdown"], prefix, f"{prefix}markdown"))
    if kind := kind_of(data):
        data = body(kind, data, prefix).exported()
    if not isinstance(data, dict) or "messages" not in data:
        raise refused("not_exported", f"{prefix}messages")
    given = body(Imported, data, prefix)
    conversation = Conversation(
        user=user, title=given.title, system=given.system, target=given.target, params=given.params.given()
    )
    places: dict[int, int] = {}  # of a message by its exported id

    def known(key: Any) -> int | None:
        return places.get(key) if isinstance(key, int) else None

    parents: list[int | None] = []
    for place, turn in enumerate(given.messages):
        parents.append(known(turn.parent))
        if turn.id in places or (parents[-1] is None and turn.parent is not None):
            raise refused("not_exported", f"{prefix}messages.{place}.parent")
        places[turn.id] = place
    messages = [_message(turn) for turn in given.messages]
    leaf = known(given.leaf)
    return Whole(conversation, messages, parents, len(messages) - 1 if leaf is None else leaf)


def _message(turn: ImportedMessage) -> Message:
    info = turn.info.model_dump() if turn.info else {}
    return Message(state=State.DONE, info=info, **turn.model_dump(exclude={"id", "parent", "info"}))
