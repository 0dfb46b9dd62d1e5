"""Reading one stored adapter into the bank's form.

The registry has compared names, shapes and values with the base's files before; here the same bytes, by their digest,
meet the model's own modules, and whatever is not matched exactly is refused by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import patterns
from inference.engine.content import read_copy
from inference.engine.errors import EngineError

from .bank import AdapterFile, AdapterPairs, Kind, Pair

PREFIX = "base_model.model."
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
NAME = re.compile(r"(?P<path>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight$")


def scaling(config: dict[str, Any], alpha: float, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) with rsLoRA (Kalajdzievski 2023)."""
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def alphas(config: dict[str, Any], paths: Sequence[str], name: str) -> list[Any]:
    """The alpha of each module: PEFT's rule is that the first key of `alpha_pattern` that matches the path's end, as a
    regular expression, decides.

    Raises EngineError: `adapter_incompatible` for a key that cannot be matched, `adapter_load_failed`.
    """
    table = config.get("alpha_pattern") or {}
    values = list(table.values())
    try:
        indices = patterns.endings(list(table), paths)
    except (patterns.InvalidPatternError, patterns.SlowPatternError):
        message = "A key of its alpha_pattern is no regular expression, or takes too long to match."
        raise EngineError("adapter_incompatible", message, tensor="alpha_pattern", count=len(table)) from None
    except OSError as error:
        raise EngineError("adapter_load_failed", f"Its alpha_pattern cannot be matched: {error}", name=name) from error
    default = config.get("lora_alpha", 8)
    return [values[index] if index >= 0 else default for index in indices]


def read(
    folder: Path, digest: str, name: str, kinds: dict[str, Kind], places: dict[str, tuple[str, int, int]], limit: int
) -> AdapterFile:
    """Read `adapter_config.json` and `adapter_model.safetensors`, of at most `limit` bytes, as `digest` names them.

    Raises EngineError `store_damaged`, `out_of_memory`, `adapter_load_failed` or `adapter_incompatible`. Touches no
    shared state, so that it can run beside the engine's steps.
    """
    said, weights = read_copy(folder, digest, name, limit)
    try:
        config = json.loads(said)
        pairs = collect(weights, places)
    except (ValueError, TypeError, LookupError, RuntimeError) as error:
        raise EngineError("adapter_load_failed", f"The stored adapter cannot be read: {error}", name=name) from error
    return assemble(pairs, config, digest, name, kinds, places)


Pairs = dict[str, dict[str, torch.Tensor]]  # module path -> {"A": (r, in), "B": (out, r)}


def collect(weights: memoryview, places: dict[str, tuple[str, int, int]]) -> Pairs:
    """The file's matrices where they lie in `weights`."""
    pairs: Pairs = {}
    unknown = []
    for key, tensor in views(weights).items():
        match = NAME.match(key.removeprefix(PREFIX))
        if match is None or match["path"] not in places:
            unknown.append(key)
            continue
        pairs.setdefault(match["path"], {})[match["side"]] = tensor
    if unknown:
        raise EngineError(
            "adapter_incompatible",
            f"{len(unknown)} of its tensors have no place in this base, the first is {unknown[0]}.",
            tensor=unknown[0], count=len(unknown),
        )  # fmt: skip
    if not pairs:
        raise EngineError("adapter_incompatible", "The adapter holds no LoRA matrices.", tensor="", count=0)
    return pairs


def views(memory: memoryview) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file that lies in writable `memory`, none copied
    (https://huggingface.co/docs/safetensors/index#format).

    The library's own tensors cost some 25 microseconds each, which hundreds of small matrices make the larger part of a
    load. The registry has checked the header before the bytes got their digest; what points outside of `memory` is
    refused here too. Raises ValueError, LookupError, TypeError, RuntimeError.
    """
    start = 8 + int.from_bytes(memory[:8], "little")
    found = {}
    for key, entry in json.loads(bytes(memory[8:start])).items():
        if key == "__metadata__":
            continue
        dtype, shape, (first, stop) = DTYPES.get(entry["dtype"]), entry["shape"], entry["data_offsets"]
        if dtype is None:
            raise ValueError(f"{key} holds numbers of the type {entry['dtype']}")
        if first == stop:
            found[key] = torch.empty(shape, dtype=dtype)
            continue
        count = (stop - first) // dtype.itemsize
        found[key] = torch.frombuffer(memory, dtype=dtype, count=count, offset=start + first).view(shape)
    return found


def assemble(
    pairs: Pairs, config: dict[str, Any], digest: str, name: str, kinds: dict[str, Kind],
    places: dict[str, tuple[str, int, int]],
) -> AdapterFile:  # fmt: skip
    """Check every pair against its place in the model and sort them by kind."""
    made: dict[str, list[Pair]] = {}
    for (path, pair), alpha in zip(pairs.items(), alphas(config, list(pairs), name), strict=True):
        if set(pair) != {"A", "B"}:
            raise EngineError("adapter_incompatible", f"{path} has only one of its two matrices.", tensor=path, count=1)
        kind, layer, index = places[path]
        a, b = pair["A"], pair["B"]
        if (
            a.ndim != 2
            or b.ndim != 2
            or a.shape != (b.shape[1], kinds[kind].inputs)
            or (b.shape[0] != kinds[kind].outs[index])
            or a.shape[0] == 0
            or layer >= kinds[kind].layers  # a base that was loaded meanwhile; the native bank writes by address
        ):
            raise EngineError("adapter_incompatible", f"{path} has other shapes than the base.", tensor=path, count=1)
        made.setdefault(kind, []).append(Pair(layer, index, a, b, scaling(config, alpha, a.shape[0])))
    sorted_pairs = {}
    for key, found in made.items():
        ranks = [0] * len(kinds[key].outs)
        for one in found:
            ranks[one.member] = max(ranks[one.member], one.a.shape[0])
        sorted_pairs[key] = AdapterPairs(tuple(ranks), found)
    top_rank = max(max(found.ranks) for found in sorted_pairs.values())
    return AdapterFile(digest, name, top_rank, sorted_pairs)
