"""A vote that a client sends."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from common.shapes import CHARACTERS, Lenient, NotEmpty, refuse
from inference.api.ws.frames import MAX_TARGETS
from inference.engine.params import SamplingParams
from inference.params import Prompt, Text, body

from .models import Verdict

DIGEST = re.compile(r"[0-9a-f]{64}")


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not DIGEST.fullmatch(value):
        raise refuse("digest")
    return value


def _verdict(value: Any) -> str:
    if value not in Verdict.values:
        raise refuse("literal_error", expected=", ".join(Verdict.values))
    return str(value)


def _several(value: Any) -> Any:
    if not isinstance(value, list):
        raise refuse("answers_type")
    if not 2 <= len(value) <= MAX_TARGETS:
        raise refuse("entries", low=2, high=MAX_TARGETS)
    return value


class GivenCandidate(Lenient, extra="forbid"):
    model: Annotated[str, Field(max_length=128), CHARACTERS, NotEmpty]
    name: Annotated[str, Field(max_length=255), CHARACTERS] | None = None
    params: Annotated[SamplingParams | None, Field(description="What it was asked with beside the vote's params.")] = (
        None
    )
    digest: Annotated[str, BeforeValidator(_digest), WithJsonSchema({"type": "string", "pattern": "^[0-9a-f]{64}$"})]
    text: Text
    chosen: bool = False


def _different(value: list[GivenCandidate]) -> list[GivenCandidate]:
    """A model may take part twice, with other parameters."""
    seen: list[tuple[str, Any]] = [(one.model, one.params.given() if one.params else {}) for one in value]
    if any(one in seen[:index] for index, one in enumerate(seen)):
        raise refuse("targets_twice")
    return value


class GivenVote(Lenient, extra="forbid"):
    """A vote that was read and found good."""

    prompt: Prompt
    system: Text | None = None
    params: SamplingParams | None = None
    blind: bool = False
    verdict: Annotated[str, BeforeValidator(_verdict), WithJsonSchema({"type": "string", "enum": Verdict.values})]
    candidates: Annotated[
        list[GivenCandidate],
        BeforeValidator(_several),
        AfterValidator(_different),
        Field(min_length=2, max_length=MAX_TARGETS),
    ]

    @model_validator(mode="after")
    def _one_is_best(self) -> Self:
        if sum(candidate.chosen for candidate in self.candidates) != (self.verdict == Verdict.BEST):
            raise refuse("chosen", param="candidates")
        return self


def vote(data: Any) -> GivenVote:
    """Raises ApiError 400."""
    return body(GivenVote, data)
