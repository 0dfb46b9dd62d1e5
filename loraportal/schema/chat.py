"""The calls about one's own conversations."""

from __future__ import annotations

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema

from chat.answers import (
    ChatMessage,
    Conversation,
    Deleted,
    ExportedConversation,
    Folders,
    ImportedConversation,
    ListedConversation,
    WholeConversation,
)
from chat.api import ConversationBody, ConversationChange, DeletionBody, VersionBody
from chat.transfer import ImportFile
from common.answers import page_of

from .calls import CHANGING, PAGING, READING, call, describe, errors, example, query

describe(
    "chat.api.ConversationsView",
    get=call(
        page_of(ListedConversation, "ConversationPage"),
        "One's conversations",
        *READING,
        operation_id="list_conversations",
        parameters=[
            query("search", "Only with this text in title or messages."),
            query("folder", "Only those in this folder."),
            *PAGING,
        ],
    ),
    post=call(
        Conversation,
        "Begin a conversation",
        *CHANGING,
        status=201,
        operation_id="create_conversation",
        body=ConversationBody,
        examples=example({"title": "At sea", "target": "pirate"}),
    ),
)
describe(
    "chat.api.FoldersView",
    get=call(Folders, "The folders of one's conversations", 401, 403, operation_id="list_folders"),
)
describe(
    "chat.api.ConversationDeletionView",
    post=call(
        Deleted,
        "Delete conversations",
        *CHANGING,
        operation_id="delete_conversations",
        body=DeletionBody,
        examples=example({"ids": [999_999]}),
    ),
)
describe(
    "chat.api.ConversationImportView",
    post=call(
        ImportedConversation,
        "Import conversations from a file",
        *CHANGING,
        status=201,
        operation_id="import_conversation",
        body=ImportFile,
        examples=example({"title": "At sea", "messages": [{"id": 1, "role": "user", "content": "Hello!"}]}),
    ),
)
describe(
    "chat.api.ConversationView",
    get=call(WholeConversation, "A conversation with its messages", 401, 403, 404, operation_id="get_conversation"),
    patch=call(
        Conversation,
        "Change a conversation",
        *CHANGING,
        operation_id="change_conversation",
        body=ConversationChange,
        examples=example({"title": "On land"}),
    ),
    delete=call(None, "Delete a conversation", *READING, status=204, operation_id="delete_conversation"),
)
describe(
    "chat.api.ConversationShareView",
    post=call(Conversation, "Share a conversation with signed-in users", *CHANGING, operation_id="share_conversation"),
    delete=call(None, "Share it no longer", *READING, status=204, operation_id="unshare_conversation"),
)
describe(
    "chat.api.VersionsView",
    post=call(
        ChatMessage,
        "Keep an edited answer beside the original",
        *CHANGING,
        status=201,
        operation_id="edit_answer",
        body=VersionBody,
        examples=example({"message": 2, "content": "Ahoy!"}),
    ),
)
describe(
    "chat.api.ConversationExportView",
    get=extend_schema(
        summary="A conversation as a file",
        responses={
            (200, "application/json"): ExportedConversation,
            (200, "text/markdown"): OpenApiResponse(OpenApiTypes.STR),
            **errors(*READING),
        },
    ),
)
