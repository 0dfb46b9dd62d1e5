"""A base answers with the numbers in its files and with no others: what is missing, unfit or left over refuses it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from inference.engine.config import EngineConfig
from inference.engine.model.base_probe import probe
from inference.engine.model.runner import Runner
from inference.engine.model.weights import complaint, harmless

from . import tiny
from .conftest import Family
from .driver import Driver, base

Tensors = dict[str, torch.Tensor]
Q, UP, NORM = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"


def changed(folder: Path, to: Path, change: Callable[[Tensors], Any]) -> Path:
    shutil.copytree(folder, to)
    tensors = load_file(to / "model.safetensors")
    change(tensors)
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    return to


def outcome(folder: Path, **config: Any) -> dict[str, Any]:
    """The end of a request for the base, and what the registry is told."""
    made = EngineConfig(device="cpu", max_context=64, **config)
    d = Driver(Runner(made), made)
    d.generate("r", base("t", folder), max_tokens=3, ignore_eos=True)
    d.finish("r")
    ended = d.ended("r")
    assert ended is not None
    assert bool(d.of("refusal")) == (ended.get("code") == "base_unsupported")
    return ended


def drop(*names: str) -> Callable[[Tensors], Any]:
    return lambda tensors: [tensors.pop(name) for name in names]


def put(name: str, *shape: int) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.update({name: torch.zeros(shape)})


REFUSED: dict[str, tuple[Callable[[Tensors], Any], list[str]]] = {
    "a matrix is missing": (drop(UP), ["lack 1 tensor", UP]),
    "a norm is missing": (drop(NORM), [NORM]),
    "the embedding is missing": (drop("model.embed_tokens.weight"), ["model.embed_tokens.weight"]),
    "the head is missing and not tied": (drop("lm_head.weight"), ["lm_head.weight"]),
    "a layer is missing": (
        lambda tensors: [tensors.pop(name) for name in list(tensors) if ".layers.2." in name],
        ["lack 9 tensors", "…"],
    ),
    "another shape": (put(NORM, 32), ["another shape", NORM]),
    "another vocabulary": (put("model.embed_tokens.weight", 300, 64), ["another shape", "model.embed_tokens.weight"]),
    "a bias that the model does not have": (put(f"{Q}.bias", 64), ["does not have", f"{Q}.bias"]),
    "a layer that the model does not have": (put("model.layers.3.mlp.up_proj.weight", 128, 64), ["layers.3"]),
    "a head for classes": (put("score.weight", 2, 64), ["score.weight"]),
    "names of another family": (
        lambda tensors: tensors.update({n.replace("q_proj", "query"): tensors.pop(n) for n in list(tensors)}),
        ["lack 3 tensors", "hold 3 tensors"],
    ),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_weights_that_are_not_the_models_refuse_it_by_name(case: str, llama: Family, tmp_path: Path) -> None:
    change, said = REFUSED[case]
    folder = changed(llama.base, tmp_path / "base", change)
    ended, verdict = outcome(folder), probe(folder)
    assert ended.get("code") == "base_unsupported", "not answered with random numbers"
    for words in said:
        assert words in ended["detail"]["reason"]
    assert len(ended["detail"]["reason"]) < 300
    assert verdict == {"supported": False, "reason": ended["detail"]["reason"]}, "seen by the headers alone"


HARMLESS = [
    "model.layers.0.self_attn.rotary_emb.inv_freq",
    "model.rotary_emb.inv_freq",
    "mtp.layers.0.mlp.up_proj.weight",
    "visual.blocks.0.attn.qkv.weight",
    "vision_tower.encoder.layers.0.mlp.fc1.weight",
    "multi_modal_projector.linear.weight",
    "v_head.summary.weight",
]


def test_what_changes_no_answer_is_let_pass(llama: Family, tmp_path: Path) -> None:
    folder = changed(
        llama.base, tmp_path / "base", lambda tensors: tensors.update({n: torch.zeros(8) for n in HARMLESS})
    )
    assert outcome(folder)["type"] == "done" and probe(folder) == {"supported": True}


def test_drafting_layers_are_let_pass_where_the_configuration_counts_them() -> None:
    config = AutoConfig.for_model("llama", num_hidden_layers=3)
    assert not harmless("model.layers.3.mlp.up_proj.weight", config)
    config.num_nextn_predict_layers = 1
    assert harmless("model.layers.3.mlp.up_proj.weight", config)
    assert not harmless("model.layers.4.mlp.up_proj.weight", config)
    assert not harmless("model.layers.2.mlp.up_proj.bias", config)


@pytest.mark.parametrize("kept", ["model.embed_tokens.weight", "lm_head.weight"])
def test_of_two_tied_tensors_one_is_enough(kept: str, tmp_path: Path) -> None:
    folder = tiny.write_base(tmp_path / "tied", "llama", tie_word_embeddings=True)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    embedding = tensors.pop("model.embed_tokens.weight")
    save_file({**tensors, kept: embedding}, file, metadata={"format": "pt"})
    assert outcome(folder)["type"] == "done" and probe(folder) == {"supported": True}
    save_file(tensors, file, metadata={"format": "pt"})
    assert outcome(folder)["code"] == "base_unsupported" and probe(folder)["supported"] is False


def test_two_heads_of_a_tied_model_that_differ_are_both_from_the_file(tmp_path: Path) -> None:
    folder = tiny.write_base(tmp_path / "tied", "llama", tie_word_embeddings=True)
    folder = changed(
        folder, tmp_path / "own", lambda tensors: tensors.update({"lm_head.weight": torch.ones(tiny.VOCABULARY, 64)})
    )
    assert outcome(folder)["type"] == "done" and probe(folder) == {"supported": True}


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "phi3", "gpt_neox"])
def test_every_way_to_load_sees_it(name: str, family: Callable[[str], Family], tmp_path: Path) -> None:
    made = family(name)
    first = sorted(load_file(made.base / "model.safetensors"))[3]
    folder = changed(made.base, tmp_path / "base", drop(first))
    assert probe(made.base) == {"supported": True}
    assert first.rpartition(".")[0].rpartition(".")[2] in probe(folder)["reason"]
    assert outcome(folder)["code"] == "base_unsupported"


def test_in_nf4_too(llama: Family, tmp_path: Path) -> None:
    folder = changed(llama.base, tmp_path / "base", drop(UP))
    assert outcome(llama.base, precision="nf4")["type"] == "done"
    ended = outcome(folder, precision="nf4")
    assert ended["code"] == "base_unsupported" and UP in ended["detail"]["reason"]


@pytest.mark.parametrize("name", ["mixtral", "phimoe", "qwen2_moe"])
def test_weights_that_are_converted_while_they_load(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tiny.FAMILIES, name, tiny.EXPERTS[name])
    folder = tiny.write_base(tmp_path / "base", name)
    assert probe(folder) == {"supported": True}
    expert = next(key for key in load_file(folder / "model.safetensors") if ".experts.1." in key)
    broken = changed(folder, tmp_path / "broken", drop(expert))
    assert probe(broken) != {"supported": True} or outcome(broken).get("code") in {
        "base_unsupported",
        "base_load_failed",
    }


def test_shards(llama: Family, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama.base)
    folder = tmp_path / "shards"
    model.save_pretrained(folder, max_shard_size="100KB")
    tiny.tokenizer().save_pretrained(folder)
    index = folder / "model.safetensors.index.json"
    assert len(set(json.loads(index.read_text())["weight_map"].values())) > 2
    assert probe(folder) == {"supported": True}
    shard = folder / json.loads(index.read_text())["weight_map"][UP]
    tensors = load_file(shard)
    del tensors[UP]
    save_file(tensors, shard, metadata={"format": "pt"})
    assert UP in probe(folder)["reason"] and UP in outcome(folder)["detail"]["reason"]


@pytest.mark.parametrize("content", [b"", b"\x08", b"\xff" * 64, b"\x02\x00\x00\x00\x00\x00\x00\x00[]"])
def test_headers_that_are_none_are_left_to_the_registry(content: bytes, llama: Family, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(llama.base, folder)
    (folder / "model.safetensors").write_bytes(content)
    assert probe(folder) == {"supported": True}
    assert outcome(folder)["code"] == "base_load_failed"


def test_a_complaint_is_short_whatever_is_wrong() -> None:
    names = {f"model.layers.{index}.mlp.experts.gate_up_proj.weight" for index in range(900)}
    info = {"missing_keys": names, "unexpected_keys": names, "mismatched_keys": {(n, (1,), (2,)) for n in names}}
    said = complaint(info, AutoConfig.for_model("llama"))
    assert len(said) < 300 and said.count("900 tensors") == 3 and said.count("gate_up_proj") == 3
