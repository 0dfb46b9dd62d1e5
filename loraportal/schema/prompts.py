"""The calls about the prompt library."""

from __future__ import annotations

from common.answers import page_of
from prompts.answers import ListedPrompt, SavedPrompt
from prompts.flows import PromptBody
from prompts.models import PARTS

from .calls import CHANGING, PAGING, READING, call, describe, example, query

describe(
    "prompts.api.PromptsView",
    get=call(
        page_of(ListedPrompt, "PromptPage"),
        "One's own saved prompts and the shared ones",
        *(400, *READING),
        operation_id="list_prompts",
        parameters=[
            query("search", "Only where every word occurs in name, texts or owner."),
            query("part", "Only with one of these parts, comma-separated: " + ", ".join(PARTS) + "."),
            query("whose", "Only one's own, or only those of others.", enum=["mine", "others"]),
            *PAGING,
        ],
    ),
    post=call(
        SavedPrompt,
        "Save a system prompt, a prompt or parameters",
        *CHANGING,
        status=201,
        operation_id="create_prompt",
        body=PromptBody,
        examples=example({"name": "Brief", "system": "Answer in one sentence.", "params": {"temperature": 0.2}}),
    ),
)
describe(
    "prompts.api.PromptView",
    get=call(SavedPrompt, "One saved prompt with its texts", 401, 403, 404, operation_id="get_prompt"),
    patch=call(
        SavedPrompt,
        "Change one's own saved prompt",
        *(400, 401, 403, 404, 413, 415),
        operation_id="change_prompt",
        body=PromptBody,
        examples=example({"shared": True}),
    ),
    delete=call(None, "Delete one's own saved prompt", *READING, status=204, operation_id="delete_prompt"),
)
