"""What an item asks of an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from common.api import ApiError
from evaluations.checks import schema
from evaluations.checks.judging import Scored, asks, judged, passed, sentence
from evaluations.checks.shapes import KINDS, TITLES, read_checks


def verdict(text: str, reference: str = "", **check: Any) -> dict[str, Any]:
    (kept,) = read_checks([check], reference)
    assert read_checks([kept], reference) == [kept]  # what is kept is read again
    return judged(text, reference, json.loads(json.dumps([kept])))[0]


@pytest.mark.parametrize(
    ("good", "bad", "check"),
    [
        (" Yes\n", "yes", {"kind": "equals", "value": "Yes"}),
        ("yes", "no", {"kind": "equals", "value": "YES", "ignore_case": True}),
        ("the answer is 42.", "41", {"kind": "contains"}),
        ("I can", "Sorry, no", {"kind": "excludes", "value": "sorry", "ignore_case": True}),
        ("on 2024-05-01", "tomorrow", {"kind": "pattern", "value": r"\d{4}-\d\d-\d\d"}),
        ("价格 30 元", "30 €", {"kind": "pattern", "value": r"\p{Han}\s+\d+"}),
        ('{"a": [1]}', "{'a': 1}", {"kind": "json"}),
        ('```json\n{"a": 1}\n```', '```json\n{"a"\n```', {"kind": "json", "fenced": True}),
        ('{"a": 1}', '```\n{"a": 1}\n```', {"kind": "json"}),
        ('{"a": 1}', '{"a": "1"}', {"kind": "schema", "schema": {"properties": {"a": {"type": "integer"}}}}),
        ("one two", "one two three", {"kind": "length", "unit": "words", "most": 2}),
        ("abc", "ab", {"kind": "length", "least": 3}),
        ("今天是 OK", "Today 好", {"kind": "script", "script": "han", "share": 0.5}),
        ("Grüße", "привет", {"kind": "script", "script": "latin"}),
    ],
)
def test_kinds(good: str, bad: str, check: dict[str, Any]) -> None:
    assert verdict(good, "42", **check)["passed"]
    failed = verdict(bad, "42", **check)
    assert not failed["passed"] and sentence(failed)
    assert passed([failed]) is False and passed([]) is None


def test_every_kind_has_a_title_and_nothing_is_offered_that_nobody_computes() -> None:
    assert set(KINDS) == set(TITLES)
    with pytest.raises(ApiError) as caught:
        read_checks([{"kind": "perplexity"}], "reference")
    assert (caught.value.code, caught.value.param) == ("invalid_choice", "checks.0.kind")


@pytest.mark.parametrize(
    ("code", "param", "check"),
    [
        ("required", "checks.0.value", {"kind": "equals"}),
        ("pattern_invalid", "checks.0.value", {"kind": "pattern", "value": "(?=a)"}),
        ("too_long", "checks.0.value", {"kind": "pattern", "value": "a" * 501}),
        ("unknown_parameter", "checks.0.fenced", {"kind": "equals", "value": "a", "fenced": True}),
        ("required", "checks.0.most", {"kind": "length"}),
        ("invalid_choice", "checks.0.script", {"kind": "script", "script": "klingon"}),
        ("required", "checks.0.kind", {"kind": "loss"}),
        ("schema_unsupported", "checks.0.schema", {"kind": "schema", "schema": {"$ref": "https://a.example/s.json"}}),
        ("schema_unsupported", "checks.0.schema", {"kind": "schema", "schema": {"format": "email"}}),
        ("schema_unsupported", "checks.0.schema", {"kind": "schema", "schema": {"patternProperties": {"a": {}}}}),
        (
            "schema_unsupported",
            "checks.0.schema",
            {"kind": "schema", "schema": {"properties": {"a": {"pattern": "("}}}},
        ),
    ],
)
def test_refusals_name_the_field(code: str, param: str, check: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        read_checks([check], "")
    assert (caught.value.code, caught.value.param) == (code, param)


def test_a_loss_is_measured_and_decides_only_with_a_bar() -> None:
    scored = Scored(-6.0, 4)
    kept = read_checks([{"kind": "loss"}, {"kind": "loss", "most": 1.5}, {"kind": "loss", "most": 1.25}], "ref")
    assert not asks(kept) and asks([*kept, {"kind": "json"}]) and asks([])
    measured, good, bad = judged("", "ref", kept, scored)
    assert measured == {"passed": None, "loss": 1.5, "tokens": 4} and good["passed"] is True
    assert bad["passed"] is False and "1.5" in sentence(bad) and "1.25" in sentence(bad)
    assert passed([measured]) is None and passed([measured, good]) is True and passed([measured, good, bad]) is False


VALUES = [
    None, True, 0, 1, 1.0, 2.5, -3, 10**300, "", "ab", "abc", [], [1], [1, 1.0], [1, True], [{"a": 1}, {"a": 1}], {},
    {"a": 1}, {"a": "x", "b": 2}, {"a": {"a": {"a": None}}}, [1, "x", None], [[1], [2]],
]  # fmt: skip
SCHEMAS: list[Any] = [
    True, False, {}, {"type": "integer"}, {"type": ["string", "null"]}, {"enum": [1, "ab", [1]]}, {"const": 1.0},
    {"const": True}, {"minimum": 1, "maximum": 2.5}, {"exclusiveMinimum": 0, "exclusiveMaximum": 10},
    {"multipleOf": 0.5}, {"multipleOf": 2}, {"minLength": 1, "maxLength": 2}, {"pattern": "b$"}, {"uniqueItems": True},
    {"minItems": 1, "maxItems": 2, "items": {"type": "number"}},
    {"prefixItems": [{"const": 1}], "items": {"type": "string"}},
    {"contains": {"const": 1}}, {"required": ["a"]}, {"minProperties": 1, "maxProperties": 1},
    {"properties": {"a": {"type": "integer"}}, "additionalProperties": False},
    {"properties": {"a": {}}, "additionalProperties": {"type": "string"}},
    {"propertyNames": {"maxLength": 1, "const": "a"}},
    {"anyOf": [{"type": "string"}, {"minimum": 1}]}, {"oneOf": [{"type": "number"}, {"const": 1}]},
    {"allOf": [{"type": "object"}, {"required": ["b"]}]}, {"not": {"type": "array"}},
    {"if": {"type": "string"}, "then": {"minLength": 3}, "else": {"type": "object"}},
    {"dependentSchemas": {"b": {"properties": {"a": {"const": "x"}}}}},
    {"$ref": "#/$defs/n", "$defs": {"n": {"properties": {"a": {"$ref": "#/$defs/n"}}, "not": {"const": 1}}}},
]  # fmt: skip


@pytest.mark.parametrize("given", SCHEMAS, ids=str)
def test_schemas_mean_what_they_mean_elsewhere(given: Any) -> None:
    schema.check_schema(given)
    for value in VALUES:
        ours = schema.Evaluation(given).fault(given, value) == ""
        assert ours == Draft202012Validator(given).is_valid(value), value


def test_what_would_take_forever_ends() -> None:
    levels = {f"l{n}": {"anyOf": [{"$ref": f"#/$defs/l{n + 1}"}] * 2} for n in range(60)} | {"l60": {"type": "null"}}
    for endless in ({"$ref": "#"}, {"$ref": "#/$defs/l0", "$defs": levels}):
        assert verdict("1", kind="schema", schema=endless)["code"] == "too_complex"
    unique = {"type": "array", "uniqueItems": True}
    assert verdict(json.dumps([*range(1000)]), kind="schema", schema=unique)["code"] == "too_complex"
    assert verdict("[" * 100_000, kind="json")["code"] == "no_json"
    deep: Any = {}
    for _level in range(40):
        deep = {"not": deep}
    with pytest.raises(ApiError):
        read_checks([{"kind": "schema", "schema": deep}], "")


def test_the_place_of_a_fault_is_named() -> None:
    given = {"properties": {"list": {"items": {"required": ["name"]}}}}
    failed = verdict('{"list": [{"name": 1}, {}]}', kind="schema", schema=given)
    assert failed == {"passed": False, "code": "schema", "at": "$.list[1].name: required"}
