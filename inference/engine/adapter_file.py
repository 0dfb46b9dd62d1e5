"""Reading one stored adapter into the bank's form.

The registry has compared names, shapes and values with the base's files before; here the same file meets the
model's own modules, and whatever is not matched exactly is refused by name.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .errors import EngineError
from .lora import AdapterRows, AdapterWeights, Kind

PREFIX = "base_model.model."
NAME = re.compile(r"(?P<path>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight$")


def scaling(config: dict[str, Any], path: str, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) with rsLoRA (Kalajdzievski 2023), with PEFT's alpha pattern for a module."""
    alpha = pattern_value(config.get("alpha_pattern") or {}, path, config.get("lora_alpha", 8))
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def pattern_value(pattern: dict[str, Any], path: str, default: Any) -> Any:
    """PEFT's rule: the first key that matches the end of the module path, as a regular expression, decides."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", path):
            return value
    return default


def read(
    folder: Path, digest: str, name: str, kinds: dict[str, Kind], places: dict[str, tuple[str, int, int]]
) -> AdapterWeights:
    """Read `adapter_config.json` and `adapter_model.safetensors`; tensors are fp32 on the CPU.

    Raises EngineError `adapter_load_failed`, `adapter_incompatible` or `weights_nonfinite`. Touches no shared state, so
    that it can run beside the engine's steps.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        pairs = collect(folder / "adapter_model.safetensors", places)
    except (OSError, ValueError, SafetensorError) as error:
        raise EngineError("adapter_load_failed", f"The stored adapter cannot be read: {error}", name=name) from error
    return assemble(pairs, config, digest, name, kinds, places)


Pairs = dict[str, dict[str, torch.Tensor]]  # module path -> {"A": (r, in), "B": (out, r)}


def collect(file: Path, places: dict[str, tuple[str, int, int]]) -> Pairs:
    pairs: Pairs = {}
    unknown = []
    with safe_open(str(file), framework="pt") as tensors:
        for key in tensors.keys():  # noqa: SIM118  (not a dict)
            match = NAME.match(key.removeprefix(PREFIX))
            if match is None or match["path"] not in places:
                unknown.append(key)
                continue
            pairs.setdefault(match["path"], {})[match["side"]] = tensors.get_tensor(key)
    if unknown:
        raise EngineError(
            "adapter_incompatible",
            f"{len(unknown)} of its tensors have no place in this base, the first is {unknown[0]}.",
            tensor=unknown[0], count=len(unknown),
        )  # fmt: skip
    if not pairs:
        raise EngineError("adapter_incompatible", "The adapter holds no LoRA matrices.", tensor="", count=0)
    return pairs


def assemble(
    pairs: Pairs, config: dict[str, Any], digest: str, name: str, kinds: dict[str, Kind],
    places: dict[str, tuple[str, int, int]],
) -> AdapterWeights:  # fmt: skip
    """Check every pair against its place in the model and stack them by kind."""
    plan: dict[str, dict[int, list[tuple[int, str]]]] = {}
    for path, pair in pairs.items():
        if set(pair) != {"A", "B"}:
            raise EngineError("adapter_incompatible", f"{path} has only one of its two matrices.", tensor=path, count=1)
        kind, layer, index = places[path]
        a, b = pair["A"], pair["B"]
        if (
            a.ndim != 2
            or b.ndim != 2
            or a.shape != (b.shape[1], kinds[kind].inputs)
            or (b.shape[0] != kinds[kind].outs[index])
        ):
            raise EngineError("adapter_incompatible", f"{path} has other shapes than the base.", tensor=path, count=1)
        plan.setdefault(kind, {}).setdefault(layer, []).append((index, path))
    made: dict[str, AdapterRows] = {}
    top_rank = 0
    for key, layers in plan.items():
        made[key] = stack(kinds[key], layers, pairs, config)
        top_rank = max(top_rank, *made[key].ranks)
    return AdapterWeights(digest, name, top_rank, made)


def finite(tensor: torch.Tensor) -> bool:
    """Whether all values are finite numbers. One that is not makes the sum so, which a tenth of the time finds; a sum
    of finite numbers may still overflow, so only then every value is looked at."""
    return math.isfinite(float(tensor.sum())) or bool(torch.isfinite(tensor).all())


def stack(
    kind: Kind, layers: dict[int, list[tuple[int, str]]], pairs: Pairs, config: dict[str, Any]
) -> AdapterRows:  # fmt: skip
    """One kind's matrices over all layers; `layers` lists (member, module path) by layer."""
    ranks = [0] * len(kind.outs)
    for members in layers.values():
        for index, path in members:
            ranks[index] = max(ranks[index], pairs[path]["A"].shape[0])
    starts = [sum(ranks[:index]) for index in range(len(ranks))]
    a_all = torch.zeros(kind.layers, sum(ranks), kind.inputs)
    b_all = [torch.zeros(kind.layers, rank, out) for rank, out in zip(ranks, kind.outs, strict=True)]
    for layer, members in layers.items():
        for index, path in members:
            a, b = pairs[path]["A"], pairs[path]["B"]
            rank = a.shape[0]
            a_all[layer, starts[index] : starts[index] + rank] = a
            b_all[index][layer, :rank] = b.float().t() * scaling(config, path, rank)
    if not all(finite(tensor) for tensor in (a_all, *b_all)):
        raise EngineError("weights_nonfinite", "The adapter holds values that are not finite numbers.")
    return AdapterRows(tuple(ranks), a_all, b_all)
