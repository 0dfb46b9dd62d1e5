"""Every supported family answers exactly as Transformers and PEFT do, alone and in a mixed batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inference.engine.config import EngineConfig
from inference.engine.errors import EngineError
from inference.engine.model.runner import Runner
from inference.engine.native.library import native_library
from inference.engine.scheduling.sequence import Sequence

from . import tiny
from .conftest import Family
from .driver import Driver, adapter, base

COUNT = 20
PROMPTS = ["The sea", "A much longer prompt about ships, sails, and the wind over the water", "x", "Tell me more"]


def run(
    driver: Driver, family: Family, jobs: list[tuple[str, str | None, str]], count: int = COUNT
) -> dict[str, list[int]]:  # fmt: skip
    """(id, adapter name, prompt) -> tokens."""
    taken: dict[str, list[int]] = {}
    requests = driver.engine.requests
    finish = requests.finish

    def keep(sequence: Sequence, reason: str) -> None:
        taken[sequence.id] = sequence.tokens[sequence.prompt_length :]
        finish(sequence, reason)

    requests.finish = keep  # type: ignore[method-assign]
    for request_id, name, prompt in jobs:
        spec = adapter(name, family.adapters[name]) if name else None
        driver.generate(
            request_id, base(family.name, family.base), spec, prompt=prompt, max_tokens=count, ignore_eos=True
        )
    driver.finish(*[job[0] for job in jobs])
    errors = driver.of("error")
    assert not errors, errors
    requests.finish = finish  # type: ignore[method-assign]
    return taken


@pytest.mark.parametrize("native", [True, False], ids=["native", "tensors"])
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in tiny.FAMILIES])
def test_greedy_equals_peft_alone_and_mixed(name: str, native: bool, family: Callable[[str], Family]) -> None:
    made = family(name)
    config = EngineConfig(device="cpu", max_context=128, native=native)
    several = replace(config, threads=2 if native and name == "llama" else 1)
    driver = Driver(Runner(several), EngineConfig(prefill_chunk=7, user_limit=99))
    names = [None, *made.adapters]
    jobs = [(f"{who}-{i}", who, prompt) for i, prompt in enumerate(PROMPTS) for who in names]
    mixed = run(driver, made, jobs)
    tok = tiny.tokenizer()
    alone = Driver(Runner(config))
    for request_id, who, prompt in jobs[: len(names) * 2]:
        folder = made.adapters[who] if who else None
        expected = tiny.reference(made.base, folder, tok(prompt)["input_ids"], COUNT)
        assert mixed[request_id] == expected, f"{request_id} in a mixed batch"
        assert run(alone, made, [(request_id, who, prompt)])[request_id] == expected, f"{request_id} alone"


@pytest.mark.parametrize("published", [torch.bfloat16, torch.float16])
def test_weights_published_in_two_bytes_give_the_answers_of_fp32(published: torch.dtype, tmp_path: Path) -> None:
    name = "gpt2" if published is torch.float16 else "llama"
    folder = tiny.write_base(tmp_path / "base", name, published=published)
    made = Family(name, folder, {"plain": tiny.write_adapter(tmp_path / "a", folder, tiny.RECIPES["plain"])})
    sizes = {}
    for by_kernel in (True, False):
        driver = Driver(Runner(EngineConfig(device="cpu", max_context=128, native=by_kernel)))
        for who, adapter_folder in [(None, None), ("plain", made.adapters["plain"])]:
            prompt = tiny.tokenizer()(PROMPTS[1])["input_ids"]
            expected = tiny.reference(folder, adapter_folder, prompt, COUNT)
            assert run(driver, made, [(f"{who}", who, PROMPTS[1])])[f"{who}"] == expected
        loaded = driver.runner.base
        sizes[by_kernel] = loaded.info.bytes - sum(p.nbytes for p in loaded.model.module.parameters())
    native = native_library("")
    sample = torch.tensor([1.0 + 2**-10])  # needs float16's ten bits
    halves = native is not None and native.weights_format(sample.data_ptr(), 1, 1) == 1
    if published is torch.bfloat16 or halves:  # not every processor widens float16
        assert sizes[True] < 0.6 * sizes[False]  # the last tile of 32 columns may be partly empty


@pytest.mark.parametrize(("name", "reason"), [("mamba", "interface"), ("bloom", "interface")])
def test_what_cannot_be_exact_is_refused_by_name(name: str, reason: str, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    small = {"vocab_size": tiny.VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "n_layer": 2, "n_head": 4}
    monkeypatch.setitem(tiny.FAMILIES, name, small)
    folder = tiny.write_base(tmp_path / name, name)
    runner = Runner(EngineConfig(device="cpu"))
    with pytest.raises(EngineError) as caught:
        runner.load_base(base(name, folder), lambda stage, done: None)  # type: ignore[arg-type]
    assert caught.value.code == "base_unsupported"
    assert runner.memory()["base"] == 0
