"""The calls about assistants."""

from __future__ import annotations

from chat.answers import Assistant, AssistantAnswer
from chat.assistant_api import AssistantBody, QuestionBody
from common.answers import page_of

from .calls import ASKING, PAGING, READING, call, describe, example

CHANGING = (400, 401, 403, 404, 413, 415)
describe(
    "chat.assistant_api.AssistantsView",
    get=call(
        page_of(Assistant, "AssistantPage"),
        "One's own assistants and the shared ones",
        *READING,
        operation_id="list_assistants",
        parameters=PAGING,
    ),
    post=call(
        Assistant,
        "Make an assistant",
        *CHANGING,
        status=201,
        operation_id="create_assistant",
        body=AssistantBody,
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
    delete=call(None, "Delete one's own assistant", *READING, status=204, operation_id="delete_assistant"),
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
