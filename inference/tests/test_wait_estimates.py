"""Expected times come from what was measured, are silent without it, and survive the process."""

# Events are read by key whatever they are, and the engine here is the local one.
# mypy: disable-error-code="typeddict-item"

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import sync_to_async

from inference.estimates import load_times
from inference.estimates.wait_estimates import KEPT, MOST_KEYS, WaitEstimates
from inference.manager import ModelManager, Request
from inference.models import LoadTime

PIRATE, POET = "d" * 64, "e" * 64


class Life:
    """Wait estimates with a clock, and short words for what happens."""

    def __init__(self, **options: Any) -> None:
        self.kept: list[tuple[str, str, float]] = []
        self.expectations = WaitEstimates(on_sample=lambda *sample: self.kept.append(sample), **options)
        self.now = 0.0
        self.started = True
        self.asked = 0

    def after(self, seconds: float) -> Life:
        self.now += seconds
        return self

    def ask(self, base: str = "base", digest: str = "") -> str:
        self.asked += 1
        self.expectations.asked(f"r{self.asked}", base, digest, self.now)
        return f"r{self.asked}"

    def see(self, request: str, kind: str, **event: Any) -> int | None:
        return self.expectations.seen({"type": kind, "id": request, **event}, self.started, self.now)

    def loading(self, request: str, stage: str) -> int | None:
        return self.see(request, "loading", stage=stage, progress=0.0, name="")

    def queued(self, request: str, reason: str, position: int = 0, **detail: Any) -> int | None:
        return self.see(request, "queued", reason=reason, position=position, detail=detail)

    def done(self, request: str, seconds: float) -> None:
        self.see(request, "done", finish_reason="stop", timings={"total": seconds + 5, "queue": 5.0})

    def answer(self, seconds: float) -> None:
        request = self.ask()
        self.see(request, "token", text="")
        self.after(seconds).done(request, seconds)

    def load(self, seconds: float) -> None:
        request = self.ask()
        self.loading(request, "starting")
        self.after(seconds).see(request, "token", text="")
        self.done(request, 0.0)


@pytest.fixture
def life() -> Life:
    return Life()


def test_nothing_is_said_without_history(life: Life) -> None:
    assert life.queued(life.ask(), "batch_full", running=4) is None
    for _time in range(2):
        life.load(20)
    assert life.loading(life.ask(), "starting") is None  # two are too few


def test_a_base_on_its_way(life: Life) -> None:
    for seconds in (18, 20, 22):
        life.load(seconds)
    first = life.ask()
    assert life.loading(first, "starting") == 20
    assert life.after(15).loading(first, "weights") == 5
    second = life.ask()  # comes while it loads
    assert life.loading(second, "weights") == 5
    assert life.after(10).loading(second, "weights") is None  # longer than ever: nobody knows
    assert life.loading(life.ask("another base"), "starting") is None


def test_the_adapter_comes_on_top(life: Life) -> None:
    for _time in range(3):
        life.load(20)
    assert life.loading(life.ask(digest=PIRATE), "starting") is None  # no adapter was ever loaded
    life = Life()
    for _time in range(3):
        request = life.ask(digest=PIRATE)
        life.loading(request, "starting")
        life.after(20).loading(request, "adapter")
        life.after(2).see(request, "token", text="")
        life.done(request, 1)
    assert life.loading(life.ask(digest=PIRATE), "starting") == 22
    assert life.loading(life.ask(digest=POET), "starting") == 22  # by its base's other adapters
    waiting = life.ask(digest=POET)
    assert life.queued(waiting, "loading_base") == 22
    assert life.queued(waiting, "loading_adapter") == 2


def test_the_engine_s_own_start(life: Life) -> None:
    for _time in range(3):
        life.started = False
        request = life.ask()
        life.loading(request, "starting")
        life.after(8).started = True
        life.loading(request, "starting")
        life.after(20).see(request, "token", text="")
        life.done(request, 1)
    assert life.kept == [("start", "", 8.0), ("base", "base", 20.0)] * 3
    life.started = False
    assert life.loading(life.ask(), "starting") == 28


def test_loads_that_end_otherwise_are_not_measured(life: Life) -> None:
    failed, left = life.ask(), life.ask(digest=PIRATE)
    life.loading(failed, "starting")
    life.after(3).see(failed, "error", code="base_load_failed")
    life.see(left, "done", finish_reason="cancelled", timings={"total": 3.0, "queue": 3.0})
    late = life.ask()  # whoever asks when a load is half done does not measure its rest
    life.loading(late, "weights")
    life.after(1).see(late, "token", text="")
    assert life.kept == []


def test_a_place_in_the_batch(life: Life) -> None:
    for _time in range(3):
        life.answer(10)
    one, two = life.ask(), life.ask()
    life.see(one, "token", text="")
    life.after(4).see(two, "token", text="")
    waiting = life.ask()
    assert life.queued(waiting, "batch_full", 0, running=2) == 6  # `one` has 6 s left
    assert life.queued(waiting, "batch_full", 1, running=2) == 10  # `two` has 10
    assert life.queued(waiting, "batch_full", 2, running=2) == 16  # whoever follows `one` takes 10 more
    assert life.after(20).queued(waiting, "batch_full", 0, running=2) == 10  # longer than ever: as if begun anew
    assert life.queued(waiting, "memory", 0) is None


def test_another_base_lets_go_first() -> None:
    life = Life(patience=20.0)
    for _time in range(3):
        life.load(7)
        life.answer(10)
    request = life.ask("other")
    for _time in range(3):
        life.expectations.remember("base", "other", 5.0)
    assert life.queued(request, "other_base") == 5  # nothing is written: it is loaded at once
    writing = life.ask()
    life.see(writing, "token", text="")
    assert life.queued(request, "other_base") == 35  # 20 of patience, 10 of the answer, 5 to load
    assert life.after(6).queued(request, "other_base") == 23


def test_memory_is_bounded(life: Life) -> None:
    for number in range(MOST_KEYS + 50):
        life.expectations.remember("adapter", f"{number}", 1.0)
    for _time in range(KEPT + 5):
        life.expectations.remember("base", "base", 1.0)
    assert len(life.expectations.samples) == MOST_KEYS
    assert len(life.expectations.samples["base", "base"].values) == KEPT
    request = life.ask()
    life.loading(request, "starting")
    life.expectations.gone(request)
    assert not life.expectations.requests and not life.expectations.under_way
    assert life.loading(request, "weights") is None


@pytest.mark.django_db(transaction=True)
def test_load_times_are_kept_and_old_ones_forgotten() -> None:
    for number in range(KEPT + 5):
        load_times.keep("base", "b", float(number))
    load_times.keep("start", "", 8.0)
    assert LoadTime.objects.filter(kind="base").count() == KEPT
    expectations = WaitEstimates()
    load_times.recall(expectations)
    assert list(expectations.samples["base", "b"].values) == [float(number) for number in range(5, KEPT + 5)]
    assert list(expectations.samples["start", ""].values) == [8.0]


async def test_frames_carry_it(manager: ModelManager) -> None:
    base: Any = {"key": "b" * 64, "path": "/models/tiny", "name": "tiny"}
    for _time in range(3):
        manager.expectations.remember("start", "", 40.0)
        manager.expectations.remember("base", base["key"], 20.0)
    async with await manager.generate(Request(user="u", base=base, prompt="ahoy")) as stream:
        events = [event async for event in stream]
    assert (events[0]["stage"], events[0]["expected"]) == ("starting", 60)
    assert all("expected" not in event for event in events if event["type"] in ("token", "done"))
    assert not manager.expectations.requests


@pytest.mark.django_db(transaction=True)
async def test_a_manager_begins_with_what_earlier_ones_measured(make_manager: Any) -> None:
    for _time in range(3):
        await LoadTime.objects.acreate(kind="start", key="", seconds=3.0)
        await LoadTime.objects.acreate(kind="base", key="b" * 64, seconds=2.0)
    manager = make_manager(history=True)
    base: Any = {"key": "b" * 64, "path": "/models/tiny", "name": "tiny"}
    async with await manager.generate(Request(user="u", base=base, prompt="ahoy")) as stream:
        events = [event async for event in stream]
    assert events[0]["expected"] == 5
    await sync_to_async(manager.close)()
    assert await LoadTime.objects.filter(kind="start").acount() == 4
