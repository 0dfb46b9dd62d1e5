"""What adapters have beside LoRA's pairs is served as PEFT serves it, and reaches nobody else's rows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from inference.engine.config import EngineConfig
from inference.engine.model.own_parts import OwnModule
from inference.engine.model.runner import Runner
from inference.engine.model.step_rows import StepRows

from . import tiny
from .conftest import Family
from .driver import Driver, adapter, base
from .test_families import run
from .test_runner import base_logits

COUNT = 12
PROMPT = "The sea, and ships on it"
ALL_DORA = ("llama", "gemma2")  # where embedding and output layer have magnitudes too


def names(family: str) -> tuple[str, str, list[str]]:
    """(embedding, output layer, norms) by the last parts of their paths."""
    config = AutoConfig.for_model(family, **tiny.FAMILIES[family])
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    last = {id(module): path.rsplit(".", 1)[-1] for path, module in model.named_modules()}
    norms = {last[id(m)] for m in model.modules() if list(m.parameters()) and all(p.ndim == 1 for p in m.parameters())}
    return last[id(model.get_input_embeddings())], last[id(model.get_output_embeddings())], sorted(norms)


def last_names(family: str) -> set[str]:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **tiny.FAMILIES[family]))
    return {path.rsplit(".", 1)[-1] for path, _ in model.named_modules()}


def recipes(family: str) -> dict[str, tiny.AdapterRecipe]:
    embedding, head, norms = names(family)
    tokens = [*range(60, 95), 200]  # letters
    one = next(name for name in ("q_proj", "qkv_proj", "query_key_value", "c_attn") if name in last_names(family))
    return {
        "dora": tiny.AdapterRecipe(seed=11, extra={
            "use_dora": True, "bias": "lora_only", "use_rslora": True,
            "rank_pattern": {r"(layers|h)\.1\..*": 6}, "alpha_pattern": {r"(layers|h)\.2\..*": 3}}),
        "biased": tiny.AdapterRecipe(seed=12, extra={"bias": "all", "lora_bias": True}),
        "saved": tiny.AdapterRecipe(seed=13, extra={"modules_to_save": [embedding, head, *norms]}),
        "embedded": tiny.AdapterRecipe(seed=14, targets=[embedding, head, one], extra={"use_dora": family in ALL_DORA}),
        "tokens": tiny.AdapterRecipe(seed=15, extra={"trainable_token_indices": {embedding: tokens}}),
    }  # fmt: skip


@pytest.fixture(scope="module")
def owners(family: Callable[[str], Family], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    """A family's base with adapters of every such kind, and a plain one."""
    made: dict[str, Family] = {}

    def get(name: str) -> Family:
        if name not in made:
            found, root = family(name), tmp_path_factory.mktemp(f"own-{name}")
            own = {key: tiny.write_adapter(root / key, found.base, recipe) for key, recipe in recipes(name).items()}
            if name in ALL_DORA:
                file = own["embedded"] / "adapter_model.safetensors"
                kept = {key: value for key, value in load_file(file).items() if not key.endswith(".base_layer.weight")}
                save_file(kept, file)  # as the registry stores it: copies of the base's own stay behind
            made[name] = Family(name, found.base, {"plain": found.adapters["plain"], **own})
        return made[name]

    return get


def driver(**config: Any) -> Driver:
    made = EngineConfig(device="cpu", **{"max_context": 128, "prefill_chunk": 7, "user_limit": 99, **config})
    return Driver(Runner(made), made)


def expected(made: Family, who: str | None, text: str = PROMPT) -> list[int]:
    folder = made.adapters[who] if who else None
    return tiny.reference(made.base, folder, tiny.tokenizer()(text)["input_ids"], COUNT)


@torch.inference_mode()
def assert_logits(d: Driver, made: Family, who: str | None) -> None:
    """Some families repeat a token whatever the adapter; their logits are PEFT's as well."""
    tokens = tiny.tokenizer()(PROMPT)["input_ids"]
    folder = made.adapters[who] if who else None
    wanted = tiny.peft_model(made.base, folder)(torch.tensor([tokens])).logits[0]
    rows, model = StepRows(), d.runner.base.model
    digest = adapter(who, folder)["digest"] if who and folder else None
    rows.add_chunk(tokens, digest, model.probe_slot, 0, range(len(tokens)))
    assert (model.forward(rows) - wanted).abs().max() < 1e-4 * wanted.abs().max(), who


BY_TENSORS = ("llama", "gpt2", "gemma2")  # without a compiler, and on a card


@pytest.mark.parametrize(
    ("name", "native"),
    [pytest.param(name, native, marks=pytest.mark.xdist_group(name))
     for name in tiny.FAMILIES for native in (True, False) if native or name in BY_TENSORS],
)  # fmt: skip
def test_greedy_equals_peft_alone_and_mixed(name: str, native: bool, owners: Callable[[str], Family]) -> None:
    made = owners(name)
    jobs = [(str(who), who, PROMPT) for who in (None, *made.adapters)]
    d = driver(native=native)
    mixed = run(d, made, jobs, COUNT)
    for request_id, who, text in jobs:
        assert mixed[request_id] == expected(made, who), f"{request_id} in a mixed batch"
        if who not in (None, "plain"):
            alone = run(d, made, [(f"{request_id} alone", who, text)], COUNT)
            assert alone[f"{request_id} alone"] == expected(made, who), f"{request_id} alone"
        assert_logits(d, made, who)


def test_rows_of_others_are_bit_identical(owners: Callable[[str], Family]) -> None:
    made = owners("llama")
    d = driver(max_batch=8)
    d.send("load", id="load", base=base("llama", made.base))
    d.until(lambda: d.ended("load"))
    before = base_logits(d.runner)
    run(d, made, [(who, who, PROMPT) for who in made.adapters], 1)
    assert torch.equal(base_logits(d.runner), before)
    digests = {who: adapter(who, folder)["digest"] for who, folder in made.adapters.items()}

    @torch.inference_mode()
    def logits(users: list[str | None]) -> torch.Tensor:
        rows = StepRows()
        for slot, who in enumerate(users):
            rows.add_decoding(70 + slot, digests.get(who or ""), slot, 1)
        return d.runner.base.model.forward(rows).clone()

    mixed = logits([None, "dora", "plain", "saved", None, "embedded", "biased", "tokens"])
    apart = logits([None, None, "plain", None, None, None, None, None])
    assert torch.equal(mixed[[0, 2, 4]], apart[[0, 2, 4]])
    assert not torch.equal(mixed[[1, 3]], apart[[1, 3]])


def of(part: Any) -> list[torch.Tensor]:
    """The tensors of a stand-in, but for those of the base's own module."""
    found = [value for name, value in vars(part).items() if isinstance(value, torch.Tensor)]
    if isinstance(part, OwnModule):
        found += [*part.module.parameters(), *part.module.buffers()]
    return found


def test_what_they_take_counts_and_comes_back(owners: Callable[[str], Family]) -> None:
    made = owners("llama")
    d = driver()
    run(d, made, [(who, who, PROMPT) for who in made.adapters], 1)
    sizes = {each.name: each.bytes for each in d.engine.residency.adapters.values()}
    whole = tiny.VOCABULARY * 64 * 4  # one of the two matrices that "saved" brings
    assert sizes["saved"] > sizes["plain"] + 2 * whole
    assert sizes["plain"] < sizes["tokens"] < sizes["plain"] + whole, "36 rows of an embedding, and of no more"
    assert d.runner.memory()["adapters"] >= sum(sizes.values())
    assert d.engine.residency.bytes == sum(sizes.values())
    model = d.runner.base.model
    held = [tensor for parts in model.own.resident.values() for part in parts.modules.values() for tensor in of(part)]
    assert len(held) > 10 and all(t.untyped_storage().nbytes() == t.nbytes for t in held), "no view of a file stays"
    assert model.module.get_input_embeddings()._forward_hooks
    for who, folder in made.adapters.items():
        d.send("evict", id=who + " out", digest=adapter(who, folder)["digest"])
        d.until(lambda who=who: d.ended(who + " out"))
    assert not model.own.resident and not any(module._forward_hooks for module in model.module.modules())
    assert all(not weights for weights in (model.bank.resident, model.own.outputs, model.own.modules))


def test_an_adapter_that_does_not_fit_the_bank_is_refused_by_name(owners: Callable[[str], Family]) -> None:
    made = owners("llama")
    d = driver(adapter_bytes=150_000)
    d.generate("plain", base("t", made.base), adapter("plain", made.adapters["plain"]), max_tokens=1)
    d.generate("saved", base("t", made.base), adapter("saved", made.adapters["saved"]), max_tokens=1)
    d.finish("plain", "saved")
    assert d.ended("plain")["type"] == "done"  # type: ignore[index]
    assert d.ended("saved")["code"] == "out_of_memory"  # type: ignore[index]


def test_a_conversation_reuses_its_prefix_and_nobody_elses(owners: Callable[[str], Family]) -> None:
    made = owners("llama")
    d = driver()
    turns = [{"role": "user", "content": "tell me about the sea and the ships on it"}]
    longer = [*turns, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "and?"}]
    cached = {}
    for name, who, messages in [
        ("a", "dora", turns),
        ("b", "dora", longer),
        ("c", "saved", longer),
        ("d", None, longer),
    ]:
        spec = adapter(who, made.adapters[who]) if who else None
        d.generate(name, base("t", made.base), spec, messages=messages, max_tokens=6, ignore_eos=True)
        d.finish(name)
        cached[name] = d.ended(name)["usage"]["cached_tokens"]  # type: ignore[index]
    assert cached["a"] == 0 and cached["b"] > 30 and cached["c"] == cached["d"] == 0
    fresh = driver()
    for name, who in [("b", "dora"), ("c", "saved"), ("d", None)]:
        spec = adapter(who, made.adapters[who]) if who else None
        fresh.generate(name, base("t", made.base), spec, messages=longer, max_tokens=6, ignore_eos=True)
        fresh.finish(name)
        assert fresh.texts()[name] == d.texts()[name]


def test_steps_on_fixed_buffers_leave_them_to_the_ordinary_step(owners: Callable[[str], Family]) -> None:
    made = owners("llama")
    d = driver(native=False)
    d.runner.hardware.graphs = True
    own, plain = (run(d, made, [(who, who, PROMPT)], COUNT)[who] for who in ("dora", "plain"))
    mixed = run(d, made, [("x", "saved", PROMPT), ("y", None, PROMPT), ("z", None, "x")], COUNT)
    assert d.runner.base.model.graphs.captured
    assert (own, plain) == (expected(made, "dora"), expected(made, "plain"))
    assert (mixed["x"], mixed["y"], mixed["z"]) == (
        expected(made, "saved"), expected(made, None), expected(made, None, "x")
    )  # fmt: skip


@pytest.mark.parametrize("saved", [False, True], ids=["along", "as a copy"])
def test_an_embedding_that_shares_its_weights(
    saved: bool, family: Callable[[str], Family], tmp_path: Path
) -> None:  # fmt: skip
    """PEFT saves an embedding along, which trains the output layer too, or trains a copy, which unties it."""
    found = family("gemma")
    folder = tmp_path / "own"
    shutil.copytree(found.adapters["plain"], folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    weight = load_file(found.base / "model.safetensors")["model.embed_tokens.weight"]
    weight[40:120] += 0.4 * torch.randn(80, weight.shape[1], generator=torch.Generator().manual_seed(3))
    save_file({**tensors, "base_model.model.model.embed_tokens.weight": weight}, folder / "adapter_model.safetensors")
    if saved:
        tiny.edit_json(folder / "adapter_config.json", modules_to_save=["embed_tokens"])
    made = Family("gemma", found.base, {"own": folder, "plain": found.adapters["plain"]})
    d = driver()
    got = run(d, made, [("own", "own", PROMPT), ("plain", "plain", PROMPT)], COUNT)
    assert got == {"own": expected(made, "own"), "plain": expected(made, "plain")}
    resident = {each.name: each.bytes for each in d.engine.residency.adapters.values()}
    assert_logits(d, made, "own")
    width, packed = 64 * 4, 96  # kernels keep an output layer's rows in tiles of up to 32
    fewest, most = (80, 80) if saved else (80 + 80, 80 + packed)
    own = resident["own"] - resident["plain"]
    assert fewest * width < own < most * width + 8 * tiny.VOCABULARY, "the rows that differ, alone"


def test_dora_on_a_quantised_base(owners: Callable[[str], Family]) -> None:
    from peft import PeftModel
    from transformers import BitsAndBytesConfig

    made = owners("llama")
    d = driver(precision="nf4")
    got = run(d, made, [(who, who, PROMPT) for who in ("dora", "biased")], COUNT)
    for who, tokens in got.items():
        options: Any = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )  # fmt: skip
        base = AutoModelForCausalLM.from_pretrained(made.base, dtype=torch.float32, quantization_config=options)
        model: Any = PeftModel.from_pretrained(base, made.adapters[who])
        prompt = torch.tensor([tiny.tokenizer()(PROMPT)["input_ids"]])
        out = model.generate(input_ids=prompt, max_new_tokens=COUNT, min_new_tokens=COUNT, do_sample=False)
        assert tokens == out[0, prompt.shape[1] :].tolist(), who


@pytest.mark.parametrize(
    ("who", "change"),
    [("plain", {"use_dora": True}), ("dora", {"use_dora": False}), ("biased", {"lora_bias": False}),
     ("tokens", {"trainable_token_indices": [1, 2]}), ("tokens", {"trainable_token_indices": [*range(30), 900]})],
)  # fmt: skip
def test_tensors_that_the_config_does_not_tell_of_are_refused(
    who: str, change: dict[str, Any], owners: Callable[[str], Family], tmp_path: Path
) -> None:
    made = owners("llama")
    shutil.copytree(made.adapters[who], tmp_path / "x")
    tiny.edit_json(tmp_path / "x" / "adapter_config.json", **change)
    d = driver()
    d.generate("r", base("t", made.base), adapter("x", tmp_path / "x"), max_tokens=1)
    d.finish("r")
    assert d.ended("r")["code"] == "adapter_incompatible"  # type: ignore[index]
    assert d.runner.base.model.bank.resident == {}
