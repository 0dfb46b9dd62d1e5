"""Reading one stored adapter into the bank's form.

The registry has compared names, shapes and values with the base's files before; here the same bytes, by their digest,
meet the model's own modules, and whatever is not matched exactly is refused by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import patterns
from inference.engine.content import read_copy
from inference.engine.errors import EngineError
from inference.engine.faults import one_line

from .bank import AdapterFile, AdapterPairs, Kind, Own, Pair

PREFIX = "base_model.model."
REPLACED = ".original_module"  # in the name of a layer that PEFT keeps beside its trained copy
NO_NAMES: Mapping[str, str] = {}
NOTHING: Own = {}
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
# What an adapter's tensors are to a module, by the ends of their names as PEFT 0.21 and its forerunners write them.
NAME = re.compile(
    r"(?P<path>.+?)\.(?:"
    r"lora_(?P<side>[AB])(?:\.default)?\.weight|"
    r"(?P<magnitude>lora_magnitude_vector(?:\.default)?(?:\.weight)?)|"
    r"(?P<pair_bias>lora_B(?:\.default)?\.bias)|"
    r"lora_embedding_(?P<embedding>[AB])(?:\.default)?|"
    r"(?P<tokens>token_adapter\.trainable_tokens_delta(?:\.default)?)|"
    r"(?:(?:(?:token_adapter\.)?base_layer|original_module|modules_to_save(?:\.default)?)\.)?(?P<whole>weight|bias)"
    r")$"
)


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
    folder: Path, digest: str, name: str, kinds: dict[str, Kind], places: Mapping[str, tuple[str, int, int]],
    limit: int, idle: frozenset[str] = frozenset(), earlier_names: Mapping[str, str] = NO_NAMES,
    others: Collection[str] = frozenset(),
) -> AdapterFile:  # fmt: skip
    """Read `adapter_config.json` and `adapter_model.safetensors`, of at most `limit` bytes, as `digest` names them.
    Matrices of `idle` modules, which no text enters, are left out; `earlier_names`: other names that modules may have;
    `others`: modules that are no linear layers and of which an adapter may have its own.

    Raises EngineError `store_damaged`, `out_of_memory`, `adapter_load_failed` or `adapter_incompatible`. Touches no
    shared state, so that it can run beside the engine's steps.
    """
    said, weights = read_copy(folder, digest, name, limit)
    try:
        config = json.loads(said)
        pairs, own = collect(weights, places, idle, earlier_names, others)
    except (ValueError, TypeError, LookupError, RuntimeError) as error:
        message = f"The stored adapter cannot be read: {error}"
        raise EngineError("adapter_load_failed", message, name=name, reason=one_line(error)) from error
    made = assemble(pairs, config, digest, name, kinds, places, own)
    made.own, made.config = own, config
    embedded = [path for path, roles in own.items() if "embedding_A" in roles]
    for path, alpha in zip(embedded, alphas(config, embedded, name), strict=True):
        made.scales[path] = scaling(config, alpha, max(1, len(own[path]["embedding_A"])))
    return made


Pairs = dict[str, dict[str, torch.Tensor]]  # module path -> {"A": (r, in), "B": (out, r)}


def collect(
    weights: memoryview, places: Mapping[str, tuple[str, int, int]], idle: frozenset[str] = frozenset(),
    earlier_names: Mapping[str, str] = NO_NAMES, others: Collection[str] = frozenset(),
) -> tuple[Pairs, Own]:  # fmt: skip
    """The file's tensors where they lie in `weights`: LoRA's pairs, and what the adapter has beside them."""
    pairs: Pairs = {}
    own: Own = {}
    unknown = []
    tensors = views(weights)
    for key, tensor in tensors.items():
        match = NAME.match(key.removeprefix(PREFIX))
        path = match["path"] if match is not None else ""
        if path not in places and path not in idle and path not in others:
            path = earlier_names.get(path, path)
        if path in idle:
            continue
        side, role = (match["side"], role_of(match)) if match is not None else (None, "")
        into, word = (pairs, side) if side else (own, role)
        known = path in places or (path in others and not side)
        before = into.get(path, {}).get(word)
        if REPLACED in key and key.replace(REPLACED, "") in tensors:
            continue  # resized, and trained as a copy, which takes its place
        if word in ("weight", "bias") and before is not None and torch.equal(before, tensor):
            continue  # the same copy under its other name
        if not word or not known or word in into.get(path, {}):
            unknown.append(key)
            continue
        into.setdefault(path, {})[word] = tensor
    if unknown:
        raise EngineError(
            "adapter_incompatible",
            f"{len(unknown)} of its tensors have no place in this base, the first is {unknown[0]}.",
            tensor=unknown[0], count=len(unknown),
        )  # fmt: skip
    if not pairs and not own:
        raise EngineError("adapter_incompatible", "The adapter holds no LoRA matrices.", tensor="", count=0)
    return pairs, own


def role_of(match: re.Match[str]) -> str:
    """What a tensor beside LoRA's pairs is to its module; "" for one of a pair."""
    for role in ("magnitude", "pair_bias", "tokens"):
        if match[role]:
            return role
    if match["embedding"]:
        return f"embedding_{match['embedding']}"
    return match["whole"] or ""


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
    places: Mapping[str, tuple[str, int, int]], own: Mapping[str, Mapping[str, torch.Tensor]] = NOTHING,
) -> AdapterFile:  # fmt: skip
    """Check every pair against its place in the model and sort them by kind. One on a layer that the adapter has `own`
    weights for has to fit those, which whoever takes them over sees to (`own_parts.py`)."""
    made: dict[str, list[Pair]] = {}
    for (path, pair), alpha in zip(pairs.items(), alphas(config, list(pairs), name), strict=True):
        if set(pair) != {"A", "B"}:
            raise EngineError("adapter_incompatible", f"{path} has only one of its two matrices.", tensor=path, count=1)
        kind, layer, index = places[path]
        a, b = pair["A"], pair["B"]
        whole = own.get(path, {}).get("weight")
        if (
            a.ndim != 2
            or b.ndim != 2
            or a.shape != (b.shape[1], kinds[kind].inputs)
            or (whole is None and b.shape[0] != kinds[kind].outs[index])
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
    top_rank = max((max(found.ranks) for found in sorted_pairs.values()), default=0)
    return AdapterFile(digest, name, top_rank, sorted_pairs)
