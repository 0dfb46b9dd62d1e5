"""The engine's loop over a fake model: routing, joining and leaving, bases, adapters, limits, ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inference.engine.config import EngineConfig
from inference.engine.errors import EngineError
from inference.engine.fake import FakeRunner
from inference.engine.runner_interface import ProofResult, StepResult
from inference.engine.scheduling.scheduler import Chunk

from .driver import Driver, adapter, base

BASE = base("base")


def driver(**config: Any) -> Driver:
    made = EngineConfig(**config)
    return Driver(FakeRunner(made), made)


def fake(folder: Path, name: str, **said: Any) -> dict[str, Any]:
    path = folder / name
    path.mkdir()
    (path / "fake.json").write_text(json.dumps(said))
    return adapter(name, path)


def test_each_request_gets_its_own_adapters_text() -> None:
    d = driver(max_batch=3)
    names = ["pirate", "poet", None, "json"] * 4
    for index, name in enumerate(names):
        d.generate(f"r{index}", BASE, adapter(name) if name else None, user=f"u{index % 3}", max_tokens=20)
    d.finish(*[f"r{i}" for i in range(len(names))])
    for index, name in enumerate(names):
        assert d.texts()[f"r{index}"].startswith(f"{name or 'base'}:0 ")
        done = d.ended(f"r{index}")
        assert done is not None and done["digest"] == (f"digest-{name}" if name else "key-base")
        assert done["usage"]["completion_tokens"] == 20


def test_pieces_are_numbered_and_joined_are_the_answer() -> None:
    d = driver()
    d.generate("r", BASE, max_tokens=9)
    d.finish("r")
    assert [e["index"] for e in d.of("token")] == list(range(9))
    assert d.texts()["r"] == "base:0 ba"


def test_a_request_joins_between_steps_of_another() -> None:
    d = driver()
    d.generate("long", BASE, max_tokens=100)
    d.until(lambda: len(d.of("token", "long")) == 10)
    d.generate("late", BASE, max_tokens=3, user="v")
    d.finish("late")
    assert len(d.of("token", "long")) < 20, "the late one did not wait for the long one"


def test_cancel_frees_the_slot_within_one_step() -> None:
    d = driver(max_batch=1)
    d.generate("a", BASE, max_tokens=1000)
    d.generate("b", BASE, max_tokens=5)
    d.until(lambda: d.of("token", "a"))
    d.send("cancel", id="a")
    before = d.engine.stepper.steps
    d.tick()
    assert d.engine.stepper.steps - before <= 1
    assert d.ended("a")["finish_reason"] == "cancelled"  # type: ignore[index]
    assert d.of("token", "b"), "the next request had that very step"
    d.send("cancel", id="a")
    d.send("cancel", id="unknown")
    d.finish("b")


def test_cancel_while_waiting() -> None:
    d = driver(max_batch=1)
    d.generate("a", BASE, max_tokens=1000)
    d.generate("b", BASE)
    d.until(lambda: d.of("token", "a"))
    d.send("cancel", id="b")
    d.tick()
    assert d.ended("b")["usage"]["completion_tokens"] == 0  # type: ignore[index]
    assert len(d.engine.queue) == 0


def test_stop_strings_end_the_answer_before_them() -> None:
    d = driver()
    d.generate("r", BASE, max_tokens=50, stop=["se:1"])
    d.finish("r")
    assert d.texts()["r"] == "base:0 ba"
    done = d.ended("r")
    assert done is not None and (done["finish_reason"], done["stop"]) == ("stop", "se:1")


def test_a_prompt_beyond_the_context_names_its_parameter() -> None:
    d = driver(max_context=64)
    d.generate("p", BASE, prompt="x" * 64)
    d.generate("m", BASE, messages=[{"role": "user", "content": "x" * 100}])
    d.generate("empty", BASE, prompt="")
    d.tick(3)
    assert [(e["id"], e["code"], e["param"]) for e in d.of("error")] == [
        ("p", "context_length_exceeded", "prompt"),
        ("m", "context_length_exceeded", "messages"),
        ("empty", "invalid_parameter", "prompt"),
    ]


def test_an_answer_ends_at_the_context() -> None:
    d = driver(max_context=32)
    d.generate("r", BASE, prompt="x" * 20, max_tokens=500)
    d.finish("r")
    done = d.ended("r")
    assert done is not None and (done["finish_reason"], done["usage"]["completion_tokens"]) == ("length", 12)


def test_limits() -> None:
    d = driver(max_batch=1, queue_limit=3, user_limit=2)
    for index in range(3):
        d.generate(f"a{index}", BASE, user="a")
    d.generate("b", BASE, user="b")
    d.generate("c", BASE, user="c")
    d.tick()
    assert {e["id"]: e["code"] for e in d.of("error")} == {"a2": "user_limit", "c": "queue_full"}
    d.finish("a0", "a1", "b")


def test_duplicate_id_is_refused_and_the_first_goes_on() -> None:
    d = driver()
    d.generate("r", BASE, max_tokens=5)
    d.tick()
    d.engine.requests.arrivals["r"]
    d.generate("r", BASE, max_tokens=5)
    d.until(lambda: len([e for e in d.events if e["type"] in {"done", "error"}]) == 2)
    assert {e["type"] for e in d.events if e["type"] in {"done", "error"}} == {"done", "error"}


# Adapters


def test_the_same_digest_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    d = driver()
    reads: list[str] = []
    read = d.runner.read_adapter

    def count(spec: Any) -> Any:
        reads.append(spec["digest"])
        return read(spec)

    monkeypatch.setattr(d.runner, "read_adapter", count)
    for index in range(6):
        d.generate(f"r{index}", BASE, adapter("pirate"), user=f"u{index}")
    d.finish(*[f"r{i}" for i in range(6)])
    assert reads == ["digest-pirate"]
    assert len(d.of("proof")) == 1


def test_loading_an_adapter_never_holds_up_the_others(tmp_path: Path) -> None:
    d = driver()
    d.generate("running", BASE, max_tokens=2000)
    d.until(lambda: d.of("token", "running"))
    d.generate("slow", BASE, fake(tmp_path, "slow", seconds=0.3), user="v", max_tokens=3)
    pieces = len(d.of("token", "running"))
    d.finish("slow")
    assert len(d.of("token", "running")) - pieces > 5, "tokens kept coming while the file was read"


def test_least_recently_used_leaves_and_those_in_use_stay(tmp_path: Path) -> None:
    d = driver(adapter_bytes=2**20)
    size = 400_000
    specs = {name: fake(tmp_path, name, bytes=size) for name in "abcd"}
    d.generate("a", BASE, specs["a"], max_tokens=2000)
    d.until(lambda: d.of("token", "a"))
    for name in "bcd":
        d.generate(name, BASE, specs[name], user="v", max_tokens=3)
        d.finish(name)
        assert d.engine.residency.bytes <= 2**20
        assert "digest-a" in d.engine.residency
    assert set(d.engine.residency.adapters) == {"digest-a", "digest-d"}
    assert set(d.runner.names) == {"digest-a", "digest-d"}


def test_an_adapter_waits_for_room_and_says_so(tmp_path: Path) -> None:
    d = driver(adapter_bytes=2**20)
    d.generate("a", BASE, fake(tmp_path, "a", bytes=900_000), max_tokens=2000)
    d.until(lambda: d.of("token", "a"))
    d.generate("b", BASE, fake(tmp_path, "b", bytes=900_000), max_tokens=3, user="v")
    d.until(lambda: d.engine.loader.landed)
    d.clock.now += 1
    d.tick(2)
    assert d.of("queued", "b")[-1]["reason"] == "memory"
    d.send("cancel", id="a")
    d.finish("a", "b")
    assert d.texts()["b"] == "b:0"


def test_an_adapter_larger_than_the_bank_is_refused(tmp_path: Path) -> None:
    d = driver(adapter_bytes=2**20)
    d.generate("r", BASE, fake(tmp_path, "huge", bytes=2**21))
    d.finish("r")
    assert d.ended("r")["code"] == "out_of_memory"  # type: ignore[index]


def test_a_failing_adapter_ends_its_own_requests_only(tmp_path: Path) -> None:
    d = driver()
    bad = fake(tmp_path, "bad", fail="weights_nonfinite")
    for index in range(3):
        d.generate(f"bad{index}", BASE, bad, user=f"u{index}")
    d.generate("good", BASE, adapter("good"), max_tokens=8)
    d.finish("bad0", "bad1", "bad2", "good")
    assert {e["code"] for e in d.of("error")} == {"weights_nonfinite"}
    assert d.texts()["good"] == "good:0 g"
    d.generate("again", BASE, bad)
    d.finish("again")
    assert d.ended("again")["code"] == "weights_nonfinite", "tried again, not remembered"  # type: ignore[index]


def test_no_effect_is_told_before_any_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    d = driver()
    step = d.runner.step

    def refuse(chunks: list[Chunk], budget: int) -> StepResult:
        proving = d.runner.proving
        result = step(chunks, budget)
        if proving:
            result.proof = ProofResult(proving, False, "no_effect", "It changes nothing.", 0.0, 0.0)
        return result

    monkeypatch.setattr(d.runner, "step", refuse)
    d.generate("r", BASE, adapter("flat"))
    d.finish("r")
    assert d.ended("r")["code"] == "no_effect"  # type: ignore[index]
    assert d.of("token") == []
    assert d.of("proof")[0]["ok"] is False
    assert d.runner.names == {} and d.engine.residency.bytes == 0


def test_a_proven_adapter_is_not_proven_again() -> None:
    d = driver()
    d.generate("r", BASE, adapter("known", proven=True), max_tokens=5)
    d.finish("r")
    assert d.of("proof") == []


def test_evict_waits_for_running_sequences() -> None:
    d = driver()
    d.generate("r", BASE, adapter("a"), max_tokens=30)
    d.until(lambda: d.of("token", "r"))
    d.send("evict", id="e", digest="digest-a")
    d.tick(3)
    assert d.ended("e") is None
    d.finish("r", "e")
    assert d.ended("e")["data"]["freed_bytes"] > 0  # type: ignore[index]
    assert d.runner.names == {}


# Bases


def test_bases_one_at_a_time_in_turn() -> None:
    d = driver()
    other = base("other")
    d.generate("a", BASE, max_tokens=30)
    d.until(lambda: d.of("token", "a"))
    d.generate("b", other, max_tokens=5, user="v")
    d.tick(3)
    assert d.of("queued", "b")[-1]["reason"] == "other_base"
    d.finish("a", "b")
    assert d.texts()["b"] == "other"
    assert [e["stage"] for e in d.of("loading", "b")][:1] == ["unloading"]


def test_a_busy_base_cannot_keep_another_waiting_without_end() -> None:
    d = driver(base_patience=5.0)
    other = base("other")
    d.generate("a0", BASE, max_tokens=10)
    d.until(lambda: d.of("token", "a0"))
    d.generate("b", other, max_tokens=5, user="v")
    for index in range(1, 200):
        d.clock.now += 0.5
        d.generate(f"a{index}", BASE, max_tokens=10)
        d.tick(3)
        if d.ended("b"):
            break
    assert index < 40
    assert d.texts()["b"] == "other"


def in_background(d: Driver, request_id: str, spec: dict[str, Any], prompt: str = "hello") -> None:
    d.intake.take({
        "type": "generate", "id": request_id, "user": "background:u", "base": spec, "adapter": None, "prompt": prompt,
        "params": {"max_tokens": 5}, "background": True,
    })  # fmt: skip


def test_a_base_is_kept_and_loaded_for_those_who_wait() -> None:
    d = driver(base_patience=5.0, max_batch=4, prefill_chunk=16)
    other = base("other")
    d.generate("a0", BASE, max_tokens=4)
    in_background(d, "spare", other)
    for index in range(1, 20):
        d.clock.now += 2.0
        d.generate(f"a{index}", BASE, max_tokens=4)
        d.finish(f"a{index - 1}")
    assert not d.of("token", "spare"), "it waits for as long as anybody does, however long"
    d.finish("a19", "spare")
    for index in range(12):
        in_background(d, f"more{index}", other, "x" * 200)
    d.until(lambda: d.ended("more0"))
    d.generate("back", BASE, max_tokens=4)
    d.finish("back")
    assert d.ended("more11") is None, "and leaves without patience for whoever waits"
    d.finish("more11")


def test_pin_keeps_a_base_and_unload_frees_it() -> None:
    d = driver()
    d.send("load", id="l", base=BASE, adapters=[adapter("a")], pin=True)
    d.until(lambda: d.ended("l"))
    assert d.ended("l")["data"]["adapters"][0]["name"] == "a"  # type: ignore[index]
    d.generate("other", base("other"))
    d.finish("other")
    assert d.ended("other")["code"] == "base_pinned"  # type: ignore[index]
    d.send("unload", id="u")
    d.until(lambda: d.ended("u"))
    assert d.ended("u")["data"]["freed_bytes"] == 1000  # type: ignore[index]
    assert d.engine.status()["state"] == "empty"
    d.generate("then", base("other"), max_tokens=3)
    d.finish("then")


def test_a_pin_can_be_taken_back_and_a_load_without_one_leaves_it() -> None:
    d = driver()
    for number, (pin, expected) in enumerate([(True, True), (None, True), (False, False)]):
        d.send("load", id=f"l{number}", base=BASE, pin=pin)
        d.until(lambda: d.ended(f"l{number}"))  # noqa: B023
        assert d.engine.status()["pinned"] is expected
    d.generate("other", base("other"), max_tokens=3)
    d.finish("other")
    assert d.ended("other")["type"] == "done"  # type: ignore[index]


def test_a_base_that_fails_ends_its_requests_and_the_next_is_served() -> None:
    d = driver()
    d.generate("bad", base("broken"))
    d.generate("good", BASE, max_tokens=4)
    d.finish("bad", "good")
    assert d.ended("bad")["code"] == "base_load_failed"  # type: ignore[index]
    assert d.texts()["good"] == "base"


def test_idle_unload() -> None:
    d = driver(idle_unload=60)
    d.generate("r", BASE, max_tokens=2)
    d.finish("r")
    d.clock.now += 59
    d.tick()
    assert d.engine.bases.info is not None
    d.clock.now += 2
    d.tick()
    assert d.engine.bases.info is None


# Faults


def failing(d: Driver, monkeypatch: pytest.MonkeyPatch, errors: list[EngineError | None]) -> None:
    step = d.runner.step

    def run(chunks: list[Chunk], budget: int) -> StepResult:
        error = errors.pop(0) if errors else None
        if error is not None:
            raise error
        return step(chunks, budget)

    monkeypatch.setattr(d.runner, "step", run)


def test_out_of_memory_ends_the_request_that_caused_it(monkeypatch: pytest.MonkeyPatch) -> None:
    d = driver()
    d.generate("steady", BASE, max_tokens=40)
    d.until(lambda: len(d.of("token")) > 3)
    d.generate("huge", BASE, prompt="x" * 1000, user="v")
    failing(d, monkeypatch, [EngineError("out_of_memory", "full")])
    d.finish("steady", "huge")
    assert d.ended("huge")["code"] == "out_of_memory"  # type: ignore[index]
    assert d.ended("steady")["type"] == "done"  # type: ignore[index]


def test_a_broken_step_ends_what_ran_and_the_engine_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    d = driver()
    d.generate("a", BASE, max_tokens=40)
    d.until(lambda: d.of("token"))
    failing(d, monkeypatch, [EngineError("internal_error", "odd")])
    d.finish("a")
    d.generate("b", BASE, max_tokens=4)
    d.finish("b")
    assert d.texts()["b"] == "base"


def test_an_engine_that_fails_three_times_running_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    d = driver()
    failing(d, monkeypatch, [EngineError("internal_error", "odd")] * 3)
    for index in range(3):
        d.generate(f"r{index}", BASE)
    with pytest.raises(EngineError):
        for index in range(20):
            d.generate(f"again{index}", BASE, user=f"u{index}")
            d.tick(2)


def test_shutdown_ends_every_request() -> None:
    d = driver(max_batch=1)
    d.generate("a", BASE, max_tokens=1000)
    d.generate("b", BASE)
    d.until(lambda: d.of("token", "a"))
    d.send("shutdown")
    d.engine.run()
    assert {e["id"]: e["code"] for e in d.of("error")} == {"a": "shutting_down", "b": "shutting_down"}


def test_two_thousand_requests_and_a_hundred_switches_leave_nothing_behind() -> None:
    d = driver(adapter_bytes=2**20, user_limit=10_000, queue_limit=10_000, max_batch=8)
    ids = []
    for index in range(2000):
        name = f"a{(index // 20) % 50}"
        d.generate(f"r{index}", BASE, adapter(name, proven=True), user=f"u{index % 7}", max_tokens=3)
        ids.append(f"r{index}")
    d.tick()
    d.until(lambda: not d.engine.requests.arrivals, limit=20_000)
    assert len({e["id"] for e in d.of("done")}) == 2000
    assert not d.engine.residency.pins
    assert d.engine.scheduler.slots.free == 8
    assert not len(d.engine.queue) and not d.engine.queue.lines
