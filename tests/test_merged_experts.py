"""Merging into bases whose files name their tensors otherwise than the running model: with experts, multimodal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapters import jobs, services
from adapters.bases import support
from adapters.exports import merging
from adapters.models import LoraAdapter, Merge, Status
from inference.engine.tests.conftest import shared_kernels  # noqa: F401  (a fixture)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow, pytest.mark.xdist_group("forks")]
COUNT = 12
PROMPT = "The sea, and ships on it"
EXPERTS = ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]


@pytest.fixture
def models(tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where base models lie; adapters lie beside it in `adapters`."""
    from inference.engine.tests import tiny

    settings.LORA_ROOTS, settings.STORE_DIR = [tmp_path / "adapters"], tmp_path / "store"
    settings.BASE_MODELS_DIR, settings.EXPORTS_DIR = tmp_path / "models", tmp_path / "exports"
    settings.SCAN_SETTLE_SECONDS = 0.0
    for name, look in tiny.EXPERTS.items():
        monkeypatch.setitem(tiny.FAMILIES, name, look)
    return tmp_path / "models"


def found(base: Path, settings: Any) -> LoraAdapter:
    """The one adapter, which a scan finds beside a base that the engine has looked at."""
    from inference.engine.tests import tiny

    folder = base.parent.parent / "adapters" / "sea"
    tiny.edit_json(folder / "adapter_config.json", base_model_name_or_path=base.name)
    services.scan(None)
    settings.CHECK_BASES = True
    support.check_waiting()
    settings.CHECK_BASES = False
    services.scan(None)
    return LoraAdapter.objects.get()


def assert_merged(merged: Path, base: Path, adapter: Path) -> None:
    """The folder answers as PEFT does with base and adapter, and every one of its weights is what PEFT's merge makes
    of it, those of a vision tower too, which no text enters."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from inference.engine.tests import tiny

    tokens = tiny.tokenizer()(PROMPT)["input_ids"]
    assert tiny.reference(merged, None, tokens, COUNT) == tiny.reference(base, adapter, tokens, COUNT)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    wanted = PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()
    made, before = (tiny.peft_model(folder, None).state_dict() for folder in (merged, base))
    assert made.keys() == wanted.keys()
    assert [name for name in wanted if not torch.allclose(made[name], wanted[name], atol=1e-5)] == []
    changed = {name for name in made if not torch.equal(made[name], before[name])}
    assert any("vision" in name for name in changed) == any("vision" in name for name in made) and changed


@pytest.mark.parametrize("family", ["qwen2_moe", "mixtral", "gemma3"])
def test_the_merged_model_answers_as_peft_does(family: str, models: Path, settings: Any, operator: Any) -> None:
    from inference.engine.tests import tiny
    from inference.engine.tests.test_names import write_gemma3

    base, folder = models / f"tiny-{family}", models.parent / "adapters" / "sea"
    models.mkdir()
    write_gemma3(base) if family == "gemma3" else tiny.write_base(base, family)
    targets = {
        "qwen2_moe": ["q_proj", "gate_proj", "up_proj", "down_proj"],  # of the shared expert
        "mixtral": ["q_proj", "v_proj", "o_proj"],
        "gemma3": ["q_proj", "down_proj"],  # of the vision tower too
    }[family]
    tiny.write_adapter(folder, base, tiny.AdapterRecipe(targets=targets))
    adapter = services.activate(found(base, settings).pk, None)
    merge = merging.begin(adapter, operator, "base")
    jobs.wait()
    merge = Merge.objects.get(pk=merge.pk)
    assert merge.state == "done", (merge.failure_code, merge.failure_details)
    assert_merged(settings.EXPORTS_DIR / merge.folder, base, folder)


def test_expert_parameters_are_refused_by_name_and_the_advice_holds(models: Path, settings: Any) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from inference.engine.config import EngineConfig
    from inference.engine.model.runner import Runner
    from inference.engine.tests import tiny
    from inference.engine.tests.conftest import Family
    from inference.engine.tests.driver import Driver
    from inference.engine.tests.test_families import run

    base, folder = models / "tiny-mixtral", models.parent / "adapters" / "sea"
    tiny.write_base(base, "mixtral")
    tiny.write_adapter(folder, base, tiny.AdapterRecipe(targets=["q_proj"], extra={"target_parameters": EXPERTS}))
    adapter = found(base, settings)
    assert (adapter.status, adapter.failure_code) == (Status.FAILED, "parameters_unsupported")
    assert sorted(adapter.failure_details["parameters"].split(", ")) == sorted(EXPERTS)  # (PEFT saves a set)

    merged = models / "sea-merged"
    model = AutoModelForCausalLM.from_pretrained(base)
    PeftModel.from_pretrained(model, folder).merge_and_unload().save_pretrained(merged)
    tiny.tokenizer().save_pretrained(merged)
    assert_merged(merged, base, folder)
    driver = Driver(Runner(EngineConfig(device="cpu", max_context=128)))
    tokens = tiny.tokenizer()(PROMPT)["input_ids"]
    answer = run(driver, Family("merged", merged, {}), [("r", None, PROMPT)], COUNT)["r"]
    assert answer == tiny.reference(base, folder, tokens, COUNT)
