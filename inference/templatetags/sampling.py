"""The page's parameter form, from the declaration of the sampling parameters."""

from __future__ import annotations

import json
from typing import Any

from django import template
from django.conf import settings
from django.utils.translation import gettext

from common.shapes import schema_of
from inference.engine.params import SamplingParams, Shown, shown

register = template.Library()
LIMITS = {"max_tokens": "MAX_TOKENS_LIMIT"}  # a bound that is a setting


@register.simple_tag
def parameter_fields() -> dict[str, list[dict[str, Any]]]:
    """The fields of the form by group, `basic` and `more`."""
    groups: dict[str, list[dict[str, Any]]] = {"basic": [], "more": []}
    schema = schema_of(SamplingParams)["properties"]
    for name, item in shown():
        groups[item.group].append(field(name, item, schema[name]))
    return groups


@register.filter
def params_line(params: dict[str, Any]) -> str:
    """Parameters as one line, as `paramsLine` of `static/js/lib/library_parts.js` has it."""
    return " · ".join(f"{name} {_written(value)}" for name, value in params.items())


def _written(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(json.dumps(one, ensure_ascii=False) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def field(name: str, item: Shown, schema: dict[str, Any]) -> dict[str, Any]:
    """Numbers as texts: a page's numbers have a point in every language."""
    options = (schema, *schema.get("anyOf", ()))
    bounds: dict[str, Any] = next((one for one in options if "minimum" in one or "maximum" in one), {})
    low = bounds.get("minimum", "") if item.low is None else item.low
    high = bounds.get("maximum", getattr(settings, LIMITS.get(name, ""), "")) if item.high is None else item.high
    return {
        "name": name,
        "title": gettext(item.title),
        "hint": gettext(item.hint) if item.hint else "",
        "testid": item.testid or name.replace("_", "-"),
        "number": item.step is not None,
        "low": str(low),
        "high": str(high),
        "step": str(item.step),
        "whole": item.step == 1,
        "value": "" if item.value is None else str(item.value),
        "placeholder": gettext(item.placeholder) if item.placeholder else "",
        "slider": item.slider,
    }
