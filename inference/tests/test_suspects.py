"""Crashes of the engine's process belong to the base that it was loading or held; other bases are served at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from inference.backends.suspects import LONGEST_WAIT, Suspects
from inference.errors import InferenceError, api_error
from inference.manager import ModelManager, Request

from .whole import run

GOOD: Any = {"key": "a" * 64, "path": "/models/good", "name": "good"}
KILLER: Any = {"key": "b" * 64, "path": "/models/killer", "name": "killer"}  # see the fake worker
FRAGILE: Any = {"key": "c" * 64, "path": "/models/fragile", "name": "fragile"}


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the manager would write to the registry."""
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr("inference.manager.write_verdict", seen.append)
    return seen


def ask(base: Any, prompt: str = "hello") -> Request:
    return Request(user="u", base=base, prompt=prompt)


async def text(manager: ModelManager, base: Any, prompt: str = "hello") -> str:
    return (await asyncio.wait_for(run(manager, ask(base, prompt)), 60)).text


async def failure(manager: ModelManager, base: Any, prompt: str = "hello") -> InferenceError:
    with pytest.raises(InferenceError) as caught:
        await asyncio.wait_for(run(manager, ask(base, prompt)), 60)
    return caught.value


async def test_a_base_that_kills_the_process_twice_while_it_loads_is_refused(
    manager: ModelManager, verdicts: list[dict[str, Any]]
) -> None:
    for attempt in range(2):
        error = await failure(manager, KILLER)
        assert error.code == "engine_crashed" and error.detail == {"reason": "SIGSEGV", "base": "killer"}
        answer = api_error(error)
        assert answer.status == 503 and "SIGSEGV" in answer.message and "killer" in answer.message
        assert await text(manager, GOOD) == "good says hello "
        assert len(verdicts) == attempt
    assert verdicts[0]["type"] == "refusal" and verdicts[0]["key"] == KILLER["key"]
    assert "SIGSEGV" in verdicts[0]["reason"]


async def test_a_crash_loop_of_one_base_takes_no_other_with_it(
    manager: ModelManager, verdicts: list[dict[str, Any]]
) -> None:
    """Every request for another base is answered, those that waited in the worker's queue too."""
    for _ in range(5):
        bad, good = await asyncio.gather(failure(manager, KILLER), text(manager, GOOD))
        assert bad.code in {"engine_crashed", "base_unsupported"} and good == "good says hello "
    assert await text(manager, GOOD) == "good says hello " and manager.backend.ready


async def test_a_base_that_crashes_in_its_steps_waits_alone(
    manager: ModelManager, verdicts: list[dict[str, Any]]
) -> None:
    codes = [(await failure(manager, FRAGILE, "crash")).code for _ in range(3)]
    assert codes == ["engine_crashed"] * 3
    held = await failure(manager, FRAGILE)
    assert held.code == "engine_unavailable" and 1 <= held.detail["retry_after"] <= LONGEST_WAIT
    assert await text(manager, GOOD) == "good says hello "
    assert not verdicts, "it loads, so it may be its requests"


async def test_an_answer_that_has_begun_is_not_begun_again(
    make_manager: Callable[..., ModelManager], verdicts: list[dict[str, Any]]
) -> None:
    manager = make_manager()
    stream = await manager.generate(ask(GOOD, "hang"))
    async for event in stream:
        if event["type"] == "token":
            break
    assert (await failure(manager, KILLER)).code == "engine_crashed"
    final: Any = await asyncio.wait_for(stream.final(), 60)
    assert (final["type"], final["code"]) == ("error", "engine_crashed")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def loads(suspects: Suspects, key: str, state: str) -> None:
    suspects.heard({"type": "base_load", "key": key, "state": state})


def test_a_load_that_ends_in_between_begins_the_count_anew() -> None:
    suspects = Suspects(Clock())
    for state in ("loaded", "failed"):
        loads(suspects, "x", "begun")
        assert suspects.died_loading("SIGKILL") == ""
        loads(suspects, "x", "begun")
        loads(suspects, "x", state)
    loads(suspects, "x", "begun")
    assert suspects.died_loading("SIGKILL") == ""
    loads(suspects, "y", "begun")
    assert suspects.died_loading("SIGBUS") == "", "another base's crash is its own"
    loads(suspects, "x", "begun")
    assert "SIGKILL" in suspects.died_loading("SIGKILL")


def test_the_wait_grows_and_ends_with_an_answer() -> None:
    clock = Clock()
    suspects = Suspects(clock)
    command = {"base": {"key": "x"}}
    waits = []
    for _ in range(10):
        loads(suspects, "x", "begun")
        loads(suspects, "x", "loaded")
        suspects.died_holding(healthy=False)
        waits.append(suspects.wait(command))
    assert waits[:2] == [0, 0] and waits[2:] == sorted(waits[2:]) and waits[-1] == LONGEST_WAIT
    assert suspects.wait({"base": {"key": "y"}}) == suspects.wait({"type": "status"}) == 0
    clock.now += LONGEST_WAIT
    assert suspects.wait(command) == 0
    assert suspects.died_holding(healthy=True)
    assert suspects.died_holding(healthy=False), "counted from one again"
