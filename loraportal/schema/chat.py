"""The calls about one's own conversations."""

from __future__ import annotations

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers as s

from chat.api import ConversationBody

from .calls import PAGING, call, describe, errors, example, query
from .objects import Serializer, page_of


class Conversation(Serializer):
    id = s.IntegerField()
    title = s.CharField(allow_blank=True)
    system = s.CharField(allow_blank=True)
    target = s.CharField(allow_blank=True)
    params = s.DictField()
    leaf = s.IntegerField(allow_null=True)
    assistant = s.IntegerField(allow_null=True)
    created_at = s.DateTimeField()
    updated_at = s.DateTimeField()


class ChatMessage(Serializer):
    id = s.IntegerField()
    parent = s.IntegerField(allow_null=True)  # type: ignore[assignment]
    role = s.ChoiceField(choices=["user", "assistant"])
    content = s.CharField(allow_blank=True)
    state = s.ChoiceField(choices=["done", "running", "stopped", "failed"])
    target = s.CharField(allow_blank=True)
    target_name = s.CharField(allow_blank=True)
    digest = s.CharField(allow_blank=True)
    info = s.DictField()
    created_at = s.DateTimeField()


class WholeConversation(Conversation):
    messages = ChatMessage(many=True)


class ImportedMessage(Serializer):
    id = s.IntegerField(min_value=0)
    parent = s.IntegerField(allow_null=True, required=False)  # type: ignore[assignment]
    role = s.ChoiceField(choices=["user", "assistant"])
    content = s.CharField(allow_blank=True)


class Imported(Serializer):
    """What an export holds: as JSON (`messages` and the rest; parents first), or as Markdown (`markdown` alone)."""

    title = s.CharField(max_length=200, required=False, allow_blank=True)
    system = s.CharField(required=False, allow_blank=True)
    target = s.CharField(max_length=128, required=False, allow_blank=True)
    params = s.DictField(required=False)
    leaf = s.IntegerField(allow_null=True, required=False)
    messages = ImportedMessage(many=True, required=False)
    markdown = s.CharField(required=False)


CHANGING = (400, 401, 403, 404, 409, 413, 415)
describe(
    "chat.api.ConversationsView",
    get=call(
        page_of(Conversation, "ConversationPage"),
        "One's conversations",
        401,
        403,
        404,
        operation_id="list_conversations",
        parameters=[query("search", "Only with this text in title or messages."), *PAGING],
    ),
    post=extend_schema(
        summary="Begin a conversation",
        operation_id="create_conversation",
        request=ConversationBody,
        responses={201: Conversation, **errors(*CHANGING)},
        examples=example({"title": "At sea", "target": "pirate"}),
    ),
)
describe(
    "chat.api.ConversationImportView",
    post=extend_schema(
        summary="Bring an exported conversation back",
        operation_id="import_conversation",
        request=Imported,
        responses={201: Conversation, **errors(*CHANGING)},
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
        body=ConversationBody,
        examples=example({"title": "On land"}),
    ),
    delete=extend_schema(
        summary="Delete a conversation",
        operation_id="delete_conversation",
        request=None,
        responses={204: None, **errors(401, 403, 404)},
    ),
)
describe(
    "chat.api.ConversationExportView",
    get=extend_schema(
        summary="A conversation as a file",
        responses={
            (200, "application/json"): WholeConversation,
            (200, "text/markdown"): OpenApiResponse(OpenApiTypes.STR),
            **errors(401, 403, 404),
        },
    ),
)
