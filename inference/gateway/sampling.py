"""All that the gateway and its callers read of a request's sampling parameters."""

from __future__ import annotations

from inference.engine.protocol import Params

DEFAULT_TOKENS = 256  # what the engine takes for max_tokens where a request names none


def most_tokens(params: Params) -> int:
    """How many tokens the answer may have."""
    return params.get("max_tokens", DEFAULT_TOKENS)


def reseeded(params: Params, number: int) -> Params:
    """For answer `number` (from 0) to one question: with a seed of its own, so that the answers differ."""
    seed = params.get("seed")
    return {**params, "seed": (seed + number) % 2**63} if seed is not None and number else params


def wants_logprobs(params: Params) -> bool:
    return params.get("logprobs") is not None
