"""Strict reading of what a client asks for: sampling parameters, messages, prompts.

Every door uses these functions, before anything is tokenised. Booleans are not integers, numbers are finite and
bounded both ways, and the refusal (400) names the parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _

from common.api import ApiError
from inference.engine.protocol import Params

MAX_MESSAGES = 500
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_LOGPROBS = 20
MAX_SCHEMA_CHARS = 64 * 1024
ROLES = ("system", "user", "assistant")


def refuse(param: str, code: str, message: str, **values: Any) -> ApiError:
    return ApiError(code, message % {"param": param, **values}, 400, param)


def integer(value: Any, param: str, low: int, high: int) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON has one kind of number: 64.0 is a whole one
    if isinstance(value, bool) or not isinstance(value, int):
        raise refuse(param, "invalid_type", _("%(param)s must be a whole number."))
    if not low <= value <= high:
        message = _("%(param)s must lie between %(low)s and %(high)s.")
        raise refuse(param, "out_of_range", message, low=low, high=high)
    return value


def number(value: Any, param: str, low: float, high: float, open_low: bool = False) -> float:
    """A finite number in [low, high], or (low, high] with `open_low`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise refuse(param, "invalid_type", _("%(param)s must be a number."))
    if isinstance(value, float) and not math.isfinite(value):
        raise refuse(param, "out_of_range", _("%(param)s must be a finite number."))
    if not low <= value <= high or (open_low and value == low):
        message = (
            _("%(param)s must be above %(low)s and at most %(high)s.")
            if open_low
            else _("%(param)s must lie between %(low)s and %(high)s.")
        )
        raise refuse(param, "out_of_range", message, low=low, high=high)
    return float(value)


def boolean(value: Any, param: str) -> bool:
    if not isinstance(value, bool):
        raise refuse(param, "invalid_type", _("%(param)s must be true or false."))
    return value


def text(value: Any, param: str, limit: int) -> str:
    """A string of at most `limit` characters that UTF-8 can carry."""
    if not isinstance(value, str):
        raise refuse(param, "invalid_type", _("%(param)s must be a string."))
    if len(value) > limit:
        raise refuse(param, "too_long", _("%(param)s has more than %(limit)s characters."), limit=limit)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        message = _("%(param)s holds half of a surrogate pair, which is no character.")
        raise refuse(param, "invalid_text", message) from None
    return value


def stops(value: Any, param: str) -> list[str]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise refuse(param, "invalid_type", _("%(param)s must be a string or a list of strings."))
    if len(value) > MAX_STOPS:
        raise refuse(param, "too_many", _("%(param)s has more than %(limit)s entries."), limit=MAX_STOPS)
    found = [text(item, param, MAX_STOP_CHARS) for item in value]
    if "" in found:
        raise refuse(param, "empty", _("%(param)s must not hold an empty string."))
    return found


def json_schema(value: Any, param: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise refuse(param, "invalid_type", _("%(param)s must be an object."))
    if len(str(value)) > MAX_SCHEMA_CHARS:
        message = _("%(param)s has more than %(limit)s characters.")
        raise refuse(param, "too_long", message, limit=MAX_SCHEMA_CHARS)
    return value


READERS: dict[str, Callable[[Any, str], Any]] = {
    "max_tokens": lambda v, p: integer(v, p, 1, settings.MAX_TOKENS_LIMIT),
    "min_tokens": lambda v, p: integer(v, p, 0, settings.MAX_TOKENS_LIMIT),
    "temperature": lambda v, p: number(v, p, 0, 2),
    "top_p": lambda v, p: number(v, p, 0, 1, open_low=True),
    "top_k": lambda v, p: integer(v, p, 0, 1000),
    "min_p": lambda v, p: number(v, p, 0, 1),
    "repetition_penalty": lambda v, p: number(v, p, 0, 10, open_low=True),
    "presence_penalty": lambda v, p: number(v, p, -2, 2),
    "frequency_penalty": lambda v, p: number(v, p, -2, 2),
    "seed": lambda v, p: integer(v, p, 0, 2**63 - 1),
    "stop": stops,
    "ignore_eos": boolean,
    "logprobs": lambda v, p: integer(v, p, 0, MAX_LOGPROBS),
    "json_schema": json_schema,
    "json_object": boolean,
}


def sampling(data: Any, prefix: str = "") -> Params:
    """Sampling parameters from a JSON object; null means "not given"; unknown names are refused."""
    if not isinstance(data, Mapping):
        raise refuse(prefix.rstrip(".") or "params", "invalid_type", _("%(param)s must be an object."))
    params: dict[str, Any] = {}
    for name, value in data.items():
        if name not in READERS:
            message = _("There is no parameter named %(param)s.")
            raise refuse(f"{prefix}{str(name)[:64]}", "unknown_parameter", message)
        if value is not None:
            params[name] = READERS[name](value, f"{prefix}{name}")
    if params.get("min_tokens", 0) > params.get("max_tokens", settings.MAX_TOKENS_LIMIT):
        raise refuse(f"{prefix}min_tokens", "out_of_range", _("%(param)s must not be above max_tokens."))
    if params.get("json_object") and "json_schema" in params:
        raise refuse(f"{prefix}json_object", "conflict", _("Give json_object or json_schema, not both."))
    return params  # type: ignore[return-value]


def messages(value: Any, param: str = "messages") -> list[dict[str, str]]:
    """A conversation: 1 to 500 objects {role, content}, together within MAX_PROMPT_CHARS."""
    if not isinstance(value, list):
        raise refuse(param, "invalid_type", _("%(param)s must be a list of messages."))
    if not value:
        raise refuse(param, "empty", _("%(param)s must not be empty."))
    if len(value) > MAX_MESSAGES:
        raise refuse(param, "too_many", _("%(param)s has more than %(limit)s entries."), limit=MAX_MESSAGES)
    found: list[dict[str, str]] = []
    left = settings.MAX_PROMPT_CHARS
    for index, item in enumerate(value):
        where = f"{param}.{index}"
        if not isinstance(item, Mapping):
            raise refuse(where, "invalid_type", _("%(param)s must be an object."))
        unknown = next((key for key in item if key not in ("role", "content")), None)
        if unknown is not None:
            message = _("There is no parameter named %(param)s.")
            raise refuse(f"{where}.{str(unknown)[:64]}", "unknown_parameter", message)
        role = item.get("role")
        if role not in ROLES:
            message = _("%(param)s must be one of %(roles)s.")
            raise refuse(f"{where}.role", "invalid_choice", message, roles=", ".join(ROLES))
        content = text(item.get("content"), f"{where}.content", settings.MAX_PROMPT_CHARS)
        left -= len(content)
        if left < 0:
            limit = settings.MAX_PROMPT_CHARS
            raise refuse(param, "too_long", _("%(param)s has more than %(limit)s characters."), limit=limit)
        found.append({"role": role, "content": content})
    if not any(item["content"].strip() for item in found):
        raise refuse(param, "empty", _("%(param)s must not be empty."))
    return found


def prompt(value: Any, param: str = "prompt") -> str:
    """Raw text, neither empty nor blank, of at most MAX_PROMPT_CHARS characters."""
    found = text(value, param, settings.MAX_PROMPT_CHARS)
    if not found.strip():
        raise refuse(param, "empty", _("%(param)s must not be empty."))
    return found


def either(data: Mapping[str, Any]) -> tuple[list[dict[str, str]] | None, str | None]:
    """Exactly one of `messages` and `prompt`, as (messages, None) or (None, prompt)."""
    given = [name for name in ("messages", "prompt") if data.get(name) is not None]
    if len(given) == 2:
        raise refuse("prompt", "conflict", _("Give messages or prompt, not both."))
    if not given:
        raise refuse("prompt", "required", _("Give messages or a prompt."))
    if given == ["messages"]:
        return messages(data["messages"]), None
    return None, prompt(data["prompt"])
