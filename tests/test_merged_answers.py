"""A merged model answers, loaded by Transformers alone, as the portal answers with the adapter."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from adapters import jobs, services
from adapters.bases import support
from adapters.exports import merging
from adapters.hooks import BaseSupport
from adapters.models import LoraAdapter, Merge
from inference.engine.tests.conftest import shared_kernels  # noqa: F401  (a fixture)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow, pytest.mark.xdist_group("forks")]
COUNT = 12
PROMPT = "The sea, and ships on it"
# Bases tied and untied, Conv1D, and layers with biases.
BASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}), ("gemma2", {}), ("gpt2", {}), ("qwen2", {"tie_word_embeddings": True}),
]  # fmt: skip
REFUSED = {
    ("llama", "biased"),
    ("gemma2", "biased"),
    ("qwen2", "biased"),
}  # lora_bias: these have no biases that could take it


def look_here(folder: str) -> BaseSupport:
    """The engine's look at a model, in this process, which has its libraries already."""
    from inference.engine.model.base_probe import look_at

    verdict, found = look_at(Path(folder))
    assert verdict["supported"] is True
    return BaseSupport("", found["layers"], found["earlier_names"])


@pytest.mark.parametrize(("family", "changes"), BASES, ids=[name for name, _ in BASES])
def test_greedy_text_is_the_portals(
    family: str, changes: dict[str, Any], tmp_path: Path, settings: Any, operator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from inference.engine.config import EngineConfig
    from inference.engine.model.runner import Runner
    from inference.engine.tests import tiny
    from inference.engine.tests.conftest import Family
    from inference.engine.tests.driver import Driver
    from inference.engine.tests.test_families import run
    from inference.engine.tests.test_own_parts import recipes

    root = tmp_path / "adapters"
    settings.LORA_ROOTS, settings.STORE_DIR, settings.EXPORTS_DIR = [root], tmp_path / "store", tmp_path / "exports"
    settings.BASE_MODELS_DIR, settings.SCAN_SETTLE_SECONDS = tmp_path / "models", 0.0
    base = tiny.write_base(tmp_path / "models" / f"tiny-{family}", family, **changes)
    kinds = {**recipes(family), "plain": tiny.RECIPES["plain"]}
    for name, recipe in kinds.items():
        tiny.write_adapter(root / name, base, recipe)
        tiny.edit_json(root / name / "adapter_config.json", base_model_name_or_path=base.name)
    services.scan(None)
    settings.CHECK_BASES = True
    support.check_waiting()  # the names of the running model
    settings.CHECK_BASES = False
    rows = {row.name: services.activate(row.pk, None) for row in LoraAdapter.objects.all()}
    assert set(rows) == set(kinds)

    driver = Driver(Runner(EngineConfig(device="cpu", max_context=128)), EngineConfig(user_limit=99))
    served = Family(base.name, base, {name: row.store_path for name, row in rows.items()})
    answers = run(driver, served, [(name, name, PROMPT) for name in rows], COUNT)
    tokens = tiny.tokenizer()(PROMPT)["input_ids"]
    told = {}
    for name, row in rows.items():
        if (family, name) in REFUSED:
            with pytest.raises(services.Refused) as caught:
                merging.begin(row, operator, "base")
            assert caught.value.code == "merge_unsupported" and "lora_B.bias" in caught.value.details["tensor"]
            answers.pop(name)
            continue
        merge = merging.begin(row, operator, "base")
        jobs.wait()
        merge = Merge.objects.get(pk=merge.pk)
        assert merge.state == "done", (name, merge.failure_code, merge.failure_details)
        monkeypatch.setattr(merging.hooks, "base_support", look_here)  # the first one was looked at by a child process
        out = settings.EXPORTS_DIR / merge.folder
        told[name] = tiny.reference(out, None, tokens, COUNT)
        # Some families repeat a token whatever the adapter: their logits tell more.
        with torch.no_grad():
            found, wanted, plain = (
                tiny.peft_model(*which)(torch.tensor([tokens])).logits
                for which in ((out, None), (base, root / name), (base, None))
            )
        bound = 1e-4 * wanted.abs().max()
        assert (found - wanted).abs().max() < bound < (found - plain).abs().max(), name
        shutil.rmtree(out)
    assert told == answers
