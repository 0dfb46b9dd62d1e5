"""A vote that a client sends."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from common.shapes import CHARACTERS, Lenient, NotEmpty, refuse
from inference.api.ws.frames import MAX_TARGETS
from inference.engine.params import SamplingParams
from inference.engine.recipes import MAX_MEMBERS, recipe_digest
from inference.gateway.blends import label_of
from inference.params import Ingredient, Prompt, Text, body, one_blend, some_adapters

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


Digest = Annotated[str, BeforeValidator(_digest), WithJsonSchema({"type": "string", "pattern": "^[0-9a-f]{64}$"})]


class GivenPart(Ingredient):
    """An adapter of a blend, as the answer's `done` frame lists it."""

    digest: Digest


Recipe = Annotated[
    list[GivenPart],
    BeforeValidator(some_adapters),
    AfterValidator(one_blend),
    Field(description="Of a blend: what it consists of.", min_length=1, max_length=MAX_MEMBERS),
]


class GivenCandidate(Lenient, extra="forbid"):
    model: Annotated[
        Annotated[str, Field(max_length=128), CHARACTERS, NotEmpty] | None,
        Field(description="May be missing where there are adapters."),
    ] = None
    name: Annotated[str, Field(max_length=255), CHARACTERS] | None = None
    params: Annotated[SamplingParams | None, Field(description="What it was asked with beside the vote's params.")] = (
        None
    )
    digest: Digest
    adapters: Recipe | None = None
    text: Text
    chosen: bool = False

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if self.model is None and self.adapters is None:
            raise refuse("missing", param="model")
        parts = self._parts
        if parts and self.digest != (parts[0].digest if self._is_one(parts) else digest_of(parts)):
            raise refuse("recipe_digest", param="digest")
        return self

    @property
    def recipe(self) -> list[GivenPart]:
        """Of a blend; one adapter with the weight 1 is that adapter, as it is to whoever asks."""
        parts = self._parts
        return [] if self._is_one(parts) else parts

    @property
    def called(self) -> str:
        """The slug of a model, the recipe of a blend."""
        if recipe := self.recipe:
            return label_of((part.model, part.weight) for part in recipe)
        return self._parts[0].model if self._parts else self.model or ""

    @property
    def _parts(self) -> list[GivenPart]:
        return [part for part in self.adapters or () if part.weight]

    @staticmethod
    def _is_one(parts: list[GivenPart]) -> bool:
        return [part.weight for part in parts] == [1.0]


def digest_of(parts: list[GivenPart]) -> str:
    return recipe_digest((part.digest, part.weight) for part in parts)


def _different(value: list[GivenCandidate]) -> list[GivenCandidate]:
    """A model may take part twice, with other parameters."""
    seen: list[tuple[str, str, Any]] = [
        (one.called, one.digest if one.recipe else "", one.params.given() if one.params else {}) for one in value
    ]
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
