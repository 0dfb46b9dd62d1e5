"""Reading what OpenAI's clients send. Unknown fields are ignored as OpenAI does; unsupported ones refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _

from common.api import ApiError
from inference import params as reading
from inference.engine.protocol import Params

MAX_CHOICES = 8
CHAT_TOKENS = 1024  # where a request names no maximum; an answer never outgrows the model's context
COMPLETION_TOKENS = 16  # OpenAI's default of the older call
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
SAMPLING = (
    "temperature top_p top_k min_p min_tokens repetition_penalty presence_penalty frequency_penalty "
    "seed stop ignore_eos"
).split()
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


@dataclass(frozen=True)
class Asked:
    """A request for `n` answers of one model."""

    model: str
    params: Params
    n: int
    stream: bool
    include_usage: bool
    messages: list[dict[str, str]] | None = None
    prompts: tuple[str, ...] = ()


def chat(data: Mapping[str, Any]) -> Asked:
    """Of POST /v1/chat/completions. Raises ApiError."""
    common = shared(data)
    params = common["params"]
    params["max_tokens"] = min(CHAT_TOKENS, reading.settings.MAX_TOKENS_LIMIT)
    for name in ("max_tokens", "max_completion_tokens"):  # the newer one wins
        if data.get(name) is not None:
            params["max_tokens"] = reading.READERS["max_tokens"](data[name], name)
    wanted = reading.boolean(data["logprobs"], "logprobs") if data.get("logprobs") is not None else False
    top = data.get("top_logprobs")
    if top is not None and not wanted:
        raise reading.refuse("top_logprobs", "conflict", _("%(param)s needs logprobs to be true."))
    if wanted:
        params["logprobs"] = reading.READERS["logprobs"](top or 0, "top_logprobs")
    return Asked(messages=messages(data.get("messages")), **common)


def completion(data: Mapping[str, Any]) -> Asked:
    """Of POST /v1/completions. Raises ApiError."""
    common = shared(data)
    params = common["params"]
    wanted = data.get("max_tokens")
    params["max_tokens"] = reading.READERS["max_tokens"](COMPLETION_TOKENS if wanted is None else wanted, "max_tokens")
    if data.get("logprobs") is not None:
        params["logprobs"] = reading.READERS["logprobs"](data["logprobs"], "logprobs")
    if data.get("best_of") is not None:
        best = reading.integer(data["best_of"], "best_of", 1, MAX_CHOICES)
        if best != common["n"]:
            raise unsupported("best_of")
    given = data.get("prompt")
    if given is None:
        raise reading.refuse("prompt", "required", _("%(param)s is missing."))
    texts = given if isinstance(given, list) else [given]
    if not texts or len(texts) * common["n"] > MAX_CHOICES:
        raise reading.refuse("prompt", "too_many", _("%(param)s must hold 1 to %(limit)s prompts."), limit=MAX_CHOICES)
    if any(isinstance(item, (int, list)) for item in texts):
        raise ApiError("unsupported_value", _("Prompts as token ids are not supported."), 400, "prompt")
    prompts = tuple(reading.prompt(item, "prompt") for item in texts)
    return Asked(prompts=prompts, **common)


def shared(data: Mapping[str, Any]) -> dict[str, Any]:
    for name, harmless in UNSUPPORTED.items():
        if data.get(name) is not None and data[name] not in harmless:
            raise unsupported(name)
    if data.get("model") is None:
        raise reading.refuse("model", "required", _("%(param)s is missing."))
    params = reading.sampling({name: data[name] for name in SAMPLING if data.get(name) is not None})
    response_format(data.get("response_format"), params)
    stream = reading.boolean(data["stream"], "stream") if data.get("stream") is not None else False
    return {
        "model": reading.text(data["model"], "model", 200),
        "params": params,
        "n": reading.integer(data["n"], "n", 1, MAX_CHOICES) if data.get("n") is not None else 1,
        "stream": stream,
        "include_usage": stream_options(data.get("stream_options"), stream),
    }


def stream_options(value: Any, stream: bool) -> bool:
    if value is None:
        return False
    if not isinstance(value, Mapping):
        raise reading.refuse("stream_options", "invalid_type", _("%(param)s must be an object."))
    if not stream:
        raise reading.refuse("stream_options", "conflict", _("%(param)s needs stream to be true."))
    include = value.get("include_usage")
    return False if include is None else reading.boolean(include, "stream_options.include_usage")


def response_format(value: Any, params: Params) -> None:
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise reading.refuse("response_format", "invalid_type", _("%(param)s must be an object."))
    kind = value.get("type")
    if kind == "json_object":
        params["json_object"] = True
    elif kind == "json_schema":
        where = "response_format.json_schema"
        outer = value.get("json_schema")
        if not isinstance(outer, Mapping) or not isinstance(outer.get("schema"), Mapping):
            raise reading.refuse(where, "invalid_type", _("%(param)s must be an object with a schema."))
        params["json_schema"] = reading.json_schema(outer["schema"], f"{where}.schema")
    elif kind != "text":
        message = _("%(param)s must be one of %(choices)s.")
        choices = "text, json_object, json_schema"
        raise reading.refuse("response_format.type", "invalid_choice", message, choices=choices)


def messages(value: Any) -> list[dict[str, str]]:
    """OpenAI's messages in the portal's own form: `developer` reads as `system`, text parts are joined."""
    if not isinstance(value, list):
        raise reading.refuse(
            "messages", "required" if value is None else "invalid_type", _("%(param)s must be a list.")
        )
    if len(value) > reading.MAX_MESSAGES:
        limit = reading.MAX_MESSAGES
        raise reading.refuse("messages", "too_many", _("%(param)s has more than %(limit)s entries."), limit=limit)
    return reading.messages([message(item, f"messages.{index}") for index, item in enumerate(value)])


def message(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise reading.refuse(where, "invalid_type", _("%(param)s must be an object."))
    role = value.get("role")
    if role in ("tool", "function") or value.get("tool_calls") or value.get("function_call"):
        raise unsupported(f"{where}.role" if role in ("tool", "function") else f"{where}.tool_calls")
    if not isinstance(role, str) or role not in ROLES:
        message = _("%(param)s must be one of %(roles)s.")
        raise reading.refuse(f"{where}.role", "invalid_choice", message, roles=", ".join(ROLES))
    content = value.get("content")
    if isinstance(content, list):
        content = "".join(part(item, f"{where}.content.{index}") for index, item in enumerate(content))
    return {"role": ROLES[role], "content": content}


def part(value: Any, where: str) -> str:
    if not isinstance(value, Mapping) or value.get("type") != "text":
        kind = value.get("type") if isinstance(value, Mapping) else None
        raise unsupported(f"{where}.type" if kind else where)
    return reading.text(value.get("text"), f"{where}.text", reading.settings.MAX_PROMPT_CHARS)


def unsupported(name: str) -> ApiError:
    message = _("%(param)s is not supported here.") % {"param": name}
    return ApiError("unsupported_parameter", message, 400, name)
