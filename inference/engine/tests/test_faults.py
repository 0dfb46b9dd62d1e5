"""Whatever is raised where nobody expects it ends one request or one load; everybody else's answer is as without it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from inference.engine.config import EngineConfig
from inference.engine.errors import EngineError
from inference.engine.fake import FakeRunner
from inference.engine.model.runner import Runner
from inference.engine.model.step_rows import StepRows
from inference.engine.scheduling.scheduler import Chunk

from . import tiny
from .conftest import Family
from .driver import Driver, adapter, base

BASE = base("base")


class PanicException(BaseException):  # noqa: N818  (what a library in Rust raises at a panic is called so)
    """As pyo3's: not an Exception."""


ANYTHING = [RuntimeError("odd"), IndexError("index out of range in self"), KeyError("k"), PanicException("panicked")]
anything = pytest.mark.parametrize("error", ANYTHING, ids=lambda error: type(error).__name__)


def driver(**config: Any) -> Driver:
    made = EngineConfig(**config)
    return Driver(FakeRunner(made), made)


def failing_over(d: Driver, monkeypatch: pytest.MonkeyPatch, error: BaseException, *culprits: str) -> None:
    """Every step that one of the culprits takes part in raises."""
    step = d.runner.step

    def run(chunks: list[Chunk], budget: int) -> Any:
        if any(chunk.sequence.id in culprits and chunk.sequence.generated > 3 for chunk in chunks):
            raise error
        return step(chunks, budget)

    monkeypatch.setattr(d.runner, "step", run)


@anything
@pytest.mark.parametrize("culprits", [["r2"], ["r0", "r1", "r5"], [f"r{i}" for i in range(7)]], ids=len)
def test_a_step_that_fails_ends_those_that_fail_alone(
    error: BaseException, culprits: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    d = driver()
    failing_over(d, monkeypatch, error, *culprits)
    ids = [f"r{index}" for index in range(7)]
    for request_id in ids:
        d.generate(request_id, BASE, adapter(f"name-{request_id}", proven=True), max_tokens=20)
    with caplog.at_level(logging.ERROR):
        d.finish(*ids)
    for request_id in ids:
        ended = d.ended(request_id)
        assert ended is not None
        if request_id in culprits:
            assert ended["code"] == "internal_error"
        else:
            assert ended["usage"]["completion_tokens"] == 20
            assert d.texts()[request_id].startswith(f"name-{request_id}:0 name-{request_id}:1")
    assert d.engine.status()["errors"] == len(culprits)
    assert all(any(f"request {name}" in record.message for record in caplog.records) for name in culprits)
    assert "Traceback" in caplog.text and type(error).__name__ in caplog.text
    assert d.engine.scheduler.slots.free == 32 and not d.engine.residency.pins


def test_a_device_that_fails_at_everything_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    d = driver()
    d.generate("r", BASE, max_tokens=20)
    d.until(lambda: d.of("token"))

    def broken(chunks: list[Chunk], budget: int) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(d.runner, "step", broken)
    with pytest.raises(RuntimeError, match="device-side assert"):
        d.tick()


@anything
def test_a_proof_that_fails_ends_its_adapter_and_no_answer(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    d = driver()
    step = d.runner.step

    def run(chunks: list[Chunk], budget: int) -> Any:
        if budget and d.runner.proving == "digest-bad":
            raise error
        return step(chunks, budget)

    monkeypatch.setattr(d.runner, "step", run)
    d.generate("alone", BASE, adapter("bad"))
    d.finish("alone")
    d.generate("steady", BASE, max_tokens=40)
    d.until(lambda: d.of("token", "steady"))
    d.generate("beside", BASE, adapter("bad"), user="v")
    d.generate("good", BASE, adapter("good"), user="w", max_tokens=5)
    d.finish("beside", "steady", "good")
    assert [d.ended(name)["code"] for name in ("alone", "beside")] == ["adapter_load_failed"] * 2  # type: ignore[index]
    assert [e["digest"] for e in d.of("proof") if not e["ok"]] == ["digest-bad"]  # told once it failed twice alike
    assert d.ended("steady")["usage"]["completion_tokens"] == 40  # type: ignore[index]
    assert d.texts()["good"] == "good:"
    assert set(d.engine.residency.adapters) == {"digest-good"} == set(d.runner.names)
    assert not d.engine.residency.pins and d.engine.loader.proving is None


def test_the_same_failure_after_a_good_load_is_not_yet_the_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    d = driver()
    read, fails = d.runner.read_adapter, True

    def reading(spec: Any) -> Any:
        if fails:
            raise RuntimeError("odd")
        return read(spec)

    monkeypatch.setattr(d.runner, "read_adapter", reading)
    for number in range(2):
        fails = True
        d.generate(f"bad{number}", BASE, adapter("a"))
        d.finish(f"bad{number}")
        assert d.ended(f"bad{number}")["code"] == "adapter_load_failed"  # type: ignore[index]
        fails = False
        d.generate(f"good{number}", BASE, adapter("a"), max_tokens=3)
        d.finish(f"good{number}")
        d.send("evict", id=f"evict{number}", digest="digest-a")
        d.finish(f"evict{number}")
    assert not [event for event in d.of("proof") if not event["ok"]]


@anything
@pytest.mark.parametrize("where", ["read_adapter", "add_adapter", "begin_proof"])
def test_an_adapters_load_that_raises_anything_ends_its_requests(
    error: BaseException, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    d = driver()
    real = getattr(d.runner, where)

    def fail(argument: Any) -> Any:
        name = argument["name"] if isinstance(argument, dict) else getattr(argument, "name", argument)
        if "bad" in name:
            raise error
        return real(argument)

    monkeypatch.setattr(d.runner, where, fail)
    d.generate("steady", BASE, max_tokens=40)
    d.until(lambda: d.of("token", "steady"))
    d.generate("bad", BASE, adapter("bad"), user="v")
    d.generate("good", BASE, adapter("good"), user="w", max_tokens=5)
    d.finish("steady", "bad", "good")
    assert d.ended("bad")["code"] == "adapter_load_failed"  # type: ignore[index]
    assert d.texts()["good"] == "good:"
    assert set(d.engine.residency.adapters) == {"digest-good"} == set(d.runner.names)
    assert d.engine.status()["errors"] == 1


@anything
@pytest.mark.parametrize("where", ["encode", "context_length", "start", "decode"])
def test_a_request_that_raises_anything_ends_alone(
    error: BaseException, where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    d = driver()
    d.generate("steady", BASE, max_tokens=40)
    d.until(lambda: d.of("token", "steady"))
    real = getattr(d.runner, where)
    monkeypatch.setattr(d.runner, where, lambda *args: (_ for _ in ()).throw(error))
    d.generate("bad", BASE, user="v", max_tokens=20)
    if where == "decode":  # each stream of text has taken its decoder along
        d.engine.requests.arrivals["steady"].sequence.text.decode = real
    d.finish("bad")
    monkeypatch.setattr(d.runner, where, real)
    d.finish("steady")
    assert d.ended("bad")["code"] == "internal_error"  # type: ignore[index]
    assert d.ended("steady")["usage"]["completion_tokens"] == 40  # type: ignore[index]
    assert d.texts()["steady"].startswith("base:0 base:1 base:2")
    assert d.engine.status()["errors"] == 1 and "Traceback" in caplog.text


@pytest.mark.parametrize(
    "command", [None, [], "text", {}, {"type": "generate"}, {"type": "count", "id": "c"}, {"type": "load", "id": "c"}]
)
def test_commands_that_are_none_are_survived(command: Any) -> None:
    d = driver()
    d.intake.take(command)
    d.generate("r", BASE, max_tokens=4)
    d.finish("r")
    if isinstance(command, dict) and "id" in command:
        assert d.ended("c")["code"] == "internal_error"  # type: ignore[index]


@anything
def test_a_base_whose_load_raises_anything_ends_its_requests_and_others_are_served(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    d = driver()
    load = d.runner.load_base

    def fail(spec: Any, progress: Any) -> Any:
        if spec["name"] == "odd":
            progress("weights", 0.3)
            raise error
        return load(spec, progress)

    monkeypatch.setattr(d.runner, "load_base", fail)
    d.generate("bad", base("odd"))
    d.send("load", id="l", base=base("odd"))
    d.generate("good", BASE, max_tokens=4)
    d.finish("bad", "l", "good")
    for name in ("bad", "l"):
        ended = d.ended(name)
        assert ended is not None and ended["code"] == "base_load_failed"
        assert type(error).__name__ in ended["detail"]["reason"]
    assert d.texts()["good"] == "base"
    assert d.engine.status()["errors"] == 1 and "Traceback" in caplog.text
    assert [event["state"] for event in d.of("base_load")] == ["begun", "failed", "begun", "loaded"]


def test_a_load_that_fails_again_in_the_same_way_is_remembered_as_the_bases(monkeypatch: pytest.MonkeyPatch) -> None:
    d = driver()
    load, errors = d.runner.load_base, [TypeError("a"), TypeError("b"), None, TypeError("b"), TypeError("b")]

    def fail(spec: Any, progress: Any) -> Any:
        error = errors.pop(0) if spec["name"] == "odd" else None
        if error is not None:
            raise error
        return load(spec, progress)

    monkeypatch.setattr(d.runner, "load_base", fail)
    codes = []
    for index in range(5):
        d.generate(f"r{index}", base("odd"), max_tokens=2)
        d.finish(f"r{index}")
        codes.append(d.ended(f"r{index}").get("code"))  # type: ignore[union-attr]
        d.generate(f"o{index}", BASE, max_tokens=2)
        d.finish(f"o{index}")
    assert codes == ["base_load_failed", "base_load_failed", None, "base_load_failed", "base_unsupported"]
    refusals = d.of("refusal")
    assert [refusal["key"] for refusal in refusals] == ["key-odd"] and "TypeError: b" in refusals[0]["reason"]


def test_reasons_are_one_bounded_line(monkeypatch: pytest.MonkeyPatch) -> None:
    d = driver()
    monkeypatch.setattr(d.runner, "load_base", lambda spec, progress: [][0] if not spec else 1 / 0)
    d.generate("zero", BASE)
    d.finish("zero")
    monkeypatch.setattr(
        d.runner, "load_base", lambda spec, progress: (_ for _ in ()).throw(ValueError("x" * 5000 + "\nmore"))
    )
    d.generate("long", BASE)
    d.finish("long")
    reason = d.ended("long")["detail"]["reason"]  # type: ignore[index]
    assert d.ended("zero")["detail"]["reason"] == "ZeroDivisionError: division by zero"  # type: ignore[index]
    assert len(reason) <= 200 and "\n" not in reason


# The real runner -------------------------------------------------------------------------------------------------


def real(**config: Any) -> Driver:
    made = EngineConfig(device="cpu", max_context=128, max_batch=8, user_limit=99, **config)
    return Driver(Runner(made), made)


def ask(d: Driver, llama: Family, *ids: str) -> None:
    """Seeded, constrained and plain requests, on different adapters."""
    options: list[dict[str, Any]] = [
        {"temperature": 1.0, "seed": 7},
        {"temperature": 0.9, "top_p": 0.9, "seed": 8, "repetition_penalty": 1.3},
        {"json_object": True, "temperature": 1.0, "seed": 9},
        {},
    ]
    names = [None, "plain", "wide", "narrow"]
    for index, request_id in enumerate(ids):
        name = names[index % 4]
        spec = adapter(name, llama.adapters[name], proven=True) if name else None
        d.generate(
            request_id, base("t", llama.base), spec, prompt=f"about {request_id}", max_tokens=24,
            ignore_eos=index % 4 != 2, **options[index % 4],
        )  # fmt: skip


@pytest.mark.parametrize("native", [True, False], ids=["native", "tensors"])
@pytest.mark.parametrize("where", ["before", "inside", "after"])
def test_the_others_say_what_they_would_have_said(
    llama: Family, native: bool, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"r{index}" for index in range(6)]
    undisturbed = real(native=native)
    ask(undisturbed, llama, *ids)
    undisturbed.finish(*ids)
    d = real(native=native)
    before = [f"before{index}" for index in range(4)]
    ask(d, llama, *before)  # the adapters are in memory then, so all of the others start together
    d.finish(*before)
    ask(d, llama, *ids)
    d.until(lambda: any(s.id == "r4" and s.generated > 4 for s in d.engine.scheduler.running))
    assert len(d.engine.scheduler.running) > 3
    culprit = next(s for s in d.engine.scheduler.running if s.id == "r4")
    forward = d.runner.base.model.forward

    def fail(rows: StepRows) -> Any:
        mine = culprit.slot in rows.decode.slots
        if mine and where == "before":
            raise IndexError("index out of range in self")
        if mine and where == "inside":
            with monkeypatch.context() as patch:  # some layers have written their keys and values by then
                last = d.runner.base.model.module.model.layers[-1]
                patch.setattr(last, "forward", lambda *args, **kwargs: [][1])
                return forward(rows)
        return forward(rows)

    monkeypatch.setattr(d.runner.base.model, "forward", fail)
    if where == "after":  # the others have drawn from their generators when this one fails
        culprit.random = None
    d.finish(*ids)
    assert d.ended("r4")["code"] == "internal_error"  # type: ignore[index]
    expected, got = undisturbed.texts(), d.texts()
    assert {name: got[name] for name in ids if name != "r4"} == {name: expected[name] for name in ids if name != "r4"}
    assert d.engine.status()["errors"] == 1


def test_what_a_failed_step_drew_from_is_not_drawn_from_twice(llama: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that fails once and for no reason changes nothing, whatever of it had happened."""
    ids = [f"r{index}" for index in range(4)]
    undisturbed, d = real(), real()
    ask(undisturbed, llama, *ids)
    undisturbed.finish(*ids)
    before = [f"before{index}" for index in range(4)]
    ask(d, llama, *before)  # whose adapters are in memory then: of a step with one row alone the row is to blame
    d.finish(*before)
    ask(d, llama, *ids)
    step, failures = d.runner.base.model.ordinary, [3, 9, 10, 15]  # the tenth call sees whether the device lives
    calls = 0

    def sometimes(*args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        logits = step(*args)
        if calls in failures:
            raise RuntimeError("once")
        return logits

    monkeypatch.setattr(d.runner.base.model, "ordinary", sometimes)
    d.finish(*ids)
    expected, got = undisturbed.texts(), d.texts()
    assert calls > 15 and {name: got[name] for name in ids} == {name: expected[name] for name in ids}
    assert not d.of("error") and d.engine.status()["errors"] == 0


def test_a_load_that_fails_anywhere_leaves_nothing_and_the_next_one_works(
    llama: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    d = real()
    for place in ("check_interface", "trace_layers", "TokenText", "Prober"):
        with monkeypatch.context() as patch:
            patch.setattr(f"inference.engine.model.loaded_base.{place}", lambda *args: 1 / 0)
            d.generate(place, base(place, llama.base))
            d.finish(place)
        assert d.ended(place)["code"] == "base_load_failed", place  # type: ignore[index]
        assert "ZeroDivisionError" in d.ended(place)["detail"]["reason"]  # type: ignore[index]
        assert d.runner.base is None and d.runner.memory()["base"] == 0
    d.generate("after", base("t", llama.base), max_tokens=3, ignore_eos=True)
    d.finish("after")
    assert d.ended("after")["usage"]["completion_tokens"] == 3  # type: ignore[index]


def test_an_adapter_whose_installation_breaks_leaves_nothing(llama: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    d = real()
    wide = adapter("wide", llama.adapters["wide"])
    d.generate("first", base("t", llama.base), max_tokens=3, ignore_eos=True, logprobs=5)
    d.finish("first")
    before = d.runner.memory()["adapters"]
    with monkeypatch.context() as patch:
        patch.setattr(d.runner, "begin_proof", lambda digest: 1 / 0)
        d.generate("broken", base("t", llama.base), wide)
        d.finish("broken")
    assert d.ended("broken")["code"] == "adapter_load_failed"  # type: ignore[index]
    assert not d.engine.residency.adapters and not any(d.engine.residency.pins.values())
    assert d.runner.memory()["adapters"] == before
    d.generate("after", base("t", llama.base), max_tokens=3, ignore_eos=True, logprobs=5)
    d.finish("after")
    first, after = ([event["logprobs"] for event in d.of("token", name)] for name in ("first", "after"))
    assert first == after  # to the last bit
    d.generate("again", base("t", llama.base), wide, max_tokens=3, ignore_eos=True)
    d.finish("again")
    assert d.ended("again")["usage"]["completion_tokens"] == 3  # type: ignore[index]


def test_memory_that_runs_out_in_a_load_is_not_the_bases_fault(llama: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    d = real()
    for index in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(
                "inference.engine.model.base_loader.AutoModelForCausalLM.from_pretrained",
                lambda *args, **kwargs: (_ for _ in ()).throw(RuntimeError("DefaultCPUAllocator: not enough memory")),
            )
            d.generate(f"r{index}", base("t", llama.base))
            d.finish(f"r{index}")
        assert d.ended(f"r{index}")["code"] == "out_of_memory"  # type: ignore[index]
    assert not d.of("refusal") and d.engine.status()["errors"] == 0


def test_a_template_that_fails_in_any_way_refuses_the_request(tmp_path: Any, llama: Family) -> None:
    tokenizer = tiny.tokenizer()
    d = real()
    for template in (
        "{{ 1 / 0 }}",
        "{{ nothing.there }}",
        "{{ messages[9]['content'] }}",
        "{% for %}",
        "{{ 'a'|nope }}",
    ):
        tokenizer.chat_template = template
        d.runner.tokenizers.kept["key-t "] = tokenizer  # key and signature, which this spec has not
        d.generate(template, base("t", llama.base), messages=[{"role": "user", "content": "hi"}])
        d.finish(template)
        ended = d.ended(template)
        assert isinstance(ended, dict) and ended["code"] == "template_failed" and ended["detail"]["reason"], template
    with pytest.raises(EngineError):
        d.runner.encode(base("t", llama.base), [{"role": "user", "content": "hi"}], None, False)  # type: ignore[arg-type]
