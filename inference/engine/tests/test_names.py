"""The layers that the registry hears of are those that the engine's adapters find, whatever the files call them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, Gemma3Config

from inference.engine.config import EngineConfig
from inference.engine.model.base_probe import look_at
from inference.engine.model.runner import Runner

from . import tiny
from .conftest import Family
from .driver import Driver, adapter, base
from .test_families import COUNT, PROMPTS, run

GEMMA3_TEXT = {**tiny.COMMON, "sliding_window": 12, "query_pre_attn_scalar": 16}
GEMMA3_VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip


def write_gemma3(folder: Path) -> Path:
    """A multimodal model, whose files call its layers otherwise than the running model does."""
    torch.manual_seed(0)
    config = Gemma3Config(
        text_config=GEMMA3_TEXT, vision_config=GEMMA3_VISION, mm_tokens_per_image=4, boi_token_index=300,
        eoi_token_index=301, image_token_index=302,
    )  # fmt: skip
    model: Any = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.6 / parameter.shape[-1] ** 0.5 if "embed" not in name else 1.0)
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def names_in(folder: Path) -> set[str]:
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        keys = list(file.keys())
    return {key.removeprefix("base_model.model.").partition(".lora_")[0] for key in keys}


def answers_as_peft(made: Family) -> None:
    driver = Driver(Runner(EngineConfig(device="cpu", max_context=128)))
    tokens = tiny.tokenizer()(PROMPTS[1])["input_ids"]
    for name, folder in [(None, None), *made.adapters.items()]:
        expected = tiny.reference(made.base, folder, tokens, COUNT)
        assert run(driver, made, [(str(name), name, PROMPTS[1])])[str(name)] == expected


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear"])
def test_an_adapter_of_a_multimodal_model_answers_as_peft_does(targets: Any, tmp_path: Path) -> None:
    """Its matrices in the vision tower, which no text enters, are no reason to refuse it."""
    folder = write_gemma3(tmp_path / "gemma3")
    made = tiny.write_adapter(tmp_path / "a", folder, tiny.AdapterRecipe(targets=targets))
    verdict, found = look_at(folder)
    layers = found["layers"]
    assert verdict == {"supported": True}
    roles = Counter(layers[name][2] for name in names_in(made))
    assert set(roles) == {"carries", "idle"} and layers["lm_head"] == (tiny.VOCABULARY, 64, "carries")
    answers_as_peft(Family("gemma3", folder, {"plain": made}))


def test_an_adapter_with_the_names_of_an_earlier_release(tmp_path: Path) -> None:
    """They are those that the files of the base still have; PEFT renames them too."""
    folder = write_gemma3(tmp_path / "gemma3")
    made = tiny.write_adapter(tmp_path / "a", folder, tiny.AdapterRecipe(targets=["q_proj", "v_proj"]))
    file = made / "adapter_model.safetensors"
    now, then = "model.model.language_model.layers.", "model.language_model.model.layers."
    save_file({key.replace(now, then): value for key, value in load_file(file).items() if "vision" not in key}, file)
    assert not any(name.startswith("model.") for name in names_in(made))
    earlier = look_at(folder)[1]["earlier_names"]
    assert {earlier[name] for name in names_in(made)} <= set(look_at(folder)[1]["layers"])
    answers_as_peft(Family("gemma3", folder, {"plain": made}))


def test_an_adapter_beside_routed_experts_answers_as_peft_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files hold each expert for itself, the running model all of them as one."""
    monkeypatch.setitem(tiny.FAMILIES, "qwen2_moe", tiny.EXPERTS["qwen2_moe"])
    folder = tiny.write_base(tmp_path / "moe", "qwen2_moe")
    recipe = tiny.AdapterRecipe(targets=["q_proj", "gate_proj", "up_proj", "down_proj"])
    made = tiny.write_adapter(tmp_path / "a", folder, recipe)
    layers = look_at(folder)[1]["layers"]
    assert names_in(made) == {name for name in layers if name.endswith(tuple(recipe.targets))}
    assert {layers[name][2] for name in names_in(made)} == {"carries"}
    assert not any(".experts." in name for name in layers)
    answers_as_peft(Family("moe", folder, {"plain": made}))


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3", "gemma2", "olmo2"])
def test_the_registry_hears_of_the_layers_that_carry(name: str, tmp_path: Path) -> None:
    folder = tiny.write_base(tmp_path / name, name)
    layers = look_at(folder)[1]["layers"]
    runner = Runner(EngineConfig(device="cpu", max_context=128))
    runner.load_base(base(name, folder), lambda stage, done: None)  # type: ignore[arg-type]
    assert runner.base is not None
    places, kinds = runner.base.parts.places, runner.base.model.bank.kinds
    assert {path for path, (*_, role) in layers.items() if role == "carries"} == set(places)
    for path, (kind, _, index) in places.items():
        assert layers[path][:2] == (kinds[kind].outs[index], kinds[kind].inputs)


def test_an_adapter_of_a_tower_alone_is_refused(tmp_path: Path) -> None:
    folder = write_gemma3(tmp_path / "gemma3")
    made = tiny.write_adapter(tmp_path / "a", folder, tiny.AdapterRecipe(targets=["q_proj"]))
    file = made / "adapter_model.safetensors"
    save_file({key: value for key, value in load_file(file).items() if "vision" in key}, file)
    driver = Driver(Runner(EngineConfig(device="cpu", max_context=128)))
    driver.generate("r", base("g", folder), adapter("a", made))
    driver.finish("r")
    assert driver.ended("r")["code"] == "adapter_incompatible"  # type: ignore[index]
