"""A blend answers as PEFT's weighted adapter does, beside plain adapters; what no weight scales is refused by name."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.engine.config import EngineConfig
from inference.engine.model.runner import Runner
from inference.engine.recipes import recipe_digest
from inference.engine.scheduling.sequence import Sequence

from . import tiny
from .conftest import Family
from .driver import Driver, adapter, base

COUNT = 16
PROMPT = "The sea, and ships on it"
RECIPES = {
    "two": {"plain": 0.7, "narrow": -0.6},
    "three": {"plain": 1.0, "wide": 0.5, "partial": 1.5},  # of which one has some layers only
    "whole": {"narrow": 1.0},
}


def blend(made: Family, parts: dict[str, float], **changes: Any) -> dict[str, Any]:
    members = [{**adapter(name, made.adapters[name]), "weight": weight} for name, weight in parts.items()]
    digest = recipe_digest((member["digest"], member["weight"]) for member in members)
    return {"digest": digest, "path": "", "name": "blend", "proven": True, "members": members, **changes}


@functools.cache
def weighted(made_base: Path, folders: tuple[tuple[Path, float], ...]) -> Any:
    """PEFT's own: the members loaded side by side, then `add_weighted_adapter`."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(made_base, dtype=torch.float32, attn_implementation="eager")
    names = [f"member{index}" for index in range(len(folders))]
    model = PeftModel.from_pretrained(model, folders[0][0], adapter_name=names[0])
    for name, (folder, _) in list(zip(names, folders, strict=True))[1:]:
        model.load_adapter(folder, name)
    model.add_weighted_adapter(names, [weight for _, weight in folders], "mix", combination_type="cat")
    model.set_adapter("mix")
    return model.eval()


def expected(made: Family, parts: dict[str, float]) -> list[int]:
    tokens = tiny.tokenizer()(PROMPT)["input_ids"]
    model = weighted(made.base, tuple((made.adapters[name], weight) for name, weight in parts.items()))
    with torch.no_grad():
        out = model.generate(
            input_ids=torch.tensor([tokens]), max_new_tokens=COUNT, min_new_tokens=COUNT, do_sample=False
        )
    return list(out[0, len(tokens) :].tolist())


def driver(**config: Any) -> Driver:
    made = EngineConfig(device="cpu", **{"max_context": 128, "prefill_chunk": 7, "user_limit": 99, **config})
    return Driver(Runner(made), made)


def run(d: Driver, made: Family, jobs: dict[str, dict[str, Any] | None]) -> dict[str, list[int]]:
    taken: dict[str, list[int]] = {}
    finish = d.engine.requests.finish

    def keep(sequence: Sequence, reason: str) -> None:
        taken[sequence.id] = sequence.tokens[sequence.prompt_length :]
        finish(sequence, reason)

    d.engine.requests.finish = keep  # type: ignore[method-assign]
    for request_id, spec in jobs.items():
        d.generate(request_id, base("b", made.base), spec, prompt=PROMPT, max_tokens=COUNT, ignore_eos=True)
    d.finish(*jobs)
    d.engine.requests.finish = finish  # type: ignore[method-assign]
    return taken


def refused(d: Driver, made: Family, spec: dict[str, Any]) -> dict[str, Any]:
    d.generate("refused", base("b", made.base), spec, prompt=PROMPT)
    d.finish("refused")
    [error] = d.of("error", "refused")
    return error


@pytest.mark.parametrize("native", [True, False], ids=["native", "tensors"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in ("llama", "gpt2", "phi3")]
)
def test_greedy_equals_peft_in_a_mixed_batch(name: str, native: bool, family: Callable[[str], Family]) -> None:
    made = family(name)
    d = driver(native=native)
    blends = {key: blend(made, parts) for key, parts in RECIPES.items()}
    plain = {who: adapter(who, folder) for who, folder in made.adapters.items()}
    found = run(d, made, {**blends, **plain, "base": None})
    for key, parts in RECIPES.items():
        assert found[key] == expected(made, parts), key
    assert found["whole"] == found["narrow"]
    tokens = tiny.tokenizer()(PROMPT)["input_ids"]
    for who in plain:
        assert found[who] == tiny.reference(made.base, made.adapters[who], tokens, COUNT), who
    assert found["base"] == tiny.reference(made.base, None, tokens, COUNT)
    assert len({tuple(found[key]) for key in ("two", "three", "plain", "narrow", "base")}) == 5
    resident = {one["digest"]: one for one in d.engine.status()["adapters"]}
    assert resident[blends["two"]["digest"]]["rank"] == 4 + 2


def test_matrices_of_embeddings_are_blended_too(llama: Family, tmp_path: Path) -> None:
    recipes = {
        "one": tiny.AdapterRecipe(seed=21, targets=["embed_tokens", "q_proj"]),
        "two": tiny.AdapterRecipe(seed=22, targets=["embed_tokens", "v_proj"], rank=3),
    }
    adapters = {key: tiny.write_adapter(tmp_path / key, llama.base, recipe) for key, recipe in recipes.items()}
    made = Family("llama", llama.base, adapters)
    tokens = tiny.tokenizer()(PROMPT)["input_ids"]
    found = run(driver(), made, {"half": blend(made, {"one": 1.0, "two": 0.5}), "one": adapter("one", adapters["one"])})
    assert found["one"] == tiny.reference(made.base, adapters["one"], tokens, COUNT)
    assert found["half"] == merged(made, {"one": 1.0, "two": 0.5})


def merged(made: Family, parts: dict[str, float]) -> list[int]:
    """The base with the members' updates added to its weights, one after another."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(made.base, dtype=torch.float32, attn_implementation="eager")
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    whole = {name: tensor.clone() for name, tensor in start.items()}
    for name, weight in parts.items():
        model.load_state_dict(start)
        one: Any = PeftModel.from_pretrained(model, made.adapters[name])
        model = one.merge_and_unload()
        for key, tensor in model.state_dict().items():
            whole[key] += weight * (tensor - start[key])
    model.load_state_dict(whole)
    tokens = tiny.tokenizer()(PROMPT)["input_ids"]
    with torch.no_grad():
        out = model.generate(
            input_ids=torch.tensor([tokens]), max_new_tokens=COUNT, min_new_tokens=COUNT, do_sample=False
        )
    return list(out[0, len(tokens) :].tolist())


NOT_LINEAR: dict[str, dict[str, Any]] = {
    "DoRA": {"use_dora": True},
    "modules_to_save": {"modules_to_save": ["lm_head"]},
    "bias": {"bias": "all"},
    "lora_bias": {"lora_bias": True},
    "trainable_token_indices": {"trainable_token_indices": {"embed_tokens": [60, 61]}},
}


@pytest.mark.parametrize("what", NOT_LINEAR)
def test_parts_that_no_weight_scales_are_refused_by_name(
    what: str, family: Callable[[str], Family], tmp_path: Path
) -> None:
    found = family("qwen2")  # which has biases
    own = tiny.write_adapter(tmp_path / "own", found.base, tiny.AdapterRecipe(seed=31, extra=NOT_LINEAR[what]))
    made = Family("qwen2", found.base, {**found.adapters, "own": own})
    d = driver()
    error = refused(d, made, blend(made, {"plain": 0.5, "own": 0.5}))
    assert (error["code"], error["detail"]["name"], error["detail"]["what"]) == ("blend_unsupported", "own", what)
    assert not d.of("proof")  # nothing is wrong with the adapter
    assert run(d, made, {"plain": adapter("plain", made.adapters["plain"])})["plain"]


def test_ranks_add_up_to_a_bound(llama: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.engine.lora.blend.MAX_RANK", 19)
    d = driver()
    error = refused(d, llama, blend(llama, {"plain": 1.0, "wide": 0.5}))
    assert (error["code"], error["detail"]["rank"], error["detail"]["limit"]) == ("blend_rank_exceeded", 20, 19)
    assert run(d, llama, {"fits": blend(llama, {"wide": 1.0, "narrow": 1.0})})["fits"]


def test_what_a_member_is_not_is_told_of_the_member(llama: Family, tmp_path: Path) -> None:
    """Its copy is proven by its own digest, and the registry hears which one is damaged."""
    adapters = {name: Path(shutil.copytree(llama.adapters[name], tmp_path / name)) for name in ("plain", "narrow")}
    made = Family("llama", llama.base, adapters)
    spec = blend(made, {"plain": 0.5, "narrow": 0.5})
    weights = adapters["narrow"] / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    d = driver()
    assert refused(d, made, spec)["code"] == "store_damaged"
    assert [event["digest"] for event in d.of("damage")] == [spec["members"][1]["digest"]]


def test_a_recipe_is_what_its_digest_names(llama: Family) -> None:
    spec = blend(llama, {"plain": 0.5, "narrow": 0.5})
    other = blend(llama, {"plain": 0.5, "narrow": 0.6})
    assert spec["digest"] != other["digest"]
    assert refused(driver(), llama, {**other, "digest": spec["digest"]})["code"] == "adapter_load_failed"


def test_no_blend_outlives_a_member(llama: Family) -> None:
    d = driver()
    mixed = blend(llama, {"plain": 0.5, "narrow": 0.5})
    run(d, llama, {"mixed": mixed, "wide": adapter("wide", llama.adapters["wide"])})
    d.generate("runs on", base("b", llama.base), mixed, prompt=PROMPT, max_tokens=40, ignore_eos=True)
    d.until(lambda: d.of("token", "runs on"))
    d.send("evict", id="out", digest=mixed["members"][1]["digest"])
    d.tick(3)
    assert not d.ended("out"), "what runs is answered to its end"
    d.finish("runs on", "out")
    assert d.ended("out")["data"]["freed_bytes"] > 0  # type: ignore[index]
    assert (
        mixed["digest"] not in d.engine.residency
        and adapter("wide", llama.adapters["wide"])["digest"] in d.engine.residency
    )
