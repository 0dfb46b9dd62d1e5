"""JSON schemas as people write them for the form of an answer: a subset of draft 2020-12, evaluated in bounded steps.

Schema and answer both come from outside, and together they can cost more than either shows (references that refer to
each other double the work at each level), so every look at a value counts. What is not in the subset is refused by its
name when the item is written, never passed over: references elsewhere, dynamic references, `format` and whatever looks
for property names by pattern. Patterns are matched by `patterns.search`. The meaning is that of
https://json-schema.org/draft/2020-12.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from patterns import InvalidPatternError, SlowPatternError, check_search, search

MAX_CHARS = 20_000  # of a schema as JSON
MAX_DEPTH = 32
MAX_STEPS = 20_000  # schemas that are looked at for one answer

TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: is_number(value),
    "integer": lambda value: is_whole(value),
}
NOTES = {"title", "description", "default", "examples", "$comment", "$schema", "deprecated", "readOnly", "writeOnly"}
NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
COUNTS = {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
ONE = {"items", "additionalProperties", "propertyNames", "not", "contains", "if", "then", "else"}
SEVERAL = {"allOf", "anyOf", "oneOf", "prefixItems"}
NAMED = {"properties", "$defs", "definitions", "dependentSchemas"}
OTHERS = {"type", "enum", "const", "required", "uniqueItems", "pattern", "$ref"}
LOCAL = ("#/$defs/", "#/definitions/")


class UnsupportedSchemaError(Exception):
    """`keyword` (at `path`) is not supported, or has a value that is none of its kind."""

    def __init__(self, keyword: str, path: str) -> None:
        super().__init__(keyword)
        self.keyword, self.path = keyword[:64], path[:200]


class TooManyStepsError(Exception):
    """Schema and answer together take too long."""


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    return is_number(value) and (isinstance(value, int) or value.is_integer())


def check_schema(schema: Any) -> None:
    """Raises UnsupportedSchemaError for the first keyword that cannot be evaluated here."""
    try:
        long = len(json.dumps(schema)) > MAX_CHARS
    except RecursionError:
        long = True
    if long:
        raise UnsupportedSchemaError("(size)", "#")
    _check(schema, schema, "#", 0)


def _check(schema: Any, root: Any, path: str, depth: int) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        raise UnsupportedSchemaError("(depth)" if isinstance(schema, dict) else "(schema)", path)
    for keyword, value in schema.items():
        here = f"{path}/{keyword}"
        if not _is_sound(keyword, value, root):
            raise UnsupportedSchemaError(keyword, here)
        for name, below in _below(keyword, value):
            _check(below, root, f"{here}{name}", depth + 1)


def _is_sound(keyword: str, value: Any, root: Any) -> bool:
    if keyword in NOTES:
        return True
    if keyword in NUMBERS:
        return is_number(value) and (keyword != "multipleOf" or value > 0)
    if keyword in COUNTS:
        return is_whole(value) and value >= 0
    if keyword in ONE:
        return isinstance(value, dict | bool)
    if keyword in SEVERAL:
        return isinstance(value, list) and bool(value)
    if keyword in NAMED:
        return isinstance(value, dict)
    if keyword == "type":
        names = value if isinstance(value, list) else [value]
        return bool(names) and all(isinstance(name, str) and name in TYPES for name in names)
    if keyword == "required":
        return isinstance(value, list) and all(isinstance(name, str) for name in value)
    if keyword == "pattern":
        try:
            check_search(value)
        except (InvalidPatternError, SlowPatternError, TypeError):
            return False
    if keyword == "$ref":
        return isinstance(value, str) and _target(value, root) is not None
    if keyword in ("enum", "uniqueItems"):
        return isinstance(value, list if keyword == "enum" else bool)
    return keyword in OTHERS


def _target(reference: str, root: Any) -> Any:
    """The schema that a reference within the root means; None where it means none."""
    if reference == "#":
        return root
    start = next((start for start in LOCAL if reference.startswith(start)), None)
    if start is None or not isinstance(root, dict):
        return None
    name = reference.removeprefix(start).replace("~1", "/").replace("~0", "~")
    named = root.get(start[2:-1])
    return named.get(name) if isinstance(named, dict) else None


def _below(keyword: str, value: Any) -> Iterator[tuple[str, Any]]:
    if keyword in ONE:
        yield "", value
    elif keyword in SEVERAL:
        yield from ((f"/{place}", one) for place, one in enumerate(value))
    elif keyword in NAMED:
        yield from ((f"/{name}", one) for name, one in value.items())


class Evaluation:
    """Of one answer. `fault` returns where it first fails, `path: keyword`, or ""."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self.steps = 0

    def fault(self, schema: Any, value: Any, path: str = "$") -> str:
        """Raises TooManyStepsError."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise TooManyStepsError
        if isinstance(schema, bool):
            return "" if schema else f"{path}: false"
        try:
            return next((found for keyword in schema if (found := self._keyword(schema, keyword, value, path))), "")
        except RecursionError:
            raise TooManyStepsError from None

    def _holds(self, schema: Any, value: Any) -> bool:
        return not self.fault(schema, value)

    def _keyword(self, schema: Mapping[str, Any], keyword: str, value: Any, path: str) -> str:
        wanted = schema[keyword]
        if keyword == "$ref":
            return self.fault(_target(wanted, self.root), value, path)
        if keyword == "allOf":
            return next((found for one in wanted if (found := self.fault(one, value, path))), "")
        if keyword == "if":
            branch = schema.get("then" if self._holds(wanted, value) else "else", True)
            return self.fault(branch, value, path)
        if isinstance(value, dict) and keyword in OBJECT:
            return self._object(schema, keyword, value, path)
        if isinstance(value, list) and keyword in ARRAY:
            return self._array(schema, keyword, value, path)
        return "" if self._plain(keyword, wanted, value) else f"{path}: {keyword}"

    def _plain(self, keyword: str, wanted: Any, value: Any) -> bool:
        if keyword == "type":
            return any(TYPES[name](value) for name in ([wanted] if isinstance(wanted, str) else wanted))
        if keyword == "enum":
            self._count(len(wanted))
            return any(same(one, value) for one in wanted)
        if keyword == "const":
            return same(wanted, value)
        if keyword == "anyOf":
            return any(self._holds(one, value) for one in wanted)
        if keyword == "oneOf":
            return sum(self._holds(one, value) for one in wanted) == 1
        if keyword == "not":
            return not self._holds(wanted, value)
        if keyword in NUMBERS and is_number(value):
            return BOUNDS[keyword](value, wanted)
        if isinstance(value, str):
            if keyword == "pattern":
                return search(wanted, value)
            return not (
                keyword == "minLength" and len(value) < wanted or keyword == "maxLength" and len(value) > wanted
            )
        return True

    def _object(self, schema: Mapping[str, Any], keyword: str, value: dict[str, Any], path: str) -> str:
        wanted = schema[keyword]
        if keyword == "required":
            missing = next((name for name in wanted if name not in value), None)
            return "" if missing is None else f"{path}.{missing}: required"
        if keyword in ("minProperties", "maxProperties"):
            fits = len(value) >= wanted if keyword == "minProperties" else len(value) <= wanted
            return "" if fits else f"{path}: {keyword}"
        pairs: Iterator[tuple[Any, Any, str]]
        if keyword == "properties":
            pairs = ((below, value[name], name) for name, below in wanted.items() if name in value)
        elif keyword == "additionalProperties":
            known = schema.get("properties", {})
            pairs = ((wanted, one, name) for name, one in value.items() if name not in known)
        elif keyword == "propertyNames":
            pairs = ((wanted, name, name) for name in value)
        else:
            pairs = ((below, value, name) for name, below in wanted.items() if name in value)
        return next((found for below, one, name in pairs if (found := self.fault(below, one, f"{path}.{name}"))), "")

    def _array(self, schema: Mapping[str, Any], keyword: str, value: list[Any], path: str) -> str:
        wanted = schema[keyword]
        if keyword in ("minItems", "maxItems"):
            fits = len(value) >= wanted if keyword == "minItems" else len(value) <= wanted
            return "" if fits else f"{path}: {keyword}"
        if keyword == "uniqueItems":
            self._count(len(value) * len(value) // 2 if wanted else 0)
            return f"{path}: {keyword}" if wanted and _repeats(value) else ""
        if keyword == "contains":
            return "" if any(self._holds(wanted, one) for one in value) else f"{path}: contains"
        first = len(schema.get("prefixItems", ())) if keyword == "items" else 0
        pairs = (
            zip(wanted, value, strict=False) if keyword == "prefixItems" else ((wanted, one) for one in value[first:])
        )
        places = enumerate(pairs, first)
        return next((found for at, (one, it) in places if (found := self.fault(one, it, f"{path}[{at}]"))), "")

    def _count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise TooManyStepsError


OBJECT = {
    "required", "minProperties", "maxProperties", "properties", "additionalProperties", "propertyNames",
    "dependentSchemas",
}  # fmt: skip
ARRAY = {"minItems", "maxItems", "uniqueItems", "items", "prefixItems", "contains"}
BOUNDS: dict[str, Callable[[Any, Any], bool]] = {
    "minimum": lambda value, bound: value >= bound,
    "maximum": lambda value, bound: value <= bound,
    "exclusiveMinimum": lambda value, bound: value > bound,
    "exclusiveMaximum": lambda value, bound: value < bound,
    "multipleOf": lambda value, bound: _is_multiple(value, bound),
}


def _is_multiple(value: Any, bound: Any) -> bool:
    if isinstance(value, int) and isinstance(bound, int):
        return value % bound == 0
    try:
        return float(value / bound).is_integer()
    except OverflowError:
        return False


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return type(one) is type(other) and one == other or is_number(one) and is_number(other) and one == other


def _repeats(values: list[Any]) -> bool:
    return any(same(one, other) for place, one in enumerate(values) for other in values[:place])
