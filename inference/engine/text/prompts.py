"""From messages to the tokens of a prompt, by the chat template of the adapter or of its base."""

from __future__ import annotations

import os
from typing import Any

from inference.engine.errors import EngineError
from inference.engine.faults import LONGEST_REASON

from .literal import Marked, control_tokens, mark
from .prompting import NOTHING, Prompting
from .rendering import RENDERER, TemplateError

SPEAKING = {"", "TemplateError", "ValueError", "TypeError"}  # exceptions that templates and Transformers explain
TURN = "{role}: {content}\n"


def encode(
    tokenizer: Any, messages: list[dict[str, str]] | None, prompt: str | None, continue_last: bool,
    prompting: Prompting = NOTHING, raw: bool = False,
) -> list[int]:  # fmt: skip
    """Token ids of a conversation or of raw text.

    Control tokens in messages are text (`literal.py`); `raw` takes them as what they stand for, as in raw text. Raises
    EngineError as `written` does.
    """
    marked = None if messages is None or raw else mark(messages, control_tokens(tokenizer))
    if marked is not None:
        return literally(tokenizer, marked, continue_last, prompting)
    text, special = written(tokenizer, messages, prompt, continue_last, prompting)
    if special:
        return list(tokenizer(text)["input_ids"])
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_pair(
    tokenizer: Any, messages: list[dict[str, str]] | None, prompt: str | None, continuation: str,
    prompting: Prompting = NOTHING, raw: bool = False,
) -> tuple[list[int], int]:  # fmt: skip
    """Token ids of a prompt with a text that goes on after it, and the number of the first that holds some of the text.

    Both become tokens together, as they would in training. Control tokens are text where they stand in messages or in
    what follows messages. Raises EngineError as `written` does.
    """
    control = frozenset() if messages is None or raw else control_tokens(tokenizer)
    marked = mark([*(messages or ()), {"role": "assistant", "content": continuation}], control) if control else None
    if marked is not None:
        *messages, last = marked.messages
        continuation = last["content"]
    before, special = written(tokenizer, messages, prompt, False, prompting)
    if marked is not None:
        opening = list(tokenizer("")["input_ids"]) if special else []
        context, tokens = (opening + marked.encode(tokenizer, text) for text in (before, before + continuation))
    else:
        context, tokens = (
            list(tokenizer(text, add_special_tokens=special)["input_ids"]) for text in (before, before + continuation)
        )
    return tokens, len(os.path.commonprefix([context, tokens]))


def literally(tokenizer: Any, marked: Marked, continue_last: bool, prompting: Prompting = NOTHING) -> list[int]:
    """Token ids of messages into which control tokens were typed. Raises EngineError as `written` does."""
    text, special = written(tokenizer, marked.messages, None, continue_last, prompting)
    before = list(tokenizer("")["input_ids"]) if special else []
    return before + marked.encode(tokenizer, text)


def written(
    tokenizer: Any, messages: list[dict[str, str]] | None, prompt: str | None, continue_last: bool,
    prompting: Prompting = NOTHING,
) -> tuple[str, bool]:  # fmt: skip
    """The text of a prompt, and whether the tokenizer adds its special tokens to it: a template writes them itself.

    A conversation is written by the adapter's own chat template (`prompting`), else by the base's; without either it is
    a plain transcript ("User: ...", "Assistant:"). Raises EngineError `template_failed` where the template refuses the
    messages, fails at them in whatever way, or does not come to an end.
    """
    if messages is None:
        return prompt or "", True
    if not prompting.template and not getattr(tokenizer, "chat_template", None):
        return transcript(messages, continue_last), True
    try:
        template = prompting.template or tokenizer.get_chat_template()
        tokens = prompting.tokens_beside(tokenizer.special_tokens_map)
        return RENDERER.render(template, messages, tokens, continue_last), False
    except (TemplateError, ValueError) as error:
        reason = str(error).strip().split("\n", 1)[0][:LONGEST_REASON]
        if isinstance(error, TemplateError) and error.kind not in SPEAKING and error.kind not in reason:
            reason = f"{error.kind}: {reason}"[:LONGEST_REASON]
        raise EngineError(
            "template_failed", f"The chat template refuses these messages: {reason}", "messages", reason=reason
        ) from error


def transcript(messages: list[dict[str, str]], continue_last: bool) -> str:
    """A conversation as plain text, for bases that were never taught a format."""
    text = "".join(TURN.format(role=m["role"].capitalize(), content=m["content"]) for m in messages)
    return text.removesuffix("\n") if continue_last else text + "Assistant:"
