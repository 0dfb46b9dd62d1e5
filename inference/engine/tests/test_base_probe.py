"""Which structures the engine takes, from config.json alone; `test_families.py` proves that they are exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from inference.engine.model.base_loader import positions
from inference.engine.model.base_probe import probe

from . import tiny


def write(folder: Path, name: str, **options: Any) -> Path:
    AutoConfig.for_model(name, **options).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", sorted(tiny.FAMILIES))
def test_every_family_that_is_proven_passes(name: str, tmp_path: Path) -> None:
    assert probe(write(tmp_path, name, **tiny.FAMILIES[name])) == {"supported": True}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mamba", "attention interface"),
        ("bloom", "attention interface"),
        ("gpt_oss", "s_aux"),
        ("llama4_text", "chunked_attention"),
        ("t5", "not a language model"),
    ],
)
def test_what_cannot_be_exact_is_refused_by_name(name: str, reason: str, tmp_path: Path) -> None:
    verdict = probe(write(tmp_path, name))
    assert verdict["supported"] is False and reason in verdict["reason"]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ('{"model_type": "from_next_year"}', "from_next_year"),
        ('{"model_type": "x", "auto_map": {"AutoConfig": "code.Config"}}', "custom code"),
        ('{"model_type": "llama", "hidden_size": "many"}', ""),
        ("{}", "model_type"),
        ("nonsense", ""),
    ],
)
def test_configurations_that_nobody_knows(config: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "code.py").write_text("raise SystemExit('executed')")
    verdict = probe(tmp_path)
    assert verdict["supported"] is False and reason in verdict["reason"] and str(tmp_path) not in verdict["reason"]


@pytest.mark.parametrize(
    ("config", "context"),
    [
        ({"rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 512}}, 512),
        ({"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 512}, 512),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 4096),
        ({"rope_scaling": {"rope_type": "yarn", "original_max_position_embeddings": 512}}, 4096),
        ({}, 4096),
    ],
)
def test_rotary_embeddings_that_depend_on_the_batch_bound_the_context(
    config: dict[str, Any], context: int, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 4096, **config}))
    assert positions(tmp_path) == context
