"""What a saved blend consists of, read from its members' configs and headers; no tensor is read here.

Written are A and B in fp32, B with scalings and weights in it, so that alpha equals the rank everywhere.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import patterns
from adapters.formats.config import LIMIT, MAX_RANK
from adapters.formats.files import parse_json, read_small
from adapters.formats.safetensors import ENDS, PARTS, A, B, Header, Tensor, read_header
from adapters.models import LoraAdapter
from adapters.training.layout import CONFIG

from . import refusals

PREFIX = "base_model.model."
EMBEDDING_A, EMBEDDING_B = ".lora_embedding_A", ".lora_embedding_B"
FLOAT = 4  # bytes of a number that is written
CARRIED = ("target_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out")


@dataclass(frozen=True)
class Member:
    """An active adapter with its weight, and its stored copy's open weights."""

    adapter: LoraAdapter
    weight: float
    folder: Path
    file: BinaryIO

    def config(self) -> dict[str, Any]:
        """Raises Refused."""
        root = os.path.realpath(self.folder.parent)
        found = parse_json(read_small((root,), os.path.join(root, self.folder.name), CONFIG, LIMIT), CONFIG)
        return found if isinstance(found, dict) else {}

    def header(self) -> Header:
        """Raises Refused."""
        self.file.seek(0)
        return read_header(self.file, os.fstat(self.file.fileno()).st_size)


@dataclass(frozen=True)
class Source:
    """One member's pair of a module: where its tensors lie in file number `file`, and the factor of B·A."""

    file: int
    a: tuple[int, str]  # offset in the file, type
    b: tuple[int, str]
    rank: int
    factor: float


@dataclass
class Module:
    """`inputs`, `outputs`: A is (rank, inputs), B is (outputs, rank); `rank`: that is written."""

    path: str
    embedding: bool
    inputs: int
    outputs: int
    sources: list[Source] = field(default_factory=list)
    rank: int = 0

    @property
    def names(self) -> tuple[str, str]:
        ends = (EMBEDDING_A, EMBEDDING_B) if self.embedding else (A, B)
        return PREFIX + self.path + ends[0], PREFIX + self.path + ends[1]

    @property
    def total(self) -> int:
        return sum(source.rank for source in self.sources)


@dataclass(frozen=True)
class Plan:
    """`head`: the beginning of the safetensors file, with the places of all tensors; `size`: of the whole file."""

    modules: list[Module]
    config: dict[str, Any]
    head: bytes
    size: int
    rank: int


def plan(members: Sequence[Member], rank: int | None) -> Plan:
    """`rank`: that each layer is reduced to; None: their ranks side by side. Raises ApiError, Refused."""
    configs = [member.config() for member in members]
    modules: dict[str, Module] = {}
    paths: list[frozenset[str]] = []
    for number, (member, config) in enumerate(zip(members, configs, strict=True)):
        paths.append(_add(modules, number, member, config))
    for module in modules.values():
        most = min(module.total, module.inputs, module.outputs)
        module.rank = module.total if rank is None else min(rank, most)
    top = max(module.rank for module in modules.values())
    if top > MAX_RANK:
        raise refusals.rank_exceeded(top, MAX_RANK)
    ordered = list(modules.values())
    head, size = _head(ordered)
    return Plan(ordered, _config(ordered, configs, all(found == paths[0] for found in paths)), head, size, top)


def _add(modules: dict[str, Module], number: int, member: Member, config: dict[str, Any]) -> frozenset[str]:
    """Note a member's pairs; returns the paths of its modules. Raises ApiError, Refused."""
    header, name = member.header(), member.adapter.name
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in header.tensors.items():
        end = next((end for end in ENDS if key.endswith(end)), "")
        role = PARTS.get(end, "bias" if key.endswith(".bias") else "modules_to_save")
        if role in NOT_LINEAR:
            raise refusals.not_linear(name, NOT_LINEAR[role])
        pairs.setdefault(key.removesuffix(end).removeprefix(PREFIX), {})[role] = tensor
    if config.get("use_dora") or config.get("lora_bias"):
        raise refusals.not_linear(name, "DoRA" if config.get("use_dora") else "lora_bias")
    for (path, pair), alpha in zip(pairs.items(), _alphas(config, list(pairs), name), strict=True):
        embedding = "embedding_A" in pair
        a, b = (pair.get("embedding_A"), pair.get("embedding_B")) if embedding else (pair.get("A"), pair.get("B"))
        if a is None or b is None or len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
            raise refusals.damaged(name)
        rank, inputs, outputs = a.shape[0], a.shape[1], b.shape[0]
        module = modules.setdefault(path, Module(path, embedding, inputs, outputs))
        if (module.embedding, module.inputs, module.outputs) != (embedding, inputs, outputs):
            raise refusals.damaged(name)
        scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        places = [(header.data_start + tensor.start, tensor.dtype) for tensor in (a, b)]
        module.sources.append(Source(number, places[0], places[1], rank, scaling * member.weight))
    return frozenset(pairs)


# Roles of tensors that no weight scales, by what people know them as.
NOT_LINEAR = {
    "magnitude": "DoRA", "pair_bias": "lora_bias", "bias": "bias", "tokens": "trainable_token_indices",
    "modules_to_save": "modules_to_save",
}  # fmt: skip


def _alphas(config: dict[str, Any], paths: list[str], name: str) -> list[float]:
    """By PEFT's rule, as the engine has it (`inference/engine/lora/adapter_file.py`): the first key of `alpha_pattern`
    that matches the path's end decides."""
    table = config.get("alpha_pattern") or {}
    try:
        indices = patterns.endings(list(table), paths)
    except (patterns.InvalidPatternError, patterns.SlowPatternError, OSError):
        raise refusals.damaged(name) from None
    values = list(table.values())
    return [float(values[index] if index >= 0 else config.get("lora_alpha", 8)) for index in indices]


def _head(modules: Sequence[Module]) -> tuple[bytes, int]:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for module in modules:
        shapes = ((module.rank, module.inputs), (module.outputs, module.rank))
        for name, shape in zip(module.names, shapes, strict=True):
            end = position + FLOAT * shape[0] * shape[1]
            entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [position, end]}
            position = end
    raw = json.dumps(entries, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw, 8 + len(raw) + position


def _config(modules: Sequence[Module], configs: Sequence[dict[str, Any]], same_modules: bool) -> dict[str, Any]:
    """For PEFT: alpha is the rank, of every module, since B has all factors in it."""
    rank = Counter(module.rank for module in modules).most_common(1)[0][0]
    others = {_pattern(module.path): module.rank for module in modules if module.rank != rank}
    carried = {key: configs[0][key] for key in CARRIED if configs[0].get(key) is not None}
    if not same_modules or any(config.get(key) != configs[0].get(key) for config in configs for key in CARRIED[:3]):
        carried = {"fan_in_fan_out": bool(configs[0].get("fan_in_fan_out"))}
        carried["target_modules"] = [module.path for module in modules]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": configs[0].get("base_model_name_or_path"),
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "use_rslora": False,
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
        **carried,
    }


def _pattern(path: str) -> str:
    return path.replace(".", r"\.")
