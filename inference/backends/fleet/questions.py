"""A request as vLLM's `/v1/completions` takes it.

The prompt goes as text, written by the portal with the adapter's own template, and becomes tokens by the base's
tokenizer in the replica: the same files read by the same library as the local engine's, so that equal prompts are equal
tokens. Every parameter is named, so that neither a replica's flags nor its `generation_config.json` decide any.
"""

from __future__ import annotations

from typing import Any

from inference.engine.params import SamplingParams

from .catalogue import BasePlace

OURS = {  # the parameters of a request by their names here -> there
    name: name
    for name in (
        "temperature top_p min_p min_tokens repetition_penalty presence_penalty frequency_penalty seed "
        "include_stop_str_in_output ignore_eos"
    ).split()
}


def body_of(
    model: str, prompt: str | list[int], special: bool, params: SamplingParams, place: BasePlace, ends: frozenset[int]
) -> dict[str, Any]:
    """`special`: the tokenizer adds its special tokens to the prompt. `ends`: tokens that end an answer besides the
    base's own."""
    most = min(params.max_tokens, place.context) if place.context else params.max_tokens
    own = () if params.ignore_eos else sorted(ends)
    found: dict[str, Any] = {there: getattr(params, here) for here, there in OURS.items()}
    found |= {
        "model": model,
        "prompt": prompt,
        "add_special_tokens": special,
        "max_tokens": most,
        "min_tokens": min(params.min_tokens, most),
        "top_k": max(0, params.top_k),
        "stop": list(params.stop),
        "stop_token_ids": list(dict.fromkeys([*params.stop_token_ids, *own])),
        "n": 1,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "skip_special_tokens": True,
    }
    if params.logprobs is not None:
        found |= {"logprobs": params.logprobs, "return_tokens_as_token_ids": True}
    if params.json_schema is not None:
        found["structured_outputs"] = {"json": params.json_schema}
    elif params.json_object:
        found["structured_outputs"] = {"json_object": True}
    return found
