"""Decoding on fixed buffers (what a CUDA graph replays), uncaptured on the CPU: the same answers as PEFT's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from inference.engine.config import EngineConfig
from inference.engine.model import cuda_graphs
from inference.engine.model.cuda_graphs import DecodeGraphs
from inference.engine.model.runner import Runner
from inference.engine.model.step_rows import DecodeRows

from . import tiny
from .conftest import Family
from .driver import Driver, adapter, base
from .test_families import COUNT, PROMPTS, run


def driver(**options: Any) -> Driver:
    config = EngineConfig(device="cpu", native=False, user_limit=99, **{"max_context": 128, **options})
    runner = Runner(config)
    runner.hardware.graphs = True
    return Driver(runner, config)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "phi", "gpt2"])
def test_greedy_equals_peft(name: str, family: Callable[[str], Family]) -> None:
    made = family(name)
    d = driver(prefill_chunk=7)
    jobs = [(f"{who}-{i}", who, prompt) for i, prompt in enumerate(PROMPTS) for who in (None, *made.adapters)]
    mixed = run(d, made, jobs)
    graphs = d.runner.base.model.graphs
    assert graphs.enabled and graphs.captured, "steps were taken on fixed buffers"
    for request_id, who, prompt in jobs:
        folder = made.adapters[who] if who else None
        assert mixed[request_id] == tiny.reference(made.base, folder, tiny.tokenizer()(prompt)["input_ids"], COUNT)


def test_sizes_are_captured_once_and_again_when_adapters_move(llama: Family) -> None:
    d = driver(max_context=256, max_batch=8)
    captures: list[int] = []
    capture = DecodeGraphs._capture
    first = adapter("plain", llama.adapters["plain"])

    def count(self: DecodeGraphs, item: Any, keys: int) -> None:
        captures.append(keys)
        capture(self, item, keys)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DecodeGraphs, "_capture", count)
        patch.setattr(cuda_graphs, "KEYS", 64)
        d.generate("a", base("t", llama.base), first, max_tokens=5, ignore_eos=True)
        d.finish("a")
        assert captures == [64]
        d.generate("b", base("t", llama.base), first, max_tokens=5, ignore_eos=True)
        d.finish("b")
        assert captures == [64], "the same size is replayed"
        d.generate("long", base("t", llama.base), first, prompt="x" * 100, max_tokens=5, ignore_eos=True)
        d.finish("long")
        assert captures == [64, 128]
        wide = adapter("wide", llama.adapters["wide"])
        for index in range(3):
            d.generate(f"w{index}", base("t", llama.base), wide, user=f"u{index}", max_tokens=5, ignore_eos=True)
        d.finish("w0", "w1", "w2")
        assert len(captures) > 2
        model = d.runner.base.model
        assert all(key[3] == model.bank.version for key in model.graphs.captured), "stale ones are dropped"


@pytest.mark.parametrize("how", ["fails", "differs"])
def test_a_capture_that_fails_or_differs_costs_speed_and_nothing_else(
    how: str, llama: Family, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def texts(d: Driver) -> dict[str, str]:
        d.generate("a", base("t", llama.base), adapter("plain", llama.adapters["plain"]), max_tokens=8)
        d.generate("b", base("t", llama.base), max_tokens=8)
        d.finish("a", "b")
        return dict(d.texts())

    plain = Driver(Runner(EngineConfig(device="cpu", max_context=128)))
    expected = texts(plain)
    replay = DecodeGraphs._replay

    def broken(self: DecodeGraphs, item: Any, keys: int) -> torch.Tensor:
        if how == "fails":
            raise RuntimeError("operation not permitted when stream is capturing")
        return replay(self, item, keys) + 1

    monkeypatch.setattr(DecodeGraphs, "_replay", broken)
    d = driver()
    assert texts(d) == expected
    assert not d.runner.base.model.graphs.enabled and "without CUDA graphs" in caplog.text


def test_padding_rows_touch_no_slot(llama: Family) -> None:
    d = driver(max_batch=6)
    d.send("load", id="l", base=base("t", llama.base))
    d.until(lambda: d.ended("l"))
    cache = d.runner.base.model.cache
    with torch.inference_mode():
        for tensor in (*cache.keys.values(), *cache.values.values()):
            tensor.fill_(7.0)
        d.runner.base.model.graphs.run([5, 6, 7], DecodeRows([1, 4, 5], [3, 9, 1]), [None] * 3, lambda: torch.zeros(1))
    written = {
        (slot, position)
        for tensor in cache.keys.values()
        for slot, position in (tensor != 7.0).any(dim=-1).any(dim=-1).nonzero().tolist()
    }
    assert written == {(1, 2), (4, 8), (5, 0), (cache.slots - 1, cache.length - 1)}
