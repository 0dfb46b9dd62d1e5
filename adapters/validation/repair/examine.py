"""Looking at a refused adapter: is there exactly one way to read its files as a PEFT LoRA of its base model?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.utils.translation import gettext_noop

from adapters.bases.identity import base_root
from adapters.bases.shapes import BaseShapes
from adapters.failures import Refused
from adapters.formats import mlx
from adapters.formats.config import LIMIT, AdapterConfig, check
from adapters.formats.files import parse_json, read_small
from adapters.formats.safetensors import Header
from adapters.models import BaseModel
from adapters.training.layout import SHARD
from adapters.validation.targets import by_pattern, targeted

from . import dialects, places
from .dialects import Heads, Target
from .keys import Key, only_adapter, parse
from .plan import PREFIX, Made, Plan, settings_changes

# What PEFT calls the layers of the base that it wraps; in the file where a model was saved whole, with its adapter.
BASES_OWN = (".base_layer", ".original_module")
MEGATRON_FIELDS = ("megatron_config", "megatron_core")
Read = list[tuple[Key, list[Target]]]


@dataclass(frozen=True)
class Part:
    """One weights file of a folder. `header` as it is in the file."""

    name: str
    header: Header


def examine(raw: Any, parts: Sequence[Part], base: BaseModel, shapes: BaseShapes) -> Plan | None:
    """The plan of the repair; None where none is known, or nothing has to be repaired.

    Raises Refused: repair_ambiguous where two ways fit, weights_malformed where a tensor lies in two files, and what
    stands against the adapter that the files hold (of `formats.mlx` and `formats.config`).
    """
    if not isinstance(raw, dict):
        return None
    where = _where(parts)
    every = [parse(name) for name in where]
    keys = [key for key in every if not key.stem.endswith(BASES_OWN)]
    adapter = only_adapter(keys)
    heads = heads_of(base)
    is_mlx = mlx.is_config(raw)
    for code, reader in dialects.MLX if is_mlx else dialects.DIALECTS:
        read = reader(keys, heads)
        made = _place(read, where, shapes) if read is not None else None
        if read is None or made is None:
            continue
        kinds = _kinds(code, keys, adapter, made, parts)
        dropped = tuple(sorted(key.source for key in every if key.stem.endswith(BASES_OWN)))
        kinds += ("keys_of_base",) if dropped else ()
        if not kinds:
            return None
        config = _config(raw, made, read, shapes, is_mlx, code)
        # The order of the data says nothing; that of the names makes the same copy of the same tensors.
        tensors = tuple(sorted(made, key=lambda one: one.name))
        said = json.dumps(config, indent=2, sort_keys=True).encode()
        joined = tuple(part.name for part in parts) if len(parts) > 1 else ()
        return Plan(kinds, said + b"\n", tensors, joined, dropped, tuple(settings_changes(raw, config)))
    return None


def _where(parts: Sequence[Part]) -> dict[str, tuple[int, Header]]:
    """Name of each tensor -> (number of its file, that file's header)."""
    found: dict[str, tuple[int, Header]] = {}
    for number, part in enumerate(parts):
        for name in part.header.tensors:
            if name in found:
                reason = gettext_noop("%(tensor)s is in more than one file")
                raise Refused("weights_malformed", reason=reason, tensor=name)
            found[name] = (number, part.header)
    return found


def _place(read: Read, where: dict[str, tuple[int, Header]], shapes: BaseShapes) -> list[Made] | None:
    """The tensors of the repaired file; None where they do not all fit the base."""
    drafts: list[tuple[str, str, Made]] = []
    sizes: dict[str, list[int | None]] = {}
    others: list[str] = []
    for key, targets in read:
        number, header = where[key.source]
        tensor = header.tensors[key.source]
        for target in targets:
            rows = target.rows
            if rows is not None:
                length = tensor.shape[0] if len(tensor.shape) == 2 else 0
                rows = dialects.halved(rows, length)
                if rows is None or (rows.stride and rows.count * rows.stride != length):
                    return None
            made = Made("", key.source, number, tensor, header.data_start, target.transposed, rows)
            if target.side and len(made.shape) == 2:
                size = sizes.setdefault(target.stem, [None, None])  # (out, in)
                size[target.side == "A"] = made.shape[0 if target.side == "B" else 1]
            else:
                others.append(target.stem)
            drafts.append((target.stem, target.tail, made))
    if not sizes:
        return None
    found = places.find({stem: (out, inside) for stem, (out, inside) in sizes.items()}, others, shapes)
    if found is None:
        return None
    placed = [replace(made, name=found[stem] + tail) for stem, tail, made in drafts]
    return placed if len({one.name for one in placed}) == len(placed) else None


def _kinds(code: str, keys: list[Key], adapter: str, made: list[Made], parts: Sequence[Part]) -> tuple[str, ...]:
    kinds = [code] if code else []
    if any(key.wrapped for key in keys):
        kinds.append("keys_wrapped")
    if adapter:
        kinds.append("keys_adapter_name")
    if not code:
        plain = {key.source: key.stem + key.tail for key in keys}
        if any(one.name != plain[one.source] for one in made):
            kinds.append("keys_prefix")
    if any(SHARD.fullmatch(part.name) for part in parts):
        kinds.append("weights_sharded")
    return tuple(kinds)


def _config(
    raw: dict[str, Any], made: list[Made], read: Read, shapes: BaseShapes, is_mlx: bool, code: str
) -> dict[str, Any]:
    """The copy's config: the same, but for what named modules otherwise. Raises Refused."""
    modules = sorted({_module(one.name) for one in made if ".lora_" in one.name})
    if is_mlx:
        ranks = {one.shape[0] for one in made if one.name.endswith(dialects.A_TAIL)}
        return mlx.as_peft(raw, ranks, modules, shapes.names) | {"target_modules": _targets(modules, shapes)}
    config = dict(raw)
    if code == "format_megatron":
        for field in MEGATRON_FIELDS:
            if config.get(field):
                config[field] = None
    checked = check(config)
    old = _old_modules(read)
    names = tuple(sorted({*shapes.names, *modules}))
    if targeted(checked, names) != set(modules) and targeted(checked, tuple(old)) == set(old):
        config["target_modules"] = _targets(modules, shapes)
        for field in ("exclude_modules", "layers_to_transform", "layers_pattern"):
            if config.get(field):
                config[field] = None
    _carry_patterns(config, checked, made, old)
    return config


def _carry_patterns(config: dict[str, Any], checked: AdapterConfig, made: list[Made], old: dict[str, str]) -> None:
    """Ranks and alphas by the modules' names are the same for the new names as they were for the old ones."""
    before = {key: name for name, key in old.items()}  # source -> what the module was called
    pairs = sorted({(_module(one.name), before[one.source]) for one in made if one.source in before})
    for field, table, default in (
        ("rank_pattern", checked.rank_pattern, checked.rank), ("alpha_pattern", checked.alpha_pattern, checked.alpha),
    ):  # fmt: skip
        if not table:
            continue
        was = by_pattern(table, [name for _, name in pairs], field, default)
        now = by_pattern(table, [name for name, _ in pairs], field, default)
        if any(was[name] != now[module] for module, name in pairs):
            config[field] = {module: was[name] for module, name in pairs if was[name] != default}


def _old_modules(read: Read) -> dict[str, str]:
    """What training called each module of the A matrices -> the name of that tensor."""
    found = {}
    for key, targets in read:
        if targets[0].side == "A":
            found[dialects.module_of(key).removeprefix(PREFIX)] = key.source
    return found


def _module(name: str) -> str:
    return name.removeprefix(PREFIX).partition(".lora_")[0]


def _targets(modules: list[str], shapes: BaseShapes) -> list[str]:
    """The shortest names that mean these modules and no other: the last words, or the whole names."""
    last = {module.rpartition(".")[2] for module in modules}
    idle = {name for name in shapes.names if shapes.roles.get(name) == "idle"}
    meant = {name for name in shapes.names if name.rpartition(".")[2] in last} - idle
    return sorted(last) if meant.issubset(modules) else modules


def heads_of(base: BaseModel) -> Heads | None:
    """The attention heads that the base's config.json declares. None where it does not."""
    try:
        config = parse_json(read_small(base_root(), base.path, "config.json", LIMIT), "config.json")
    except Refused:
        return None
    if not isinstance(config, dict):
        return None
    inner = config.get("text_config")
    said = {**config, **(inner if isinstance(inner, dict) else {})}
    queries, hidden = (_count(said.get(name)) for name in ("num_attention_heads", "hidden_size"))
    keys = _count(said.get("num_key_value_heads") or queries)
    if not queries or not keys or queries % keys:
        return None
    size = _count(said.get("head_dim") or hidden // queries)
    if not size or size % 2:
        return None
    return Heads(str(said.get("model_type") or ""), queries, keys, size)


def _count(value: Any) -> int:
    """A whole number of a sound size; 0 for anything else."""
    return value if type(value) is int and 0 < value < 2**20 else 0
