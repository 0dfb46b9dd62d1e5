"""The same answers as the installed PEFT's own functions."""

from __future__ import annotations

from typing import Any

import pytest

import patterns
from adapters.formats import config as adapter_config
from adapters.tests import layouts
from adapters.validation.targets import targeted
from patterns.tests.test_meaning import NAMES

CONFIGS: list[dict[str, Any]] = [
    {"target_modules": r".*\.(q_proj|v_proj)"},
    {"target_modules": r"^(?!.*vision).*self_attn\.(?:q_proj|v_proj)$"},
    {"target_modules": r"model\.layers\.\d+\..*", "exclude_modules": r".*\.mlp\..*"},
    {"target_modules": r".*_proj", "exclude_modules": ["o_proj", "model.layers.0.mlp.up_proj"]},
    {"target_modules": ["q_proj"], "layers_to_transform": [0, 10]},
    {"target_modules": ["q_proj", "w1", "gate_proj"], "layers_to_transform": [0, 3]},
    {"target_modules": ["q_proj", "c_attn"], "layers_to_transform": [0, 5], "layers_pattern": "layers"},
    {"target_modules": ["q_proj", "c_attn"], "layers_to_transform": [3, 31], "layers_pattern": ["h", "layers"]},
    {"target_modules": ["q_proj", "w1"], "layers_to_transform": [3], "layers_pattern": ["experts", "layers"]},
    {"target_modules": ["q_proj", "qkv"], "layers_to_transform": [0], "layers_pattern": ["layers|blocks"]},
    {"target_modules": ["model.layers.5", "lm_head", "q_proj"], "layers_to_transform": [2]},
    {"target_modules": "(?:.{1,16}){1,2}j"},
]


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_targets(changes: dict[str, Any]) -> None:
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    theirs = LoraConfig(**changes)  # type: ignore[arg-type]
    expected = {name for name in NAMES if check_target_module_exists(theirs, name)}
    assert targeted(adapter_config.check(layouts.config(**changes)), NAMES) == expected


@pytest.mark.parametrize(
    "keys",
    [
        ["q_proj", "layers.0"],
        ["layers.1.self_attn.q_proj", "self_attn", r"mlp\..*"],
        ["o_proj|v_proj", "up_proj"],
        [r".*\.(?:0|1)\..*", "(?<=k_)proj"],
        ["a)|(lm_head"],
    ],
    ids=str,
)
def test_keys(keys: list[str]) -> None:
    from peft.utils.other import get_pattern_key

    found = [
        keys[index] if index >= 0 else name for index, name in zip(patterns.endings(keys, NAMES), NAMES, strict=True)
    ]
    assert found == [get_pattern_key(keys, name) for name in NAMES]
