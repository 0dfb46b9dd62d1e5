"""Shapes of what clients send: pydantic declarations, and the one translation of their errors into refusals.

A shape validates, describes itself in the OpenAPI schema, and is the type that the code works with. Booleans are not
integers, numbers are finite, 64.0 is a whole number (JSON has one kind), unknown fields are refused by name.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping
from typing import Annotated, Any, TypeVar, cast

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from .api import ApiError
from .numbers import grouped_values

MAX_NAME = 64  # characters of a client's field name that a refusal repeats
MAX_ID = 2**63 - 1  # what a database takes for an id

# Type of pydantic's error, or of one of ours -> (code, sentence). `low`, `high`, `limit`, `choices` come with it.
SENTENCES: dict[str, tuple[str, str | Promise]] = {
    "int_type": ("invalid_type", _("%(param)s must be a whole number.")),
    "float_type": ("invalid_type", _("%(param)s must be a number.")),
    "finite_number": ("out_of_range", _("%(param)s must be a finite number.")),
    "bool_type": ("invalid_type", _("%(param)s must be true or false.")),
    "string_type": ("invalid_type", _("%(param)s must be a string.")),
    "string_unicode": ("invalid_text", _("%(param)s contains an unpaired surrogate, which is not a valid character.")),
    "invalid_text": ("invalid_text", _("%(param)s contains an unpaired surrogate, which is not a valid character.")),
    "model_type": ("invalid_type", _("%(param)s must be an object.")),
    "dict_type": ("invalid_type", _("%(param)s must be an object.")),
    "body_type": ("invalid_type", _("The request body must be a JSON object.")),
    "list_type": ("invalid_type", _("%(param)s must be a list.")),
    "extra_forbidden": ("unknown_parameter", _("Unknown parameter: %(param)s.")),
    "missing": ("required", _("%(param)s is missing.")),
    "literal_error": ("invalid_choice", _("%(param)s must be one of %(choices)s.")),
    "out_of_range": ("out_of_range", _("%(param)s must be between %(low)s and %(high)s.")),
    "out_of_open_range": ("out_of_range", _("%(param)s must be greater than %(low)s and at most %(high)s.")),
    "string_too_long": ("too_long", _("%(param)s has more than %(limit)s characters.")),
    "too_long": ("too_long", _("%(param)s has more than %(limit)s characters.")),
    "too_many": ("too_many", _("%(param)s has more than %(limit)s entries.")),
    "empty": ("empty", _("%(param)s must not be empty.")),
    "empty_entry": ("empty", _("%(param)s must not contain an empty string.")),
    "messages_type": ("invalid_type", _("%(param)s must be a list of messages.")),
    "targets_type": ("invalid_type", _("%(param)s must be a list of model names.")),
    "targets_twice": ("duplicate", _("%(param)s contains the same model twice.")),
    "rank_of_svd": ("conflict", _("%(param)s belongs to the method svd, which needs it, and to no other.")),
    "weights_zero": ("conflict", _("%(param)s: at least one weight must not be 0.")),
    "not_exported": ("invalid", _("This file is not an exported conversation.")),
    "not_text": ("invalid", _("%(param)s has content other than text, which cannot be imported.")),
    "late_system": ("invalid", _("%(param)s: a system message can only be imported at the beginning.")),
    "too_many_messages": ("too_many", _("The conversation has too many messages.")),
    "answers_type": ("invalid_type", _("%(param)s must be a list of answers.")),
    "entries": ("out_of_range", _("%(param)s must have from %(low)s to %(high)s entries.")),
    "digest": (
        "invalid_digest",
        _("%(param)s must be the digest from the answer's done frame: 64 hexadecimal digits."),
    ),
    "recipe_digest": (
        "invalid_digest",
        _("%(param)s is not the digest of these adapters with these weights."),
    ),
    "chosen": ("conflict", _("%(param)s: choose exactly one answer if the verdict is best, otherwise none.")),
    "one_line": ("invalid", _("%(param)s must be a single line.")),
    "both": ("conflict", _("Specify either messages or prompt, not both.")),
    "neither": ("required", _("Specify either messages or prompt.")),
    "stop_type": ("invalid_type", _("%(param)s must be a string or a list of strings.")),
    "min_tokens_above": ("out_of_range", _("%(param)s must not be greater than max_tokens.")),
    "json_conflict": ("conflict", _("Specify either json_object or json_schema, not both.")),
}
RANGE = {"greater_than_equal", "greater_than", "less_than_equal", "less_than"}

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class Shape(BaseModel):
    """An object with exactly these fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Lenient(Shape):
    """Fields that it does not know are ignored, and one that is missing is refused like a null in its place."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _missing_is_null(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        missing = {name: None for name, field in cls.model_fields.items() if field.is_required() and name not in data}
        return {**data, **missing}


def whole(value: Any) -> Any:
    """64.0 as 64."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def whole_characters(value: str) -> str:
    """What UTF-8 can carry; JSON may name half of a surrogate pair."""
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise PydanticCustomError("invalid_text", "half of a surrogate pair")
    return value


def not_empty(value: Any) -> Any:
    if not value:
        raise PydanticCustomError("empty", "empty")
    return value


def refuse(kind: str, **values: Any) -> PydanticCustomError:
    """An error of one of our types; `param` names the field where the location does not."""
    return PydanticCustomError(kind, kind, values)  # type: ignore[arg-type]


CHARACTERS = AfterValidator(whole_characters)
Str = Annotated[str, CHARACTERS]
ExportedId = Annotated[int, Field(ge=0, le=MAX_ID), BeforeValidator(whole)]
Id = Annotated[int, Field(ge=1, le=MAX_ID), BeforeValidator(whole)]
NotEmpty = AfterValidator(not_empty)


def read(shape: type[T] | TypeAdapter[T], data: Any, prefix: str = "", itself: str = "", **context: Any) -> T:
    """`data` in this shape.

    `prefix` precedes the names of fields in a refusal (`params.`), `itself` names the whole where it is at fault.
    Raises ApiError 400 for the first field at fault, in the order in which the client sent them.
    """
    try:
        return adapter(cast(Hashable, shape)).validate_python(data, context=context)
    except ValidationError as error:
        raise refusal(error, shape, data, prefix, itself, context) from None


def part(shape: type[M], whole: BaseModel) -> M:
    """What was given in `whole` of the fields of `shape`, one of its parents."""
    given = {name: getattr(whole, name) for name in shape.model_fields if name in whole.model_fields_set}
    return shape.model_construct(set(given), **given)


@functools.cache
def adapter(shape: Any) -> TypeAdapter[Any]:
    if isinstance(shape, TypeAdapter):
        return shape
    model = isinstance(shape, type) and issubclass(shape, BaseModel)
    return TypeAdapter(shape) if model else TypeAdapter(shape, config=ConfigDict(strict=True))


def refusal(
    error: ValidationError, shape: Any, data: Any, prefix: str, itself: str, context: Mapping[str, Any]
) -> ApiError:
    """The first of pydantic's errors as the contract words it, in the active language."""
    details = min(error.errors(include_url=False, include_input=False), key=lambda item: position(item, data))
    kind, values = details["type"], dict(details.get("ctx") or {})
    parts = [str(part)[:MAX_NAME] for part in named(shape, details["loc"])]
    if own := values.pop("param", ""):
        parts.append(str(own))
    param = prefix + ".".join(parts) if parts else itself or prefix.rstrip(".")
    if kind in RANGE:
        kind, values = bounds(shape, details["loc"])
        if values["high"] is None:
            values["high"] = context.get(f"{parts[-1]}_limit")
    elif kind == "literal_error":
        values["choices"] = str(values.get("expected", "")).replace("'", "").replace(" or ", ", ")
    elif kind == "string_too_long":
        values["limit"] = values.get("max_length")
    elif kind == "too_long" and "limit" not in values:  # pydantic's own, of a list
        kind, values["limit"] = "too_many", values.get("max_length")
    code, sentence = SENTENCES.get(kind, ("invalid", _("%(param)s is not valid.")))
    if kind == "model_type" and not param:
        code, sentence = "invalid_type", SENTENCES["body_type"][1]
    return ApiError(code, str(sentence) % grouped_values({"param": param, **values}), 400, param or None)


def named(shape: Any, location: tuple[int | str, ...]) -> list[int | str]:
    """The location as a client knows it: without the parts by which pydantic names the branch of a union."""
    root = node = schema_of(shape)
    parts: list[int | str] = []
    for part in location:
        below = step(root, node, part)
        if below is not node or part not in ("str", "int", "none"):
            parts.append(part)
        node = below
    return parts


def position(item: ErrorDetails, data: Any) -> tuple[int, int]:
    """Where the client named the field; what is missing comes after what is there, the whole comes last."""
    if not item["loc"]:
        return (2, 0)
    names = list(data) if isinstance(data, Mapping) else []
    first = item["loc"][0]
    return (0, names.index(first)) if first in names else (1, 0)


def bounds(shape: Any, location: tuple[int | str, ...]) -> tuple[str, dict[str, Any]]:
    """(type of our error, lowest and highest value) of the number at `location`, from the shape's JSON schema."""
    root = schema_of(shape)
    node = root
    for part in location:
        node = step(root, node, part)
    options = [node, *(resolved(root, option) for option in node.get("anyOf", ()))]
    found = next(option for option in options if {"minimum", "exclusiveMinimum", "maximum"} & set(option))
    kind = "out_of_open_range" if "exclusiveMinimum" in found else "out_of_range"
    return kind, {"low": found.get("exclusiveMinimum", found.get("minimum")), "high": found.get("maximum")}


@functools.cache
def schema_of(shape: Any) -> dict[str, Any]:
    return adapter(shape).json_schema()


def resolved(root: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        node = root["$defs"][node["$ref"].rpartition("/")[2]]
    return node


def step(root: dict[str, Any], node: dict[str, Any], part: int | str) -> dict[str, Any]:
    """One part of a location down; a part that only names the branch of a union stays where it is."""
    todo = [node]
    while todo:
        here = resolved(root, todo.pop(0))
        if isinstance(part, int) and "items" in here:
            return resolved(root, here["items"])
        if part in here.get("properties", {}):
            return resolved(root, here["properties"][part])
        todo += [*here.get("anyOf", ()), *here.get("oneOf", ()), *here.get("allOf", ())]
    return node
