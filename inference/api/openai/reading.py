"""What OpenAI's clients send. Unknown fields are ignored as OpenAI does; unsupported ones refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Annotated, Any, Literal, Self

from django.conf import settings
from django.utils.translation import gettext as _
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, create_model, model_validator

from common.api import ApiError
from common.shapes import Shape, read, refuse, whole
from inference.engine.params import MAX_LOGPROBS, OPENAI_PARAMETERS, JsonSchema, NullIsMissing, SamplingParams
from inference.params import MAX_MESSAGES, Messages, ModelName, Prompt, Text, sampling, turns

MAX_CHOICES = 8
CHAT_TOKENS = 1024  # where a request names no maximum; an answer never outgrows the model's context
COMPLETION_TOKENS = 16  # OpenAI's default of the older call
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# Fields whose meaning would be lost, and the values of each that ask for nothing.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "tool_choice": ("none", "auto"),
    "audio": (),
    "modalities": (["text"],),
    "prediction": (),
    "web_search_options": (),
    "logit_bias": ({},),
    "suffix": ("",),
    "echo": (False,),
    "prompt_logprobs": (),
    "use_beam_search": (False,),
}


def unsupported(name: str) -> ApiError:
    message = _("%(param)s is not supported here.") % {"param": name}
    return ApiError("unsupported_parameter", message, 400, name)


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
    if role in ("tool", "function") or value.get("tool_calls") or value.get("function_call"):
        raise unsupported(f"{where}.role" if role in ("tool", "function") else f"{where}.tool_calls")
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
    """One prompt or a list of them."""
    texts = value if isinstance(value, list) else [value]
    if not 1 <= len(texts) <= MAX_CHOICES:
        raise too_many_prompts()
    if any(isinstance(item, (int, list)) for item in texts):
        raise ApiError("unsupported_value", _("Prompts as token ids are not supported."), 400, "prompt")
    return [read(Prompt, item, "", "prompt") for item in texts]


def too_many_prompts() -> ApiError:
    return refused("prompt", "too_many", _("%(param)s must hold 1 to %(limit)s prompts."), limit=MAX_CHOICES)


# Bodies


class StreamOptions(NullIsMissing, extra="ignore"):
    include_usage: bool = False


class ResponseFormat(Shape, extra="ignore"):
    """As OpenAI has it."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Any = None

    @model_validator(mode="after")
    def _with_schema(self) -> Self:
        where = "response_format.json_schema"
        if self.type == "json_schema":
            if not isinstance(self.json_schema, Mapping) or not isinstance(self.json_schema.get("schema"), Mapping):
                raise refused(where, "invalid_type", _("%(param)s must be an object with a schema."))
            read(JsonSchema, self.json_schema["schema"], "", f"{where}.schema")
        return self

    @property
    def constraint(self) -> dict[str, Any]:
        """The sampling parameter that it stands for."""
        if self.type == "json_schema":
            return {"json_schema": self.json_schema["schema"]}
        return {"json_object": True} if self.type == "json_object" else {}


Choices = Annotated[int, Field(ge=1, le=MAX_CHOICES), BeforeValidator(whole)]
Maximum = Annotated[int, Field(ge=1, description="New tokens at most."), BeforeValidator(whole)]
Logprobs = Annotated[int, Field(ge=0, le=MAX_LOGPROBS), BeforeValidator(whole)]
FIELDS = SamplingParams.model_fields
Sampling: type[BaseModel] = create_model(
    "Sampling",
    __base__=NullIsMissing,
    **{name: (FIELDS[name].annotation, copy(FIELDS[name])) for name in OPENAI_PARAMETERS},
)  # type: ignore[call-overload]


class Asked(Sampling):  # type: ignore[valid-type, misc]
    """A request for `n` answers of one model."""

    model_config = ConfigDict(extra="ignore")

    model: ModelName
    n: Choices = 1
    stream: Annotated[bool, Field(description="Answer as server-sent events.")] = False
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="before")
    @classmethod
    def _nothing_unsupported(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for name, harmless in UNSUPPORTED.items():
                if data.get(name) is not None and data[name] not in harmless:
                    raise unsupported(name)
        return data

    @model_validator(mode="after")
    def _usage_of_streams_only(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise refused("stream_options", "conflict", _("%(param)s needs stream to be true."))
        return self

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def turns(self) -> list[dict[str, str]] | None:
        return None

    @property
    def prompts(self) -> tuple[str, ...]:
        return ()

    @property
    def params(self) -> SamplingParams:
        """Raises ApiError where two of them do not go together, or are beyond what this installation allows."""
        given = {name: getattr(self, name) for name in OPENAI_PARAMETERS if name in self.model_fields_set}
        constraint = self.response_format.constraint if self.response_format else {}
        return sampling({**given, **constraint, **self.own_params()})

    def own_params(self) -> dict[str, Any]:
        """What the two calls name differently."""
        raise NotImplementedError


class ChatRequest(Asked):
    messages: Annotated[Messages, BeforeValidator(_conversation)]
    max_tokens: Maximum | None = None
    max_completion_tokens: Annotated[Maximum | None, Field(description="The newer name of max_tokens.")] = None
    logprobs: bool = False
    top_logprobs: Logprobs | None = None

    @model_validator(mode="after")
    def _alternatives_of_logprobs_only(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise refused("top_logprobs", "conflict", _("%(param)s needs logprobs to be true."))
        return self

    @property
    def turns(self) -> list[dict[str, str]] | None:
        return turns(self.messages)

    def own_params(self) -> dict[str, Any]:
        most = self.max_completion_tokens or self.max_tokens or min(CHAT_TOKENS, settings.MAX_TOKENS_LIMIT)
        return {"max_tokens": most, "logprobs": (self.top_logprobs or 0) if self.logprobs else None}


class CompletionRequest(Asked):
    prompt: Annotated[
        list[str],
        BeforeValidator(_prompts),
        WithJsonSchema({"anyOf": [
            {"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_CHOICES}
        ]}),
    ]  # fmt: skip
    max_tokens: Maximum = COMPLETION_TOKENS
    logprobs: Logprobs | None = None
    best_of: Choices | None = None

    @model_validator(mode="after")
    def _choices(self) -> Self:
        if self.best_of is not None and self.best_of != self.n:
            raise unsupported("best_of")
        if len(self.prompt) * self.n > MAX_CHOICES:
            raise too_many_prompts()
        return self

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(self.prompt)

    def own_params(self) -> dict[str, Any]:
        return {"max_tokens": self.max_tokens, "logprobs": self.logprobs}
