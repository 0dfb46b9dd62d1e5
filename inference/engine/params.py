"""The sampling parameters of a request, each declared once.

This declaration validates what a client sends, describes it in the OpenAPI schema, draws the page's parameter form and
is what the engine's sampler reads. A new parameter is one field here and its effect in `model/sampler.py`.

Errors are pydantic's, with these types of our own: `out_of_range` (low, high), `stop_type`, `too_many`, `too_long`
(limit), `empty_entry`, `invalid_text`, `min_tokens_above`, `json_conflict`; those that concern one field name it in
`param` where pydantic's location does not. `common/shapes.py` makes sentences of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

DEFAULT_MAX_TOKENS = 256
MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_STOP_IDS = 128
MAX_SCHEMA_CHARS = 64 * 1024
JAVASCRIPT_INTEGER = 2**53 - 1  # the largest seed that a page can send exactly


def gettext_noop(text: str) -> str:
    """Marks a text for translation; the page translates it, the engine has no languages."""
    return text


@dataclass(frozen=True)
class Shown:
    """How the page's form shows a parameter. Texts are msgids; a title that is a proper name stays as it is."""

    title: str
    hint: str = ""
    group: Literal["basic", "more"] = "basic"
    step: float | None = None  # None: a text of lines
    low: float | None = None  # where the form's lowest value is not the range's
    high: float | None = None
    value: float | None = None  # what the form begins with, where that is not empty
    placeholder: str = ""
    slider: bool = False
    testid: str = ""  # where it is not the name


@dataclass(frozen=True)
class OpenAI:
    """OpenAI's two calls take the parameter under its own name."""


OPENAI = OpenAI()


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 64.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _as_many_as_possible(value: Any, info: ValidationInfo) -> Any:
    """-1, as llama.cpp and LangChain have it: the installation's own bound."""
    return (info.context or {}).get("max_tokens_limit", value) if value == -1 else value


def _random(value: Any) -> Any:
    """-1, as llama.cpp and vLLM have it: no seed."""
    return None if value == -1 else value


def _within_limit(value: int, info: ValidationInfo) -> int:
    """`max_tokens_limit` of the validation context is the installation's own bound."""
    limit = (info.context or {}).get("max_tokens_limit")
    if limit is not None and value > limit:
        low = 0 if info.field_name == "min_tokens" else 1
        raise PydanticCustomError("out_of_range", "outside of its range", {"low": low, "high": limit})
    return value


def _stops(value: Any) -> tuple[str, ...]:
    """One stop string or a list of them."""
    items = [value] if isinstance(value, str) else list(value) if isinstance(value, (list, tuple)) else None
    if items is None:
        raise PydanticCustomError("stop_type", "neither a string nor a list of strings")
    if len(items) > MAX_STOPS:
        raise PydanticCustomError("too_many", "too many entries", {"limit": MAX_STOPS})
    for item in items:
        if not isinstance(item, str):
            raise PydanticCustomError("string_type", "not a string")
        if len(item) > MAX_STOP_CHARS:
            raise PydanticCustomError("too_long", "too long", {"limit": MAX_STOP_CHARS})
        if not item.isascii() and any("\ud800" <= character <= "\udfff" for character in item):
            raise PydanticCustomError("invalid_text", "half of a surrogate pair")
    if "" in items:
        raise PydanticCustomError("empty_entry", "an empty stop string")
    return tuple(items)


def _ids(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise PydanticCustomError("list_type", "not a list")
    if len(value) > MAX_STOP_IDS:
        raise PydanticCustomError("too_many", "too many entries", {"limit": MAX_STOP_IDS})
    return tuple(value)


def _schema(value: dict[str, Any]) -> dict[str, Any]:
    if len(str(value)) > MAX_SCHEMA_CHARS:
        raise PydanticCustomError("too_long", "too long", {"limit": MAX_SCHEMA_CHARS})
    return value


WHOLE = BeforeValidator(_whole)
UNBOUNDED = BeforeValidator(_as_many_as_possible)
StopStrings = Annotated[
    tuple[str, ...],
    BeforeValidator(_stops),
    WithJsonSchema({"anyOf": [
        {"type": "string", "maxLength": MAX_STOP_CHARS},
        {"type": "array", "items": {"type": "string", "maxLength": MAX_STOP_CHARS}, "maxItems": MAX_STOPS},
    ]}),
]  # fmt: skip
JsonSchema = Annotated[dict[str, Any], AfterValidator(_schema)]


class NullIsMissing(BaseModel):
    """Every field may be missing or null and then has its default."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_missing(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            return {name: value for name, value in data.items() if value is not None or name not in cls.model_fields}
        return data


class SamplingParams(NullIsMissing):
    """Every one may be missing or null and then has its default."""

    max_tokens: Annotated[
        int,
        Field(ge=1, description="New tokens at most; -1: as many as this installation allows."),
        AfterValidator(_within_limit),
        UNBOUNDED,
        WHOLE,
        Shown(
            gettext_noop("Max tokens"),
            gettext_noop("Maximum length of the answer."),
            step=1,
            value=DEFAULT_MAX_TOKENS,
        ),
    ] = DEFAULT_MAX_TOKENS
    temperature: Annotated[
        float,
        Field(ge=0, le=2, description="0 is greedy, and so is what lies below 0.00001."),
        OPENAI,
        Shown(
            gettext_noop("Temperature"),
            gettext_noop("0 always picks the most likely token; higher is more random."),
            step=0.05,
            value=0.7,
            slider=True,
        ),
    ] = 1.0
    top_p: Annotated[
        float,
        Field(gt=0, le=1, description="Only the likeliest tokens that reach this share together."),
        OPENAI,
        Shown(
            "Top-p",
            gettext_noop("Sample only from the most likely tokens whose cumulative probability reaches this value."),
            step=0.01,
            low=0.01,
            value=0.95,
            slider=True,
        ),
    ] = 1.0
    top_k: Annotated[
        int,
        Field(ge=-1, le=2**31 - 1, description="Only the k likeliest tokens; 0 and -1 are off."),
        WHOLE,
        OPENAI,
        Shown(
            "Top-k",
            gettext_noop("Sample only from the k most likely tokens; 0 turns this off."),
            "more",
            step=1,
            low=0,
            high=1000,
            placeholder=gettext_noop("off"),
        ),
    ] = 0
    min_p: Annotated[
        float, Field(ge=0, le=1, description="Only tokens with this share of the likeliest one's."), OPENAI
    ] = 0.0
    min_tokens: Annotated[
        int,
        Field(ge=0, description="New tokens before the answer may end by itself."),
        AfterValidator(_within_limit),
        WHOLE,
        OPENAI,
    ] = 0
    repetition_penalty: Annotated[
        float,
        Field(gt=0, le=10, description="Over prompt and answer; above 1 discourages words that were already used."),
        OPENAI,
        Shown(
            gettext_noop("Repetition penalty"),
            gettext_noop("Values above 1 reduce repetition."),
            "more",
            step=0.05,
            low=0.1,
            placeholder="1",
        ),
    ] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2, description="Over the answer."), OPENAI] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2, description="Over the answer."), OPENAI] = 0.0
    seed: Annotated[
        Annotated[int, Field(ge=-(2**63), le=2**63 - 1), WHOLE] | None,
        BeforeValidator(_random),
        Field(description="The same seed gives the same answer again; -1 is none."),
        OPENAI,
        Shown(
            gettext_noop("Seed"),
            gettext_noop("The same seed reproduces the same answer."),
            "more",
            step=1,
            low=0,
            high=JAVASCRIPT_INTEGER,
            placeholder=gettext_noop("random"),
        ),
    ] = None
    stop: Annotated[
        StopStrings,
        Field(description="The answer ends before one of these appears; they are never part of it."),
        OPENAI,
        Shown(
            gettext_noop("Stop strings"),
            gettext_noop("Generation stops before any of these strings."),
            "more",
            placeholder=gettext_noop("One per line"),
            testid="stop-strings",
        ),
    ] = ()
    stop_token_ids: Annotated[
        tuple[Annotated[int, Field(ge=0, le=2**31 - 1), WHOLE], ...],
        BeforeValidator(_ids),
        Field(description="Tokens that end the answer as the model's own end does."),
        OPENAI,
    ] = ()
    include_stop_str_in_output: Annotated[
        bool,
        Field(description="The stop string, or the text of the token, that ends the answer is part of it."),
        OPENAI,
    ] = False
    ignore_eos: Annotated[bool, Field(description="Go on after the model's end of text."), OPENAI] = False
    logprobs: Annotated[
        Annotated[int, Field(ge=0, le=MAX_LOGPROBS), WHOLE] | None,
        Field(description="Alternatives for each token; 0: the chosen token alone."),
    ] = None
    json_schema: Annotated[
        JsonSchema | None, Field(description="The answer is JSON of this schema, of at most 64 KiB.")
    ] = None
    json_object: Annotated[bool, Field(description="The answer is a JSON object.")] = False

    @model_validator(mode="after")
    def _agree(self, info: ValidationInfo) -> Self:
        limit = (info.context or {}).get("max_tokens_limit")
        most = self.max_tokens if "max_tokens" in self.model_fields_set else limit
        if most is not None and self.min_tokens > most:
            raise PydanticCustomError("min_tokens_above", "min_tokens above max_tokens", {"param": "min_tokens"})
        if self.json_object and self.json_schema is not None:
            raise PydanticCustomError("json_conflict", "json_object and json_schema", {"param": "json_object"})
        return self

    def given(self) -> dict[str, Any]:
        """Only what the client named, as JSON: for a line of the protocol or a row of the database."""
        return self.model_dump(mode="json", exclude_unset=True)

    def replaced(self, **changes: Any) -> Self:
        """Another one with these values, which are not validated again."""
        return self.model_copy(update=changes)

    def for_answer(self, number: int) -> Self:
        """For answer `number` (from 0) to one question: with a seed of its own, so that the answers differ."""
        return self if self.seed is None or not number else self.replaced(seed=(self.seed + number) % 2**63)


def shown() -> Iterator[tuple[str, Shown]]:
    """(name, how it is shown) of each parameter of the page's form."""
    for name, field in SamplingParams.model_fields.items():
        for item in field.metadata:
            if isinstance(item, Shown):
                yield name, item


OPENAI_PARAMETERS = tuple(
    name for name, field in SamplingParams.model_fields.items() if any(isinstance(m, OpenAI) for m in field.metadata)
)
