"""Make adapters that must not be activated, each with one fault, from a good one."""

from __future__ import annotations

import json
import random
from array import array
from pathlib import Path

from demo.safetensors_file import Tensor, pack, read

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
CARD = "README.md"
Files = dict[str, bytes]

# Qwen2.5-0.5B-Instruct: 24 layers, hidden size 896, two key-value heads of 64.
OTHER_BASE = "Qwen/Qwen2.5-0.5B-Instruct"
OTHER_LAYERS = 24
OTHER_HIDDEN = 896
OTHER_OUTPUTS = {"q_proj": 896, "v_proj": 128}
OTHER_RANK = 4


def truncated(good: Path) -> Files:
    """Weights cut off after three fifths, as an interrupted copy leaves them."""
    weights = (good / WEIGHTS).read_bytes()
    return {CONFIG: (good / CONFIG).read_bytes(), WEIGHTS: weights[: len(weights) * 3 // 5]}


def no_weights(good: Path) -> Files:
    """A configuration and no weights."""
    return {CONFIG: (good / CONFIG).read_bytes(), CARD: (good / CARD).read_bytes()}


def zero_b(good: Path) -> Files:
    """Every lora_B is zero, as before the first training step: the adapter changes nothing."""
    tensors = {
        name: Tensor(tensor.dtype, tensor.shape, bytes(len(tensor.data))) if ".lora_B." in name else tensor
        for name, tensor in read(good / WEIGHTS).items()
    }
    return {CONFIG: (good / CONFIG).read_bytes(), WEIGHTS: pack(tensors)}


def other_base(good: Path) -> Files:
    """A sound adapter of another base model: right in itself, wrong for this one."""
    config = json.loads((good / CONFIG).read_text())
    config |= {
        "base_model_name_or_path": OTHER_BASE,
        "r": OTHER_RANK,
        "lora_alpha": 2 * OTHER_RANK,
        "target_modules": sorted(OTHER_OUTPUTS),
        "layers_to_transform": None,
        "layers_pattern": None,
        "use_rslora": False,
    }
    # A fixed seed: the same bytes at every installation.
    source = random.Random(20251120)  # noqa: S311

    def tensor(rows: int, columns: int) -> Tensor:
        values = array("f", (source.uniform(-0.02, 0.02) for _ in range(rows * columns)))
        return Tensor("F32", (rows, columns), values.tobytes())

    tensors: dict[str, Tensor] = {}
    for layer in range(OTHER_LAYERS):
        for module, outputs in OTHER_OUTPUTS.items():
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{prefix}.lora_A.weight"] = tensor(OTHER_RANK, OTHER_HIDDEN)
            tensors[f"{prefix}.lora_B.weight"] = tensor(outputs, OTHER_RANK)
    return {CONFIG: json.dumps(config, indent=2).encode(), WEIGHTS: pack(tensors)}


def still_writing(good: Path) -> Files:
    """A checkpoint in the middle of a save: PEFT writes the card, then the weights, then the config."""
    weights = (good / WEIGHTS).read_bytes()
    return {
        f"checkpoint-60/{CARD}": (good / CARD).read_bytes(),
        f"checkpoint-60/{WEIGHTS}": weights[: len(weights) // 3],
    }


def broken_adapters(good: Path) -> dict[str, Files]:
    """Return folder name → files for all broken adapters, derived from the good adapter folder ``good``."""
    return {
        "broken-truncated": truncated(good),
        "broken-other-base": other_base(good),
        "broken-no-weights": no_weights(good),
        "broken-zero-b": zero_b(good),
        "broken-still-writing": still_writing(good),
    }
