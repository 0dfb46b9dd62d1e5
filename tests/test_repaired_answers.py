"""What a repaired adapter answers is what PEFT answers from the same adapter under its proper names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapters import services
from adapters.models import LoraAdapter
from adapters.tests import foreign
from adapters.tests import layouts as make
from inference.engine.tests.conftest import shared_kernels  # noqa: F401  (a fixture)

pytestmark = pytest.mark.django_db
HIDDEN, LAYERS = 64, 3  # of inference/engine/tests/tiny.py
NEAR = {"whole"}  # holds layers of another base: adapters/tests/test_repairs.py


def tensors(**look: Any) -> make.Tensors:
    return make.lora_tensors(hidden=HIDDEN, layers=LAYERS, **look)


def test_every_repaired_adapter_answers_as_peft_does(tmp_path: Path, settings: Any) -> None:
    from inference.engine.config import EngineConfig
    from inference.engine.model.runner import Runner
    from inference.engine.tests import tiny
    from inference.engine.tests.conftest import Family
    from inference.engine.tests.driver import Driver
    from inference.engine.tests.test_families import COUNT, PROMPTS, run

    root, proper = tmp_path / "adapters", tmp_path / "proper"
    settings.LORA_ROOTS, settings.STORE_DIR = [root], tmp_path / "store"
    settings.BASE_MODELS_DIR, settings.SCAN_SETTLE_SECONDS = tmp_path / "models", 0.0
    base = tiny.write_base(tmp_path / "models" / "tiny-llama", "llama")
    every, shared = tensors(targets=tuple(make.OUT)), foreign.shared(write=tensors)
    for name, made in (("every", every), ("shared", shared)):
        make.adapter(proper / name, made, **looks(made))
    cases = {name: write for name, (write, _) in foreign.CASES.items() if name not in NEAR}
    for name, write in cases.items():
        made = shared if name in foreign.SHARED else every
        (root / name).mkdir(parents=True)
        write(root / name, made, make.config(**looks(made)))
    services.scan(None)
    rows = {row.name: services.repair(row.pk, None) for row in LoraAdapter.objects.all()}
    assert set(rows) == set(cases)

    driver = Driver(Runner(EngineConfig(device="cpu", max_context=128)), EngineConfig(user_limit=99))
    family = Family("tiny-llama", base, {name: row.store_path for name, row in rows.items()})
    answers = run(driver, family, [(name, name, PROMPTS[1]) for name in rows])  # in one batch
    tokens = tiny.tokenizer()(PROMPTS[1])["input_ids"]
    expected = {name: tiny.reference(base, proper / name, tokens, COUNT) for name in ("every", "shared")}
    plain = tiny.reference(base, None, tokens, COUNT)
    assert len({tuple(plain), *map(tuple, expected.values())}) == 3  # they tell adapters apart
    assert answers == {name: expected["shared" if name in foreign.SHARED else "every"] for name in rows}


def looks(made: make.Tensors) -> dict[str, Any]:
    targets = sorted({name.split(".")[-3] for name in made})
    return {"base_model_name_or_path": "tiny-llama", "target_modules": targets, "lora_alpha": 64}
