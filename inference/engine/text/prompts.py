"""From messages to the tokens of a prompt, by the base's own chat template."""

from __future__ import annotations

from typing import Any

import jinja2

from inference.engine.errors import EngineError
from inference.engine.faults import LONGEST_REASON, one_line

TURN = "{role}: {content}\n"


def encode(tokenizer: Any, messages: list[dict[str, str]] | None, prompt: str | None, continue_last: bool) -> list[int]:
    """Token ids of a conversation or of raw text.

    A base without a chat template gets a plain transcript ("User: ...", "Assistant:"). Raises EngineError
    `template_failed` where the template refuses the messages, or fails at them in whatever way.
    """
    if messages is None:
        return list(tokenizer(prompt or "")["input_ids"])
    if not getattr(tokenizer, "chat_template", None):
        return list(tokenizer(transcript(messages, continue_last))["input_ids"])
    try:
        ids = tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=not continue_last,
            continue_final_message=continue_last,
            tokenize=True,
            return_dict=False,
        )
    except Exception as error:  # a template is a program: it may divide by zero or look up what is not there
        if isinstance(error, MemoryError | OSError):
            raise
        own = isinstance(error, jinja2.TemplateError | ValueError | TypeError)
        reason = str(error).strip().split("\n", 1)[0][:LONGEST_REASON] if own else one_line(error)
        raise EngineError(
            "template_failed", f"The base's chat template refuses these messages: {reason}", "messages", reason=reason
        ) from error
    return list(ids)


def transcript(messages: list[dict[str, str]], continue_last: bool) -> str:
    """A conversation as plain text, for bases that were never taught a format."""
    text = "".join(TURN.format(role=m["role"].capitalize(), content=m["content"]) for m in messages)
    return text.removesuffix("\n") if continue_last else text + "Assistant:"
