"""What OpenAI's clients send; fields that are not taken are refused by name where they would mean something."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Annotated, Any, ClassVar, Literal, Self

from django.conf import settings
from django.utils.translation import gettext as _
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, create_model, model_validator

from common.api import ApiError
from common.numbers import grouped
from common.shapes import Shape, read, refuse, whole
from inference.engine.params import (
    MAX_LOGPROBS,
    OPENAI_PARAMETERS,
    UNBOUNDED,
    JsonSchema,
    NullIsMissing,
    SamplingParams,
)
from inference.engine.text.token_ids import first_unknown
from inference.gateway.asking import Reading
from inference.params import MAX_MESSAGES, Blend, Messages, ModelName, RawPrompt, Text, sampling, turns

from .fields import check_fields, check_message, unsupported

MAX_CHOICES = 8
MAX_ANSWERS = 128  # of one request
MAX_TOKEN = 2**31
MAX_TOLD = 1_000_000  # tokens of prompts that are echoed, each counted with its alternatives; of a text its characters
CHAT_TOKENS = 1024  # where a request names no maximum; an answer never outgrows the model's context
COMPLETION_TOKENS = 16  # OpenAI's default of the older call
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def refused(param: str, code: str, message: str, **values: Any) -> ApiError:
    return ApiError(code, message % {"param": param, **values}, 400, param)


# Messages and prompts


def _conversation(value: Any) -> Any:
    """OpenAI's messages as ours: `developer` reads as `system`, text parts are joined."""
    if not isinstance(value, list):
        raise refuse("list_type")
    if len(value) > MAX_MESSAGES:
        raise refuse("too_many", limit=MAX_MESSAGES)
    return [_message(item, f"messages.{index}") for index, item in enumerate(value)]


def _message(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise refused(where, "invalid_type", _("%(param)s must be an object."))
    role = value.get("role")
    if role in ("tool", "function"):
        raise unsupported(f"{where}.role")
    check_message(value, where)
    if not isinstance(role, str) or role not in ROLES:
        message = _("%(param)s must be one of %(choices)s.")
        raise refused(f"{where}.role", "invalid_choice", message, choices=", ".join(ROLES))
    content = value.get("content")
    if isinstance(content, list):
        content = "".join(_part(item, f"{where}.content.{index}") for index, item in enumerate(content))
    return {"role": ROLES[role], "content": content}


def _part(value: Any, where: str) -> str:
    if not isinstance(value, Mapping) or value.get("type") != "text":
        kind = value.get("type") if isinstance(value, Mapping) else None
        raise unsupported(f"{where}.type" if kind else where)
    return read(Text, value.get("text"), "", f"{where}.text")


def _prompts(value: Any) -> Any:
    """One prompt or a list of them, each a text or a list of token ids."""
    one = not isinstance(value, list) or (bool(value) and isinstance(value[0], int))
    items = [value] if one else value
    if not 1 <= len(items) <= MAX_ANSWERS:
        raise too_many_prompts()
    return [_ids(item) if isinstance(item, list) else read(RawPrompt, item, "", "prompt") for item in items]


def _ids(tokens: list[Any]) -> list[int]:
    if not tokens:
        raise refused("prompt", "empty", _("%(param)s must not be empty."))
    if first_unknown(tokens, MAX_TOKEN) is not None:  # before pydantic would list every one that is none
        raise refused("prompt", "invalid_type", _("%(param)s must be a text or token IDs (whole numbers from 0)."))
    return tokens


def too_many_prompts() -> ApiError:
    return refused("prompt", "too_many", _("%(param)s must contain 1 to %(limit)s prompts."), limit=MAX_ANSWERS)


# Bodies


class StreamOptions(NullIsMissing):
    include_usage: bool = False
    include_obfuscation: Annotated[bool, Field(description="Changes nothing: nothing is obfuscated.")] = False


class ResponseFormat(Shape):
    """As OpenAI has it, and with `schema` beside `json_object` as llama.cpp does."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Any = None
    schema_: Annotated[JsonSchema | None, Field(alias="schema")] = None

    @model_validator(mode="after")
    def _with_schema(self) -> Self:
        where = "response_format.json_schema"
        if self.type == "json_schema":
            if not isinstance(self.json_schema, Mapping) or not isinstance(self.json_schema.get("schema"), Mapping):
                raise refused(where, "invalid_type", _("%(param)s must be an object with a schema."))
            read(JsonSchema, self.json_schema["schema"], "", f"{where}.schema")
        if self.schema_ is not None and self.type != "json_object":
            raise unsupported("response_format.schema")
        return self

    @property
    def constraint(self) -> dict[str, Any]:
        """The sampling parameter that it stands for."""
        if self.type == "json_schema":
            return {"json_schema": self.json_schema["schema"]}
        if self.schema_ is not None:
            return {"json_schema": self.schema_}
        return {"json_object": True} if self.type == "json_object" else {}


Choices = Annotated[int, Field(ge=1, le=MAX_CHOICES), BeforeValidator(whole)]
Maximum = Annotated[
    int,
    Field(ge=1, description="New tokens at most; -1: as many as this installation allows."),
    UNBOUNDED,
    BeforeValidator(whole),
]
Logprobs = Annotated[int, Field(ge=0, le=MAX_LOGPROBS), BeforeValidator(whole)]
TEXT = {"type": "string"}
IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
FIELDS = SamplingParams.model_fields
Sampling: type[BaseModel] = create_model(
    "Sampling",
    __base__=NullIsMissing,
    **{name: (FIELDS[name].annotation, copy(FIELDS[name])) for name in OPENAI_PARAMETERS},
)  # type: ignore[call-overload]


class OpenAIRequest(Sampling):  # type: ignore[valid-type, misc]
    """A request for `n` answers of one model. `neutral`: values of other fields that ask for nothing of this call."""

    model_config = ConfigDict(extra="ignore")
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]]

    model: ModelName
    adapters: Annotated[
        Blend | None, Field(description="Not OpenAI's: ask a blend of these; model is one of them or their base.")
    ] = None
    n: Choices = 1
    stream: Annotated[bool, Field(description="Answer as server-sent events.")] = False
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="before")
    @classmethod
    def _nothing_unsupported(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            check_fields(data, cls.model_fields, cls.neutral)
        return data

    @model_validator(mode="after")
    def _usage_of_streams_only(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise refused("stream_options", "conflict", _("%(param)s requires stream to be true."))
        return self

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def turns(self) -> list[dict[str, str]] | None:
        return None

    @property
    def prompts(self) -> tuple[str | list[int], ...]:
        return ()

    @property
    def reading(self) -> Reading:
        """What is wanted of the prompt itself."""
        return Reading()

    @property
    def continues(self) -> bool:
        """Whether the last message is the beginning of the answer."""
        return False

    @property
    def params(self) -> SamplingParams:
        """Raises ApiError where two of them do not go together, or are beyond what this installation allows."""
        given = {name: getattr(self, name) for name in OPENAI_PARAMETERS if name in self.model_fields_set}
        constraint = self.response_format.constraint if self.response_format else {}
        return sampling({**given, **constraint, **self.own_params()})

    def own_params(self) -> dict[str, Any]:
        """What the two calls name differently."""
        raise NotImplementedError


class ChatRequest(OpenAIRequest):
    neutral = {"add_special_tokens": (False,)}

    messages: Annotated[Messages, BeforeValidator(_conversation)]
    max_tokens: Maximum | None = None
    max_completion_tokens: Annotated[Maximum | None, Field(description="The newer name of max_tokens.")] = None
    logprobs: bool = False
    top_logprobs: Logprobs | None = None
    continue_final_message: Annotated[bool, Field(description="The last message is the answer's beginning.")] = False
    add_generation_prompt: Annotated[bool | None, Field(description="The opposite; nothing else is supported.")] = None

    @model_validator(mode="after")
    def _alternatives_of_logprobs_only(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise refused("top_logprobs", "conflict", _("%(param)s requires logprobs to be true."))
        return self

    @model_validator(mode="after")
    def _answered_or_continued(self) -> Self:
        if self.add_generation_prompt is self.continue_final_message:
            raise unsupported("add_generation_prompt")
        return self

    @property
    def turns(self) -> list[dict[str, str]] | None:
        return turns(self.messages)

    @property
    def continues(self) -> bool:
        return self.continue_final_message

    def own_params(self) -> dict[str, Any]:
        most = self.max_completion_tokens or self.max_tokens or min(CHAT_TOKENS, settings.MAX_TOKENS_LIMIT)
        return {"max_tokens": most, "logprobs": (self.top_logprobs or 0) if self.logprobs else None}


class CompletionRequest(OpenAIRequest):
    neutral = {"add_special_tokens": (True,)}

    prompt: Annotated[
        list[str | list[int]],
        BeforeValidator(_prompts),
        Field(description="One or several, each a text or the ids of its tokens."),
        WithJsonSchema({"anyOf": [
            TEXT, IDS, {"type": "array", "items": {"anyOf": [TEXT, IDS]}, "minItems": 1, "maxItems": MAX_ANSWERS}
        ]}),
    ]  # fmt: skip
    max_tokens: Annotated[
        int,
        Field(ge=0, description="New tokens at most; -1: as many as this installation allows; 0, with echo: none."),
        UNBOUNDED,
        BeforeValidator(whole),
    ] = COMPLETION_TOKENS
    logprobs: Logprobs | None = None
    best_of: Choices | None = None
    echo: Annotated[
        bool, Field(description="Tell the prompt before the answer, with the probabilities of its tokens too.")
    ] = False

    @model_validator(mode="after")
    def _choices(self) -> Self:
        if self.best_of is not None and self.best_of != self.n:
            raise unsupported("best_of")
        if len(self.prompt) * self.n > MAX_ANSWERS:
            raise too_many_prompts()
        return self

    @model_validator(mode="after")
    def _echo(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            raise refused("max_tokens", "conflict", _("%(param)s can only be 0 if echo is true."))
        told = sum(map(len, self.prompt)) * self.n * (1 + (self.logprobs or 0))
        if self.echo and self.logprobs is not None and told > MAX_TOLD:
            message = _("%(param)s is too long for echo with logprobs (limit: %(limit)s). Send fewer prompts at once.")
            raise refused("prompt", "too_long", message, limit=grouped(MAX_TOLD))
        return self

    @property
    def prompts(self) -> tuple[str | list[int], ...]:
        return tuple(self.prompt)

    @property
    def reading(self) -> Reading:
        return Reading(self.logprobs if self.echo else None, echo=self.echo, answer=self.max_tokens > 0)

    def own_params(self) -> dict[str, Any]:
        return {"max_tokens": self.max_tokens or 1, "logprobs": self.logprobs}
