"""What clients may ask: bounds both ways, types, sizes; the refusal names the parameter."""

from __future__ import annotations

import math
from typing import Any

import pytest

from common.api import ApiError
from inference import params
from inference.engine.params import SamplingParams


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("temperature", [0, 0.0, 0.7, 2]),
        ("max_tokens", [1, 4096, 64.0]),
        ("min_tokens", [0, 10]),
        ("top_p", [0.01, 1]),
        ("top_k", [-1, 0, 50_000]),
        ("min_p", [0, 1]),
        ("repetition_penalty", [0.1, 1.2]),
        ("presence_penalty", [-2, 2]),
        ("frequency_penalty", [-2.0, 2.0]),
        ("seed", [-(2**63), 0, 2**63 - 1]),
        ("logprobs", [0, 20]),
        ("ignore_eos", [True, False]),
        ("stop", ["END", ["a", "b"], []]),
    ],
)
def test_good(name: str, good: list[Any]) -> None:
    for value in good:
        read = getattr(params.sampling({name: value}), name)
        assert (list(read) if name == "stop" else read) == ([value] if isinstance(value, str) else value)
        assert not isinstance(read, bool) or isinstance(value, bool)
    assert params.sampling({name: None}).given() == {}


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("temperature", [-1, 2.01, math.nan, math.inf, -math.inf, True, "0.5", [], 10**400]),
        ("max_tokens", [0, -2, 10**9, 1.5, True, "8", math.inf]),
        ("min_tokens", [-1, 10**9, False]),
        ("top_p", [0, 0.0, -0.1, 1.1, math.nan, True]),
        ("top_k", [-2, 2**31, 0.5, True]),
        ("min_p", [-0.1, 1.1, math.nan]),
        ("repetition_penalty", [0, -1, 11]),
        ("presence_penalty", [-2.1, 2.1]),
        ("frequency_penalty", [-3, 3, "x"]),
        ("seed", [-(2**63) - 1, 2**63, 1.5, True]),
        ("logprobs", [-1, 21, True]),
        ("ignore_eos", [1, "true"]),
        ("stop", ["", [""], ["x"] * 17, "x" * 257, [1], {}, "\ud800"]),
        ("json_schema", ["{}", [], {"x": "y" * 70_000}]),
    ],
)
def test_bad(name: str, bad: list[Any]) -> None:
    for value in bad:
        with pytest.raises(ApiError) as caught:
            params.sampling({name: value})
        assert (caught.value.status, caught.value.param) == (400, name), value


FLOATS = [name for name, field in SamplingParams.model_fields.items() if field.annotation is float]


@pytest.mark.parametrize("name", FLOATS)
def test_numbers_have_ranges(name: str) -> None:
    """What is neither a number nor finite lies in none."""
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ApiError) as caught:
            params.sampling({name: value})
        assert (caught.value.code, caught.value.param) == ("out_of_range", name), value


def test_combinations() -> None:
    for data, param in [
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        ({"json_object": True, "json_schema": {}}, "json_object"),
        ({"tempature": 1}, "tempature"),
    ]:
        with pytest.raises(ApiError) as caught:
            params.sampling(data)
        assert caught.value.param == param


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ("hi", "messages"),
        ([], "messages"),
        ([USER] * 501, "messages"),
        ([{"role": "user", "content": "  "}], "messages"),
        ([USER, "x"], "messages.1"),
        ([{"role": "tool", "content": "x"}], "messages.0.role"),
        ([{"role": ["user"], "content": "x"}], "messages.0.role"),
        ([{"role": "user"}], "messages.0.content"),
        ([{"role": "user", "content": ["x"]}], "messages.0.content"),
        ([{"role": "user", "content": "\udfff"}], "messages.0.content"),
        ([{"role": "user", "content": "x", "name": "y"}], "messages.0.name"),
        ([{"role": "user", "content": "x" * 200_001}], "messages.0.content"),
        ([{"role": "user", "content": "x" * 150_000}] * 2, "messages"),
    ],
)
def test_bad_messages(value: Any, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        params.body(params.Asked, {"messages": value})
    assert caught.value.param == param


def test_either() -> None:
    def either(data: Any) -> Any:
        asked = params.body(params.Asked, data)
        return asked.turns, asked.prompt

    assert either({"prompt": "hi"}) == (None, "hi")
    assert either({"messages": [USER], "prompt": None}) == ([USER], None)
    for data in ({}, {"prompt": ""}, {"prompt": "x" * 200_001}, {"prompt": 3}, {"prompt": "x", "messages": [USER]}):
        with pytest.raises(ApiError) as caught:
            either(data)
        assert caught.value.param == "prompt"
