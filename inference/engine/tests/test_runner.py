"""The real runner on tiny models: isolation, immutability, faults, prefix reuse, NF4, JSON answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from safetensors.torch import load_file, save_file

from inference.engine.config import EngineConfig
from inference.engine.lora.segment_bank import SegmentBank
from inference.engine.model.runner import Runner
from inference.engine.model.step_rows import StepRows

from . import tiny
from .conftest import Family
from .driver import Driver, adapter, base

TOKENS = list(range(40, 70))


def driver(**config: Any) -> Driver:
    made = EngineConfig(device="cpu", max_context=128, max_batch=8, user_limit=99, **config)
    return Driver(Runner(made), made)


@torch.inference_mode()
def base_logits(runner: Runner) -> torch.Tensor:
    assert runner.base is not None
    rows = StepRows()
    rows.add_chunk(TOKENS, None, runner.base.model.probe_slot, 0, range(len(TOKENS)))
    return runner.base.model.forward(rows).clone()


def spoil(folder: Path, to: Path, value: float, side: str = "lora_B") -> Path:
    shutil.copytree(folder, to)
    tensors = load_file(to / "adapter_model.safetensors")
    for name in tensors:
        if side in name:
            tensors[name] = torch.full_like(tensors[name], value)
    save_file(tensors, to / "adapter_model.safetensors")
    return to


def test_an_adapter_that_overflows_reaches_nobody_else(llama: Family, tmp_path: Path) -> None:
    alone = driver()
    alone.generate("base", base("t", llama.base), max_tokens=20)
    alone.generate("good", base("t", llama.base), adapter("plain", llama.adapters["plain"]), max_tokens=20)
    alone.finish("base", "good")
    d = driver()
    bad = adapter("bad", spoil(llama.adapters["plain"], tmp_path / "bad", 3e38, "lora_A"), proven=True)
    d.generate("bad", base("t", llama.base), bad, max_tokens=20)
    d.generate("base", base("t", llama.base), max_tokens=20)
    d.generate("good", base("t", llama.base), adapter("plain", llama.adapters["plain"]), max_tokens=20)
    d.finish("bad", "base", "good")
    assert d.ended("bad")["code"] == "nonfinite_logits"  # type: ignore[index]
    assert {k: d.texts()[k] for k in ("base", "good")} == dict(alone.texts())


@pytest.mark.parametrize(
    ("value", "code"), [(0.0, "no_effect"), (float("nan"), "weights_nonfinite"), (float("inf"), "weights_nonfinite")]
)
def test_effect_proof(llama: Family, tmp_path: Path, value: float, code: str) -> None:
    d = driver()
    d.generate("r", base("t", llama.base), adapter("x", spoil(llama.adapters["plain"], tmp_path / "x", value)))
    d.finish("r")
    assert d.ended("r")["code"] == code  # type: ignore[index]
    assert d.runner.base.model.bank.resident == {}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("piece", range(4))
@pytest.mark.parametrize("value", [None, 0.0])
def test_a_proof_whose_step_fails_begins_again(
    llama: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float | None, piece: int, when: str
) -> None:
    folder = llama.adapters["plain"] if value is None else spoil(llama.adapters["plain"], tmp_path / "x", value)
    undisturbed, d = driver(), driver()
    undisturbed.generate("r", base("t", llama.base), adapter("x", folder), max_tokens=1)
    undisturbed.finish("r")
    for name in ("one", "other"):
        d.generate(name, base("t", llama.base), max_tokens=80, ignore_eos=True)
    d.until(lambda: len(d.of("token")) > 4)
    monkeypatch.setattr(d.engine.bases.pace, "budget", lambda: 8)
    forward, pieces = d.runner.base.model.forward, []

    def once(rows: StepRows) -> Any:
        if not rows.prompts:
            return forward(rows)
        pieces.append(rows.prompts[0].size)
        fails = len(pieces) == piece + 1
        if fails and when == "before":
            raise MemoryError
        result = forward(rows)
        if fails:
            raise MemoryError
        return result

    monkeypatch.setattr(d.runner.base.model, "forward", once)
    d.generate("r", base("t", llama.base), adapter("x", folder), max_tokens=1)
    d.until(lambda: d.of("proof"))
    whole = -(-len(d.runner.base.prober.tokens) // 8)
    assert whole > piece and len(pieces) == piece + 1 + whole
    wanted, got = undisturbed.of("proof")[0], d.of("proof")[0]
    assert (got["ok"], got["code"], got["changed"]) == (wanted["ok"], wanted["code"], wanted["changed"])
    assert got["kl"] == pytest.approx(wanted["kl"], rel=1e-3, abs=1e-6)
    d.finish("r")
    codes = [ended["code"] for ended in map(d.ended, ("one", "other")) if ended is not None]
    assert codes == ["out_of_memory"]  # the request that the failure cost; the other goes on


def test_a_trained_adapters_divergence_is_measured(llama: Family) -> None:
    d = driver()
    for name, folder in llama.adapters.items():
        d.generate(name, base("t", llama.base), adapter(name, folder), max_tokens=1)
    d.finish(*llama.adapters)
    proofs = {event["digest"]: event for event in d.of("proof")}
    assert len(proofs) == 4
    assert all(p["ok"] and p["kl"] > 0 and 0 <= p["changed"] <= 1 for p in proofs.values())


def test_an_adapter_of_other_shapes_is_refused_by_name(llama: Family, tmp_path: Path) -> None:
    other = tiny.write_base(tmp_path / "other", "llama", hidden_size=32, head_dim=8)
    wrong = tiny.write_adapter(tmp_path / "wrong", other, tiny.RECIPES["plain"])
    d = driver()
    d.generate("r", base("t", llama.base), adapter("wrong", wrong))
    d.generate("gone", base("t", llama.base), adapter("gone", tmp_path / "nothing"))
    d.finish("r", "gone")
    assert d.ended("r")["code"] == "adapter_incompatible"  # type: ignore[index]
    assert d.ended("gone")["code"] == "store_damaged"  # type: ignore[index]
    verdict = d.of("proof")[0]  # the registry hears of it, so that nobody is offered it any more
    assert (verdict["ok"], verdict["code"], verdict["base"]) == (False, "adapter_incompatible", "key-t")


@pytest.mark.parametrize(
    ("change", "said"), [("integers", "I64"), ("cut", "cannot be read"), ("empty", "cannot be read")]
)
def test_a_file_that_cannot_be_read_says_why(llama: Family, tmp_path: Path, change: str, said: str) -> None:
    folder = tmp_path / "x"
    shutil.copytree(llama.adapters["plain"], folder)
    file = folder / "adapter_model.safetensors"
    if change == "integers":
        save_file({name: tensor.long() for name, tensor in load_file(file).items()}, file)
    else:
        file.write_bytes(file.read_bytes()[:-1] if change == "cut" else b"")
    d = driver()
    d.generate("r", base("t", llama.base), adapter("x", folder))
    d.finish("r")
    error = d.ended("r")
    assert error is not None and error["code"] == "adapter_load_failed" and said in error["message"]
    assert d.runner.base.model.bank.resident == {} and not d.engine.loader.busy()


def nothing_left(bank: Any) -> bool:
    if isinstance(bank, SegmentBank):
        return not bank.plans
    return all(not w.ranges.ranges and not w.a.any() for w in bank.sets.values())


class BankMachine(RuleBasedStateMachine):
    """Any sequence of loads, uses, failures and removals leaves the base's logits bit-identical."""

    family: Family
    native = True

    @initialize()
    def load(self) -> None:
        self.d = driver(native=self.native)
        self.d.send("load", id="load", base=base("t", self.family.base))
        self.d.until(lambda: self.d.ended("load"))
        self.before = base_logits(self.d.runner)
        self.count = 0

    @rule(names=st.lists(st.sampled_from([None, *tiny.RECIPES]), min_size=1, max_size=5))
    def use(self, names: list[str | None]) -> None:
        ids = []
        for name in names:
            self.count += 1
            ids.append(f"r{self.count}")
            spec = adapter(name, self.family.adapters[name], proven=True) if name else None
            self.d.generate(ids[-1], base("t", self.family.base), spec, max_tokens=3)
        self.d.finish(*ids)

    @rule(name=st.sampled_from(sorted(tiny.RECIPES)))
    def evict(self, name: str) -> None:
        self.count += 1
        self.d.send("evict", id=f"e{self.count}", digest=adapter(name, self.family.adapters[name])["digest"])
        self.d.until(lambda: self.d.ended(f"e{self.count}"))

    @rule()
    def fail(self) -> None:
        self.count += 1
        self.d.generate(f"f{self.count}", base("t", self.family.base), adapter(f"gone{self.count}", "/nowhere"))
        self.d.finish(f"f{self.count}")

    @invariant()
    def base_is_untouched(self) -> None:
        if hasattr(self, "before"):
            assert torch.equal(base_logits(self.d.runner), self.before)

    @invariant()
    def bytes_are_returned(self) -> None:
        if hasattr(self, "before"):
            resident = self.d.engine.residency.adapters
            assert set(self.d.runner.base.model.bank.resident) == set(resident)
            if not resident:
                assert nothing_left(self.d.runner.base.model.bank)


@pytest.mark.parametrize("native", [True, False])
def test_base_is_immutable(llama: Family, native: bool) -> None:
    BankMachine.family, BankMachine.native = llama, native
    few = settings(max_examples=8, stateful_step_count=8, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(BankMachine, settings=few)


@pytest.mark.parametrize("nth", range(1, 7))
def test_a_load_that_fails_half_way_leaves_nothing(llama: Family, nth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    d = driver()
    d.send("load", id="load", base=base("t", llama.base))
    d.until(lambda: d.ended("load"))
    before = base_logits(d.runner)
    calls = 0
    real = torch.zeros

    def zeros(*args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise MemoryError
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", zeros)
        d.generate("r", base("t", llama.base), adapter("wide", llama.adapters["wide"]), max_tokens=3)
        d.finish("r")
    assert torch.equal(base_logits(d.runner), before)
    d.generate("again", base("t", llama.base), adapter("wide", llama.adapters["wide"]), max_tokens=3)
    d.finish("again")
    assert d.ended("again")["type"] == "done"  # type: ignore[index]


def test_the_next_turn_of_a_conversation_reuses_its_prefix(llama: Family) -> None:
    d = driver()
    first = [{"role": "user", "content": "tell me about the sea and the ships on it"}]
    for turn, name in enumerate(["plain", "plain", "narrow"]):
        messages = first + [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "and?"}] * min(turn, 1)
        spec = adapter(name, llama.adapters[name])
        d.generate(f"r{turn}", base("t", llama.base), spec, messages=messages, max_tokens=5)
        d.finish(f"r{turn}")
    cached = [d.ended(f"r{turn}")["usage"]["cached_tokens"] for turn in range(3)]  # type: ignore[index]
    assert cached[0] == 0 and cached[1] > 30 and cached[2] == 0
    fresh = driver()
    fresh.generate("r1", base("t", llama.base), adapter("plain", llama.adapters["plain"]), messages=first + [
        {"role": "assistant", "content": "yes"}, {"role": "user", "content": "and?"}], max_tokens=5)  # fmt: skip
    fresh.finish("r1")
    assert fresh.texts()["r1"] == d.texts()["r1"]


def test_a_seed_gives_the_same_text_whatever_else_runs(llama: Family) -> None:
    def run(others: int) -> str:
        d = driver()
        for index in range(others):
            d.generate(f"o{index}", base("t", llama.base), temperature=1.2, max_tokens=30)
        d.generate("r", base("t", llama.base), temperature=1.0, top_p=0.95, seed=11, max_tokens=25, ignore_eos=True)
        d.finish("r")
        return d.texts()["r"]

    assert run(0) == run(3)


def test_preempted_sequences_go_on_where_they_were(llama: Family) -> None:
    def run(max_batch: int) -> dict[str, str]:
        made = EngineConfig(device="cpu", max_context=128, max_batch=max_batch, user_limit=99)
        d = Driver(Runner(made), made)
        for index in range(2):
            d.generate(f"a{index}", base("t", llama.base), prompt=f"number {index}", max_tokens=30, ignore_eos=True)
        d.until(lambda: any(s.id == "a1" and s.generated > 5 for s in d.engine.scheduler.running))
        d.generate("b", base("t", llama.base), user="v", max_tokens=5, ignore_eos=True)
        d.finish("a0", "a1", "b")
        return dict(d.texts())

    assert run(2) == run(8)


def test_nf4_on_the_cpu_loads_and_answers_as_transformers_does(llama: Family) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    d = driver(precision="nf4")
    d.generate("r", base("t", llama.base), prompt="The sea", max_tokens=12, ignore_eos=True)
    d.generate("l", base("t", llama.base), adapter("plain", llama.adapters["plain"]), prompt="The sea", max_tokens=12)
    d.finish("r", "l")
    assert d.engine.status()["precision"] == "nf4"
    model: Any = AutoModelForCausalLM.from_pretrained(
        llama.base, dtype=torch.float32,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        ),
    )  # fmt: skip
    tokens = tiny.tokenizer()("The sea")["input_ids"]
    out = model.generate(input_ids=torch.tensor([tokens]), max_new_tokens=12, min_new_tokens=12, do_sample=False)
    assert d.texts()["r"] == tiny.tokenizer().decode(out[0, len(tokens) :], skip_special_tokens=True)
    assert d.ended("l")["type"] == "done"  # type: ignore[index]


SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["sea", "land"]}, "size": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "size"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_obey_a_json_schema(llama: Family, temperature: float) -> None:
    d = driver()
    for index in range(4):
        d.generate(
            f"r{index}", base("t", llama.base), temperature=temperature, seed=index, json_schema=SCHEMA, max_tokens=60
        )
    d.generate("free", base("t", llama.base), max_tokens=5)
    d.finish("r0", "r1", "r2", "r3", "free")
    for index in range(4):
        answer = json.loads(d.texts()[f"r{index}"])
        assert answer["name"] in {"sea", "land"} and 0 <= answer["size"] <= 99
        assert d.ended(f"r{index}")["finish_reason"] == "stop"  # type: ignore[index]


def test_a_schema_that_cannot_be_used_is_refused(llama: Family) -> None:
    d = driver()
    d.generate("r", base("t", llama.base), json_schema={"type": "nonsense"})
    d.finish("r")
    assert d.ended("r")["code"] == "invalid_parameter"  # type: ignore[index]


def test_logprobs_come_with_the_pieces(llama: Family) -> None:
    d = driver()
    d.generate("r", base("t", llama.base), max_tokens=8, logprobs=2, ignore_eos=True)
    d.finish("r")
    delivered = [p for e in d.of("token") + d.of("done") for p in e.get("logprobs", [])]
    assert len(delivered) == 8
    assert all(len(p["top"]) == 2 and p["logprob"] <= 0 for p in delivered)


def test_a_base_that_does_not_fit_names_what_would(llama: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    d = driver()
    monkeypatch.setattr(d.runner.hardware, "free_bytes", lambda: 600 * 2**20)
    monkeypatch.setattr(
        "inference.engine.model.base_loader.needed_bytes",
        lambda folder, device: {"fp32": 2**30, "bf16": 2**29, "nf4": 2**20},
    )
    d.generate("r", base("t", llama.base))
    d.finish("r")
    error = d.ended("r")
    assert error is not None and error["code"] == "out_of_memory" and error["detail"]["fits"] == ["nf4"]
