"""Token ids of a prompt against the rows of the base's embedding.

A tokenizer may know more tokens than the model: training added some and never resized the model, or the files come from
two releases. An id without a row would end the whole step, so it is found before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from inference.engine.errors import EngineError


def first_unknown(tokens: Iterable[Any], vocabulary: int) -> Any:
    """The first of the ids that is no row of an embedding of `vocabulary` rows; None where all are."""
    for token in tokens:
        if type(token) is not int or not 0 <= token < vocabulary:
            return "" if token is None else token
    return None


def check_tokens(tokens: list[int], vocabulary: int, command: Mapping[str, Any], name_of: Callable[[Any], str]) -> None:
    """Refuse a prompt that holds a token which the base has no embedding for.

    `command`: the request, whose own tokens or text are searched for the token; one that is not in there comes from the
    chat template or the tokenizer, where the user cannot remove it. `name_of` gives a token's text.
    Raises EngineError `unknown_token` or `template_token`.
    """
    token = first_unknown(tokens, vocabulary)
    if token is None:
        return
    name = name_of(token) or str(token)
    prompt = command.get("prompt")
    messages = command.get("messages")
    texts = [prompt or ""] if messages is None else [str(message.get("content")) for message in messages]
    param = "prompt" if messages is None else "messages"
    if command.get("tokens") is not None or any(name in text for text in texts):
        raise EngineError(
            "unknown_token",
            f"The prompt holds {name}, a token (id {token}) that the base has no embedding for; remove it.",
            param, token=name, id=token, vocabulary=vocabulary,
        )  # fmt: skip
    raise EngineError(
        "template_token",
        f"The base's chat template or tokenizer adds {name}, a token (id {token}) that the base has no embedding for.",
        param, token=name, id=token, vocabulary=vocabulary,
    )  # fmt: skip
