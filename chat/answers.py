"""What the chat application answers and sends."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer, WithJsonSchema

from common.answers import Answer, one_of
from inference.api.rest import TestAnswer

from .models import State

# In frames and pages, which know no dates.
Moment = Annotated[
    datetime, PlainSerializer(datetime.isoformat), WithJsonSchema({"type": "string", "format": "date-time"})
]


class ConversationFacts(Answer):
    id: int
    title: str
    system: str
    target: str
    params: dict[str, Any]
    pinned: bool
    folder: str
    leaf: int | None = Field(validation_alias="leaf_id")
    assistant: int | None = Field(validation_alias="assistant_id")
    created_at: datetime
    updated_at: datetime


class Conversation(ConversationFacts):
    share: str | None = Field(
        validation_alias="share_path", description="Address at which signed-in users may read it; null: nobody else."
    )


class Snippet(Answer):
    """Where a search found its text in a message."""

    before: str
    match: str
    after: str


class ListedConversation(Conversation):
    snippet: Snippet | None = Field(None, description="Of a search: null where the title alone has its text.")


class Folder(Answer):
    name: str
    count: int


class Folders(Answer):
    results: list[Folder]


class Deleted(Answer):
    deleted: int = Field(description="How many there were of one's own.")


class ImportedConversation(Conversation):
    imported: int = Field(description="How many conversations the file held; this is the first of them.")


class ChatMessage(Answer):
    id: int
    parent: int | None = Field(validation_alias="parent_id")
    role: Literal["user", "assistant"]
    content: str
    state: Annotated[str, one_of(State.values), Field(validation_alias="live_state")]
    target: str
    target_name: str
    digest: str
    info: dict[str, Any]
    created_at: Moment


class WholeConversation(Conversation):
    messages: list[ChatMessage]


class ExportedConversation(ConversationFacts):
    """As a file, which may be passed on: without the address at which it is shared."""

    messages: list[ChatMessage]


class Assistant(Answer):
    id: int
    name: str
    description: str
    icon: str
    system: str
    target: str
    params: dict[str, Any]
    samples: list[str]
    shared: bool
    owner: str = Field(description="Account that made it.")
    mine: bool
    problem: str | None = Field(description="Why its model cannot answer now, as an error code.")
    created_at: datetime
    updated_at: datetime


class AssistantAnswer(TestAnswer):
    conversation: int = 0
    message: int = Field(0, description="Id of the answer in the conversation.")
    trimmed: int = Field(0, description="Earlier messages that did not fit.")
