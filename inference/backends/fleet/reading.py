"""What is wanted of a prompt itself, of a fleet: vLLM's `prompt_logprobs`, which it tells in whole answers only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from inference.backends.interface import Reading, Request
from inference.engine.errors import EngineError
from inference.engine.protocol import PromptLogprob, PromptPart
from inference.engine.text.token_ids import first_unknown
from inference.engine.text.vocabulary import Offsets, Vocabulary

from .wire import LONGEST_BODY, invalid

PIECE = 128  # tokens in one event
BYTES_OF_ENTRY = 160  # of a token's probability in an answer, with its text
MOST_BYTES = 2**28
MOST_IDS = 2**31


def whole_body(body: Mapping[str, Any], reading: Reading) -> dict[str, Any]:
    """The body of `questions.body_of` for an answer in one piece. Some token is always written; see `leave_out`."""
    asked = {name: value for name, value in body.items() if name != "stream_options"}
    asked |= {"stream": False, "return_token_ids": True}
    if reading.logprobs is not None:
        asked["prompt_logprobs"] = reading.logprobs
    if not reading.answer:
        asked |= {"max_tokens": 1, "min_tokens": 0, "logprobs": None}
    return asked


def longest(reading: Reading, tokens: int) -> int:
    """Bytes of the answer at most. `tokens`: of the prompt at most."""
    return min(MOST_BYTES, LONGEST_BODY + BYTES_OF_ENTRY * tokens * (1 + (reading.logprobs or 0)))


def echoed(request_id: str, request: Request, vocabulary: Vocabulary | None) -> PromptPart:
    """The prompt's text. `vocabulary` is there for a prompt of token ids. Raises EngineError."""
    if request.tokens is None or vocabulary is None:
        return {"type": "prompt", "id": request_id, "text": request.prompt or "", "logprobs": []}
    return {"type": "prompt", "id": request_id, "text": vocabulary.spelled(request.tokens), "logprobs": []}


def told(
    request_id: str, said: Any, request: Request, vocabulary: Vocabulary | None, first: int = 0
) -> list[PromptPart]:
    """The events of what a whole answer says of the prompt from token `first` on. Raises EngineError."""
    reading = request.reading
    parts = [echoed(request_id, request, vocabulary)] if reading.echo else []
    if reading.logprobs is None or vocabulary is None:
        return parts
    text = parts[0]["text"] if parts else reading.continuation
    try:
        choice = said["choices"][0]
        tokens, values = choice["prompt_token_ids"], choice["prompt_logprobs"]
        if first_unknown(tokens, MOST_IDS) is not None or len(tokens) != len(values):
            raise ValueError("no tokens")
        items = [
            item(token, its, reading.logprobs, vocabulary)
            for token, its in zip(tokens[first:], values[first:], strict=True)
        ]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise invalid("its probabilities of the prompt are none") from error
    if not items:
        raise EngineError("invalid_parameter", "The continuation adds no token.", "continuation")
    offsets = Offsets()
    for one in items:
        one["offset"] = offsets.take_of_prompt(one["token"], one["bytes"], text)
    pieces = (items[start : start + PIECE] for start in range(0, len(items), PIECE))
    return parts + [{"type": "prompt", "id": request_id, "text": "", "logprobs": piece} for piece in pieces]


def item(token: int, its: Mapping[str, Any] | None, alternatives: int, vocabulary: Vocabulary) -> PromptLogprob:
    """One token of a prompt. `its`: by token id, the token itself and the likeliest. Raises ValueError and others."""
    name, raw = vocabulary.alone(token)
    found: PromptLogprob = {
        "token": name, "token_id": token, "logprob": None, "bytes": raw, "offset": 0, "top": []
    }  # fmt: skip
    if its is not None:
        values = {int(other): float(entry["logprob"]) for other, entry in its.items()}
        if not all(map(math.isfinite, values.values())):
            raise ValueError("no probability")
        found["logprob"] = values[token]
        ranked = sorted(values.items(), key=lambda pair: -pair[1])[:alternatives]
        found["top"] = [
            (text, other, value, bytes_) for other, value in ranked for text, bytes_ in [vocabulary.alone(other)]
        ]
    return found
