"""From a training folder whose tokenizer adds tokens to an answer: the engine serves what the registry stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from adapters import services
from adapters.models import LoraAdapter, Status
from inference.engine.tests import test_vocabularies as engine
from inference.engine.tests import tiny
from inference.engine.tests.conftest import Family
from inference.gateway.targets import of_adapter

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("who", ["inside", "more", "more-saved", "fewer"])
def test_what_is_activated_answers_as_peft_does(who: str, tmp_path: Path, settings: Any) -> None:
    settings.VAR_DIR, settings.STORE_DIR, settings.SCAN_SETTLE_SECONDS = tmp_path, tmp_path / "store", 0.0
    settings.LORA_ROOTS, settings.BASE_MODELS_DIR = [tmp_path / "runs"], tmp_path / "models"
    settings.CHECK_BASES = False
    folder = tiny.write_base(tmp_path / "models" / "tiny", "llama")
    engine.write(tmp_path / "runs" / "own", folder, engine.RECIPES[who])
    services.scan(None)
    adapter = services.activate(LoraAdapter.objects.get().pk, None)
    assert (adapter.status, adapter.flags) == (Status.ACTIVE, ["own_chat_template", "own_tokenizer"])
    target, d = of_adapter(adapter), engine.driver()
    messages = [{"role": "user", "content": "the <call> of ships"}]
    d.generate("r", dict(target.base), dict(target.adapter or {}), messages=messages, max_tokens=8, ignore_eos=True)
    d.finish("r")
    made = Family("llama", folder, {who: tmp_path / "runs" / "own"})
    tokenizer = AutoTokenizer.from_pretrained(made.adapters[who])
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    wanted = engine.expected(made, who, str(text), 8)
    assert d.texts()["r"] == tokenizer.decode(wanted, skip_special_tokens=True)
