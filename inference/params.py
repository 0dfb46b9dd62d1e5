"""What every door asks with: sampling parameters, messages, prompts, as shapes of `common/shapes.py`.

They are read before anything is tokenised; a refusal (400) names the parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from django.conf import settings
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from common.shapes import CHARACTERS, NotEmpty, Shape, Str, read, refuse
from inference import contexts
from inference.engine.params import SamplingParams
from inference.engine.recipes import MAX_MEMBERS, MAX_WEIGHT

T = TypeVar("T")
MAX_MESSAGES = 500
MAX_MODEL_CHARS = 200
Role = Literal["system", "user", "assistant"]


def _at_most_a_prompt(value: str) -> str:
    if len(value) > settings.MAX_PROMPT_CHARS:
        raise refuse("too_long", limit=settings.MAX_PROMPT_CHARS)
    return value


def _list(value: Any) -> Any:
    if not isinstance(value, list):
        raise refuse("messages_type")
    if not value:
        raise refuse("empty")
    if len(value) > MAX_MESSAGES:
        raise refuse("too_many", limit=MAX_MESSAGES)
    return value


def _together(value: list[ChatMessage]) -> list[ChatMessage]:
    if sum(len(item.content) for item in value) > settings.MAX_PROMPT_CHARS:
        raise refuse("too_long", limit=settings.MAX_PROMPT_CHARS)
    if not any(item.content.strip() for item in value):
        raise refuse("empty")
    return value


def _says_something(value: str) -> str:
    if not value.strip():
        raise refuse("empty")
    return value


Text = Annotated[Str, AfterValidator(_at_most_a_prompt)]
Prompt = Annotated[Text, AfterValidator(_says_something), Field(description="Raw text.")]
RawPrompt = Annotated[Text, NotEmpty]  # also a line break alone, which programs ask a model to go on from
ModelName = Annotated[str, Field(max_length=MAX_MODEL_CHARS, description="Slug of an adapter or a base."), CHARACTERS]


class Ingredient(Shape):
    """An adapter of a blend."""

    model: Annotated[str, Field(max_length=MAX_MODEL_CHARS, description="Slug of an adapter."), CHARACTERS]
    weight: Annotated[
        float, Field(ge=-MAX_WEIGHT, le=MAX_WEIGHT, allow_inf_nan=False, description="0: it takes no part.")
    ] = 1.0


Part = TypeVar("Part", bound=Ingredient)


def some_adapters(value: Any) -> Any:
    if not isinstance(value, list):
        raise refuse("targets_type")
    if not value:
        raise refuse("empty")
    if len(value) > MAX_MEMBERS:
        raise refuse("too_many", limit=MAX_MEMBERS)
    return value


def one_blend(parts: list[Part]) -> list[Part]:
    if len({part.model for part in parts}) != len(parts):
        raise refuse("targets_twice")
    if not any(part.weight for part in parts):
        raise refuse("weights_zero")
    return parts


Blend = Annotated[
    list[Ingredient],
    BeforeValidator(some_adapters),
    AfterValidator(one_blend),
    Field(
        description="Adapters of one base model, each with its weight, that answer as one.",
        min_length=1, max_length=MAX_MEMBERS,
    ),
]  # fmt: skip


class ChatMessage(Shape):
    role: Role
    content: Text


Messages = Annotated[
    list[ChatMessage],
    BeforeValidator(_list),
    AfterValidator(_together),
    Field(description="The base's chat template is applied.", max_length=MAX_MESSAGES),
]


class Asked(Shape):
    """Exactly one of `messages` and `prompt`."""

    messages: Messages | None = None
    prompt: Prompt | None = None

    @model_validator(mode="before")
    @classmethod
    def _not_both(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("messages") is not None and data.get("prompt") is not None:
            raise refuse("both", param="prompt")
        return data

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.messages is None and self.prompt is None:
            raise refuse("neither", param="prompt")
        return self

    @property
    def turns(self) -> list[dict[str, str]] | None:
        return turns(self.messages)


def turns(messages: list[ChatMessage] | None) -> list[dict[str, str]] | None:
    """As the engine takes them."""
    return None if messages is None else [{"role": item.role, "content": item.content} for item in messages]


def served_context(length: int, base: str = "") -> int:
    """Tokens of prompt and answer together that are served of a model of this context length, as a fleet says it for
    the base model named `base`; 0 where that is not known."""
    if settings.INFERENCE_BACKEND == "local":
        return min(length, settings.ENGINE_MAX_CONTEXT)
    return contexts.reported(base) or length


def bounds() -> dict[str, Any]:
    """The validation context: bounds that are settings."""
    return {"max_tokens_limit": settings.MAX_TOKENS_LIMIT, "min_tokens_limit": settings.MAX_TOKENS_LIMIT}


def body(shape: type[T], data: Any, prefix: str = "") -> T:
    """What a client sent, in this shape. Raises ApiError 400."""
    return read(shape, data, prefix, prefix.rstrip("."), **bounds())


def sampling(data: Any, prefix: str = "") -> SamplingParams:
    """Sampling parameters from a JSON object. Raises ApiError 400."""
    return read(SamplingParams, data, prefix, prefix.rstrip(".") or "params", **bounds())
