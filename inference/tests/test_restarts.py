"""When the next worker may start, and what it is given back: the policy alone, on a clock of the test's."""

from __future__ import annotations

from typing import Any

import pytest

from inference.backends.restarts import GIVE_UP_AFTER, MAX_BACKOFF, Blame, RestartPolicy

BASE = {"key": "x", "path": "/models/x", "name": "x"}
ASK = {"type": "generate", "base": BASE, "adapter": {"digest": "d", "path": "/store/d", "name": "d"}}


class World:
    def __init__(self) -> None:
        self.now = 100.0
        self.policy = RestartPolicy(lambda: self.now)

    def base(self, *states: str) -> None:
        for state in states:
            self.policy.suspects.heard({"type": "base_load", "key": "x", "state": state})

    def ended(self, ready: bool = True, healthy: bool = False, crashed: bool = True) -> Blame:
        return self.policy.ended("SIGKILL", ready, healthy, crashed)

    def answered(self) -> None:
        self.policy.residents.note(ASK)
        self.policy.residents.answered(ASK)

    @property
    def restored(self) -> list[Any] | None:
        plan = self.policy.residents.plan
        return None if plan is None else [plan["base"]["key"], *(adapter["digest"] for adapter in plan["adapters"])]


@pytest.fixture
def world() -> World:
    return World()


def test_failed_starts_wait_longer_and_longer(world: World) -> None:
    delays = []
    for number in range(10):
        world.policy.start_failed()
        assert world.policy.gave_up == (number + 1 >= GIVE_UP_AFTER)
        delays.append(world.policy.delay())
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0] + [MAX_BACKOFF] * 4
    world.now += MAX_BACKOFF
    assert world.policy.delay() == 0


def test_who_asks_meanwhile_waits_until_it_is_given_up(world: World) -> None:
    waits = []
    for _ in range(GIVE_UP_AFTER):
        world.policy.start_failed()
        waits.append(world.policy.wait(ASK, running=False))
    assert waits == [0, 0, 2.0] and world.policy.wait(ASK, running=True) == 0
    world.now += 1.9
    assert world.policy.wait(ASK, running=False) == 1, "a whole second at least"
    world.now += 0.1
    assert world.policy.wait(ASK, running=False) == 0


def test_a_worker_that_had_answered_is_replaced_at_once(world: World) -> None:
    world.policy.start_failed()
    world.answered()
    assert world.ended(healthy=True) == Blame()
    assert (world.policy.delay(), world.policy.failures) == (0, 0) and world.restored == ["x", "d"]


def test_workers_that_live_for_nothing_are_given_up(world: World) -> None:
    for _ in range(GIVE_UP_AFTER):
        assert world.restored is None
        world.ended()
    assert world.policy.gave_up and world.policy.delay() == 2.0


def test_one_that_dies_over_what_it_was_given_back_is_given_nothing(world: World) -> None:
    world.answered()
    world.ended(healthy=True)
    assert world.restored == ["x", "d"]
    world.ended(healthy=True)
    assert world.restored is None


def test_a_load_is_blamed_on_its_base(world: World) -> None:
    for refusal in (False, True):
        world.base("begun")
        blame = world.ended()
        assert (blame.base, blame.loading, bool(blame.refusal)) == ("x", True, refusal)
        assert world.policy.delay() == world.policy.failures == 0 and world.restored is None
    assert "SIGKILL" in blame.refusal


def test_a_base_that_was_held_is_restored_until_it_has_gone_too_often(world: World) -> None:
    restored = []
    for _ in range(3):
        world.answered()
        world.base("begun", "loaded")
        assert world.ended() == Blame("x")
        restored.append(world.restored)
        world.policy.residents.plan = None  # the next worker was given it
    assert restored == [["x", "d"], ["x", "d"], None] and world.policy.wait(ASK, running=True) == 2.0


def test_an_end_that_is_no_crash_blames_nobody(world: World) -> None:
    world.base("begun")
    assert world.ended(crashed=False) == Blame()
    assert world.ended() == Blame(), "what the one before was doing is forgotten"
