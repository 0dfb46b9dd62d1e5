"""The calls about assistants."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework import serializers as s

from chat.assistant_api import AssistantBody, QuestionBody

from .answers import TestAnswer
from .calls import ASKING, PAGING, call, describe, errors, example
from .objects import Serializer, page_of


class Assistant(Serializer):
    id = s.IntegerField()
    name = s.CharField()
    description = s.CharField(allow_blank=True)
    icon = s.CharField()
    system = s.CharField(allow_blank=True)
    target = s.CharField()
    params = s.DictField()
    samples = s.ListField(child=s.CharField())
    shared = s.BooleanField()
    owner = s.CharField(help_text="Account that made it.")
    mine = s.BooleanField()
    problem = s.CharField(allow_null=True, help_text="Why its model cannot answer now, as an error code.")
    created_at = s.DateTimeField()
    updated_at = s.DateTimeField()


class AssistantAnswer(TestAnswer):
    conversation = s.IntegerField(required=False)
    message = s.IntegerField(required=False, help_text="Id of the answer in the conversation.")
    trimmed = s.IntegerField(required=False, help_text="Earlier messages that did not fit.")


CHANGING = (400, 401, 403, 404, 413, 415)
describe(
    "chat.assistant_api.AssistantsView",
    get=call(
        page_of(Assistant, "AssistantPage"),
        "One's own assistants and the shared ones",
        401,
        403,
        404,
        operation_id="list_assistants",
        parameters=PAGING,
    ),
    post=extend_schema(
        summary="Make an assistant",
        operation_id="create_assistant",
        request=AssistantBody,
        responses={201: Assistant, **errors(*CHANGING)},
        examples=example({"name": "Flint", "target": "pirate", "system": "Be brief.", "params": {"temperature": 0.5}}),
    ),
)
describe(
    "chat.assistant_api.AssistantView",
    get=call(Assistant, "One assistant", 401, 403, 404, operation_id="get_assistant"),
    patch=call(
        Assistant,
        "Change one's own assistant",
        *CHANGING,
        operation_id="change_assistant",
        body=AssistantBody,
        examples=example({"shared": True}),
    ),
    delete=extend_schema(
        summary="Delete one's own assistant",
        operation_id="delete_assistant",
        request=None,
        responses={204: None, **errors(401, 403, 404)},
    ),
)
describe(
    "chat.assistant_api.AssistantChatView",
    post=call(
        AssistantAnswer,
        "Ask an assistant and wait for the whole answer",
        *ASKING,
        operation_id="ask_assistant",
        body=QuestionBody,
        examples=example({"message": "What shall we drink?"}),
    ),
)
