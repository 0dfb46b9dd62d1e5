"""Stop tokens, and stops that are part of the answer."""

from __future__ import annotations

from typing import Any

import pytest

from inference.engine.config import EngineConfig
from inference.engine.model.runner import Runner

from .conftest import Family
from .driver import Driver, base


@pytest.fixture(scope="module")
def driver(llama: Family) -> Driver:
    config = EngineConfig(device="cpu", max_context=128, max_batch=8, user_limit=99)
    return Driver(Runner(config), config)


@pytest.fixture
def ask(driver: Driver, llama: Family) -> Any:
    numbers = iter(range(1000))

    def of(**params: Any) -> tuple[list[int], dict[str, Any], str]:
        """(tokens of the answer, its end, its text)"""
        name = f"r{len(driver.events)}-{next(numbers)}"
        driver.generate(name, base("t", llama.base), max_tokens=12, ignore_eos=True, logprobs=0, **params)
        driver.finish(name)
        events = driver.of("token", name) + driver.of("done", name)
        tokens = [item["token_id"] for event in events for item in event.get("logprobs", [])]
        return tokens, driver.ended(name) or {}, driver.texts()[name]

    return of


def test_a_stop_token_ends_the_answer(ask: Any, driver: Driver) -> None:
    tokens, _, text = ask()
    at = next(i for i in range(3, 12) if tokens[i] not in tokens[:i])
    stopped, end, shorter = ask(stop_token_ids=[tokens[at], 100_000])
    assert stopped == tokens[: at + 1] and end["finish_reason"] == "stop"
    assert text.startswith(shorter) and shorter == driver.runner.decode(tokens[:at])
    assert ask(stop_token_ids=[tokens[at]], include_stop_str_in_output=True)[2] == driver.runner.decode(
        tokens[: at + 1]
    )


def test_none_before_the_least_number_of_tokens(ask: Any) -> None:
    first = ask()[0][0]
    tokens, end, _ = ask(stop_token_ids=[first, 2**31 - 1], min_tokens=12)
    assert first not in tokens and len(tokens) == 12 and end["finish_reason"] == "length"
    assert ask(stop_token_ids=[first], min_tokens=0)[0] == [first]


def test_a_stop_string_that_is_shown(ask: Any) -> None:
    text = ask()[2]
    stop = text[2:4]
    at = text.find(stop)
    assert ask(stop=[stop])[2] == text[:at]
    assert ask(stop=[stop], include_stop_str_in_output=True)[2] == text[: at + len(stop)]
