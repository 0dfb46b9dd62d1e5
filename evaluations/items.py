"""An item of a prompt set as it comes in, and what is kept of it."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from django.conf import settings
from pydantic import AfterValidator, Field, WithJsonSchema

from common.shapes import NotEmpty, Shape, Str, refuse
from inference.params import Asked, body

from .checks.shapes import read_checks
from .models import Item

TITLE = 200  # characters


def _bounded(value: str) -> str:
    if len(value) > settings.EVALUATION_ANSWER_CHARS:
        raise refuse("too_long", limit=settings.EVALUATION_ANSWER_CHARS)
    return value


Reference = Annotated[Str, AfterValidator(_bounded)]
Checks = Annotated[
    Any, WithJsonSchema({"type": "array", "items": {"type": "object"}}), Field(description="See docs/evaluations.md.")
]


class GivenItem(Asked):
    """Messages or a prompt, perhaps with the answer that is wanted, and the checks that an answer must pass."""

    reference: Reference = ""
    checks: Checks = []


class GivenItems(Shape):
    items: Annotated[list[Any], NotEmpty, WithJsonSchema({"type": "array", "items": {"type": "object"}})]


def digest_of(value: Any) -> str:
    """sha256 of the value as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_item(data: Any, prefix: str = "") -> Item:
    """A row without a place in a set yet. Raises ApiError 400; `prefix` precedes the names of fields in it."""
    given = body(GivenItem, data, prefix)
    checks = read_checks(given.checks, given.reference, prefix)
    return item_of(given.turns, given.prompt, given.reference, checks)


def item_of(
    messages: list[dict[str, str]] | None, prompt: str | None, reference: str, checks: list[dict[str, Any]]
) -> Item:
    asked = {"messages": messages} if messages is not None else {"prompt": prompt}
    said = prompt or next((one["content"] for one in reversed(messages or []) if one["role"] == "user"), "")
    said = said or (messages[-1]["content"] if messages else "")
    return Item(
        digest=digest_of({**asked, "reference": reference, "checks": checks}),
        asked_digest=digest_of(asked),
        title=" ".join(said[: 4 * TITLE].split())[:TITLE],
        messages=messages,
        prompt=prompt,
        reference=reference,
        checks=checks,
    )


def exported(item: Item) -> dict[str, Any]:
    """As `read_item` takes it."""
    asked = {"messages": item.messages} if item.messages is not None else {"prompt": item.prompt}
    found: dict[str, Any] = dict(asked)
    if item.reference:
        found["reference"] = item.reference
    if item.checks:
        found["checks"] = item.checks
    return found
