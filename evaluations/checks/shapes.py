"""The checks that an item may have, as clients send them and as the database keeps them.

A kind is a shape here and a way to judge in `judging.py`. One that needs more than the answer's text (the loss of the
reference answer) gets its figures beside the text there: what nothing computes is never offered.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from pydantic import Field, model_validator

from common.api import ApiError
from common.numbers import grouped
from common.shapes import NotEmpty, Shape, Str, read, refuse
from patterns import InvalidPatternError, SlowPatternError, check_search
from patterns.search import MAX_LENGTH

from .schema import UnsupportedSchemaError, check_schema
from .scripts import RANGES

MOST_CHECKS = 10
MOST_CHARS = 20_000

Value = Annotated[Str, Field(max_length=MOST_CHARS), NotEmpty]


class Check(Shape):
    """One of the kinds below."""

    kind: str

    def stored(self) -> dict[str, Any]:
        return self.model_dump(exclude_defaults=True, by_alias=True) | {"kind": self.kind}


class Text(Check):
    kind: Literal["equals", "contains"]
    value: Value | None = Field(None, description="Without one: the item's reference answer.")
    ignore_case: bool = False


class Excludes(Check):
    kind: Literal["excludes"]
    value: Value
    ignore_case: bool = False


class Pattern(Check):
    kind: Literal["pattern"]
    value: Value = Field(description="RE2's syntax; found anywhere in the answer.")


class Json(Check):
    kind: Literal["json"]
    fenced: bool = Field(False, description="Whether a Markdown code block around it is accepted.")


class JsonSchema(Check):
    kind: Literal["schema"]
    schema_: dict[str, Any] = Field(alias="schema", description="A subset of JSON Schema 2020-12.")
    fenced: bool = False


Bound = Annotated[int, Field(ge=0, le=1_000_000)]


class Length(Check):
    kind: Literal["length"]
    unit: Literal["characters", "words", "lines"] = "characters"
    least: Bound | None = None
    most: Bound | None = None

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if self.least is None and self.most is None:
            raise refuse("missing", param="most")
        if self.least is not None and self.most is not None and self.least > self.most:
            raise refuse("out_of_range", param="most", low=self.least, high=1_000_000)
        return self


class Script(Check):
    """Of the answer's letters at least this share is of one script: a test of the script, not of the language."""

    kind: Literal["script"]
    script: Literal[tuple(RANGES)]  # type: ignore[valid-type]
    share: Annotated[float, Field(gt=0, le=1)] = 0.8


class Loss(Check):
    """The loss of the item's reference answer after what is asked: it needs a reference, and no answer."""

    kind: Literal["loss"]
    most: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        None, description="In nats per token, as trainers tell it. Without one the loss is only measured."
    )


KINDS: dict[str, type[Check]] = {
    "equals": Text, "contains": Text, "excludes": Excludes, "pattern": Pattern, "json": Json, "schema": JsonSchema,
    "length": Length, "script": Script, "loss": Loss,
}  # fmt: skip

TITLES = {
    "equals": gettext_lazy("equals"),
    "contains": gettext_lazy("contains"),
    "excludes": gettext_lazy("must not contain"),
    "pattern": gettext_lazy("matches the pattern"),
    "json": gettext_lazy("is valid JSON"),
    "schema": gettext_lazy("matches the JSON schema"),
    "length": gettext_lazy("has the length"),
    "script": gettext_lazy("is written in the script"),
    "loss": gettext_lazy("loss of the reference"),
}


def read_checks(data: Any, reference: str, prefix: str = "") -> list[dict[str, Any]]:
    """As they are kept. Raises ApiError 400 that names the first field at fault."""
    here = f"{prefix}checks"
    if not isinstance(data, list):
        raise ApiError("invalid_type", _("%(param)s must be a list.") % {"param": here}, 400, here)
    if len(data) > MOST_CHECKS:
        message = _("%(param)s has more than %(limit)s entries.") % {"param": here, "limit": MOST_CHECKS}
        raise ApiError("too_many", message, 400, here)
    return [_read(one, reference, f"{here}.{place}") for place, one in enumerate(data)]


def _read(data: Any, reference: str, place: str) -> dict[str, Any]:
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        message = _("%(param)s must be one of %(choices)s.") % {"param": f"{place}.kind", "choices": ", ".join(KINDS)}
        raise ApiError("invalid_choice", message, 400, f"{place}.kind")
    check = read(KINDS[kind], data, f"{place}.", place)
    if isinstance(check, Text) and check.value is None and not reference.strip():
        message = _("%(param)s: without a value, the item needs a reference answer.") % {"param": place}
        raise ApiError("required", message, 400, f"{place}.value")
    if isinstance(check, Loss) and not reference.strip():
        message = _("%(param)s: the item needs a reference answer.") % {"param": place}
        raise ApiError("required", message, 400, f"{place}.kind")
    if isinstance(check, Pattern):
        _check_pattern(check.value, f"{place}.value")
    if isinstance(check, JsonSchema):
        try:
            check_schema(check.schema_)
        except UnsupportedSchemaError as error:
            message = _("%(param)s: %(keyword)s (at %(path)s) is not supported or not valid here.") % {
                "param": f"{place}.schema", "keyword": error.keyword, "path": error.path
            }  # fmt: skip
            raise ApiError("schema_unsupported", message, 400, f"{place}.schema") from None
    return check.stored()


def _check_pattern(pattern: str, place: str) -> None:
    try:
        check_search(pattern)
    except SlowPatternError:
        message = _("%(param)s has more than %(limit)s characters.") % {"param": place, "limit": grouped(MAX_LENGTH)}
        raise ApiError("too_long", message, 400, place) from None
    except InvalidPatternError as error:
        message = _("%(param)s is not a pattern that RE2 can match: %(reason)s") % {
            "param": place, "reason": str(error)[:200]
        }  # fmt: skip
        raise ApiError("pattern_invalid", message, 400, place) from None
