"""The calls about assistants."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework import serializers as s

from .answers import TestAnswer
from .calls import ASKING, PAGING, call, describe, errors, example
from .objects import Serializer, page_of


class AssistantParams(Serializer):
    max_tokens = s.IntegerField(min_value=1, required=False, allow_null=True)
    temperature = s.FloatField(min_value=0, max_value=2, required=False, allow_null=True)
    top_p = s.FloatField(min_value=0, max_value=1, required=False, allow_null=True, help_text="Above 0.")


class AssistantBody(Serializer):
    """`name` and `target` are needed to make one."""

    name = s.CharField(max_length=80, required=False)
    description = s.CharField(max_length=300, required=False, allow_blank=True)
    icon = s.CharField(required=False, allow_blank=True)
    system = s.CharField(required=False, allow_blank=True)
    target = s.CharField(max_length=128, required=False, help_text="Slug of an adapter or a base.")
    params = AssistantParams(required=False)
    samples = s.ListField(child=s.CharField(max_length=300), max_length=6, required=False)
    shared = s.BooleanField(required=False, help_text="Others may use it.")


class Assistant(Serializer):
    id = s.IntegerField()
    name = s.CharField()
    description = s.CharField(allow_blank=True)
    icon = s.CharField()
    system = s.CharField(allow_blank=True)
    target = s.CharField()
    params = AssistantParams()
    samples = s.ListField(child=s.CharField())
    shared = s.BooleanField()
    owner = s.CharField(help_text="Account that made it.")
    mine = s.BooleanField()
    problem = s.CharField(allow_null=True, help_text="Why its model cannot answer now, as an error code.")
    created_at = s.DateTimeField()
    updated_at = s.DateTimeField()


class AssistantQuestion(Serializer):
    message = s.CharField()
    conversation = s.IntegerField(min_value=1, required=False, allow_null=True, help_text="One's own with it.")
    model = s.CharField(
        required=False, allow_null=True, help_text="Slug, or an adapter's id; the assistant's own else."
    )


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
        body=AssistantQuestion,
        examples=example({"message": "What shall we drink?"}),
    ),
)
