"""What each tensor of a merged model is made of: from headers and configs alone, no number is read.

Names of the adapter's tensors are those of the running model, names in the base's files may be older ones, which
Transformers renames while it loads. Where a tensor of the adapter has no one place in the base's files, the merge is
refused with its name: nothing is ever left out.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from django.utils.translation import gettext_noop

from adapters import store
from adapters.bases import support
from adapters.bases.identity import base_root
from adapters.bases.shapes import CONV1D_NAMES, CONV1D_TYPES, find_tensors
from adapters.failures import Refused
from adapters.files import store_folder
from adapters.formats import config as adapter_config
from adapters.formats.config import AdapterConfig
from adapters.formats.files import parse_json, read_small
from adapters.formats.safetensors import ENDS, PARTS, Header, Tensor, read_header
from adapters.models import BaseModel
from adapters.training.layout import CONFIG, WEIGHTS
from adapters.validation.copies import HEADS, WRAPPED, core_of
from adapters.validation.fit import PREFIX
from adapters.validation.targets import by_pattern

SHARD_BYTES = 4 * 2**30  # of one file of the result
CONFIG_LIMIT = 2**20
MERGEABLE = {"F32": 4, "F16": 2, "BF16": 2}
# Of several embeddings, the one that takes token ids.
TOKEN_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings")
ADAPTER = ""  # stands for the adapter's file where a base's file is named

Roles = dict[str, tuple[str, Tensor]]  # role -> (name in the adapter's file, the tensor)


@dataclass(frozen=True)
class Recipe:
    """What is done to a tensor of the base. `parts`: role -> the adapter's tensor: "whole" takes its place, "tokens"
    the place of the rows of these ids; "a" and "b" are LoRA's matrices, "magnitude" is DoRA's, "bias" is added.
    `across`: the tensor has its inputs (or tokens) as rows."""

    parts: Mapping[str, Tensor] = field(default_factory=dict)
    across: bool = False
    scale: float = 0.0
    bias_scale: float = 0.0
    tokens: tuple[int, ...] = ()

    def told(self, descriptor: int, data_start: int) -> dict[str, Any]:
        parts = {role: [descriptor, data_start + t.start, t.dtype, list(t.shape)] for role, t in self.parts.items()}
        return {
            "parts": parts, "across": self.across, "scale": self.scale, "bias_scale": self.bias_scale,
            "tokens": self.tokens,
        }  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A tensor of the result. `file`, `data_start`, `base`: where the base's own numbers lie."""

    name: str
    dtype: str
    file: str
    data_start: int
    base: Tensor
    recipe: Recipe | None

    @property
    def size(self) -> int:
        if self.dtype == self.base.dtype:
            return self.base.end - self.base.start
        return math.prod(self.base.shape) * MERGEABLE[self.dtype]

    def told(self, descriptors: Mapping[str, int], adapter_start: int) -> dict[str, Any]:
        recipe = self.recipe.told(descriptors[ADAPTER], adapter_start) if self.recipe else None
        place = [descriptors[self.file], self.data_start + self.base.start, self.base.dtype, list(self.base.shape)]
        return {
            "name": self.name, "dtype": self.dtype, "shape": list(self.base.shape), "size": self.size, "base": place,
            "recipe": recipe,
        }  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """`files`: name -> the tensors in it, in order. `untied`: embedding and output layer become different, so that the
    result says in its config that they are. `adapter_start`: where the adapter's data begins in its file."""

    files: Mapping[str, tuple[Made, ...]]
    untied: bool
    dtype: str
    adapter_start: int
    config: Mapping[str, Any]  # of the base

    @property
    def sources(self) -> list[str]:
        return sorted({made.file for tensors in self.files.values() for made in tensors})

    @property
    def size(self) -> int:
        """Bytes of the tensors."""
        return sum(made.size for tensors in self.files.values() for made in tensors)

    @property
    def parts(self) -> int:
        """The most bytes in fp32 that the adapter's parts of one tensor take."""
        recipes = [made.recipe for tensors in self.files.values() for made in tensors if made.recipe]
        return max((sum(4 * math.prod(t.shape) for t in recipe.parts.values()) for recipe in recipes), default=0)


def plan(digest: str, base: BaseModel, dtype: str, shard_bytes: int = SHARD_BYTES) -> Plan:
    """`dtype`: "base" or "fp32". Raises Refused, OSError."""
    config = _config(base)
    said, header = _adapter(digest)
    modules = _modules(header)
    planner = _Planner(base, said, config, by_pattern(said.alpha_pattern, [*modules], "alpha_pattern", said.alpha))
    for module, roles in modules.items():
        planner.add(module, roles)
    made, untied = planner.made(dtype)
    return Plan(_sharded(made, shard_bytes), untied, dtype, header.data_start, config)


def _config(base: BaseModel) -> dict[str, Any]:
    config = parse_json(read_small(base_root(), base.path, "config.json", CONFIG_LIMIT), "config.json", strict=False)
    if not isinstance(config, dict):
        raise Refused("config_malformed", file="config.json", reason=gettext_noop("not an object"))
    if config.get("quantization_config"):
        raise Refused("merge_quantised", base=base.name)
    return config


def _adapter(digest: str) -> tuple[AdapterConfig, Header]:
    with store_folder.opened() as shelf, shelf.below(digest) as place:
        with os.fdopen(place.open(CONFIG), "rb") as file:
            raw = parse_json(file.read(store.LIMIT + 1), CONFIG)
        with os.fdopen(place.open(WEIGHTS), "rb", buffering=0) as file:
            return adapter_config.check(raw), read_header(file, os.fstat(file.fileno()).st_size)  # type: ignore[arg-type]


def _modules(header: Header) -> dict[str, Roles]:
    """Module -> what the adapter has of it, by the words of `PARTS`, and "weight", "bias"… for whole tensors."""
    found: dict[str, Roles] = defaultdict(dict)
    for name, tensor in header.tensors.items():
        end = next((end for end in ENDS if name.endswith(end)), "")
        module, role = (name.removesuffix(end), PARTS[end]) if end else _whole(name)
        module = module.removeprefix(PREFIX)
        if role in found[module]:
            raise unsupported(name, gettext_noop("it is there twice"))
        found[module][role] = (name, tensor)
    return found


def _whole(name: str) -> tuple[str, str]:
    module, _, last = name.rpartition(".")
    for wrapped in WRAPPED:
        module = module.removesuffix(wrapped)
    return module, last


def unsupported(tensor: str, reason: str) -> Refused:
    return Refused("merge_unsupported", tensor=tensor, reason=reason)


class _Planner:
    """Collects recipes by the names in the base's files."""

    def __init__(
        self, base: BaseModel, said: AdapterConfig, config: Mapping[str, Any], alphas: Mapping[str, float]
    ) -> None:
        self.base, self.said, self.config, self.alphas = base, said, config, alphas
        self.tensors = find_tensors(base_root(), base.path)
        self.cores: dict[str, list[str]] = defaultdict(list)
        for name in self.tensors:
            self.cores[core_of(name)].append(name)
        known = support.layers_of(base)
        self.layers = known.layers if known is not None else {}
        self.files_call = defaultdict(list)  # name at run time -> names in the files
        for ours, theirs in (known.earlier_names if known is not None else {}).items():
            self.files_call[theirs].append(ours)
        self.recipes: dict[str, Recipe] = {}
        self.owners: dict[str, str] = {}  # tensor of the base -> module of the adapter
        self.embedding = self._one(f"{name}.weight" for name in TOKEN_EMBEDDINGS)
        self.stored_head = self._one(f"{name}.weight" for name in sorted(HEADS))
        self.tied = not self.stored_head or _ties(config)
        layer = next((name for name in self.layers if name.rpartition(".")[2] in HEADS), "lm_head")
        self.head = self.stored_head or f"{layer}.weight"

    def _one(self, cores: Any) -> str:
        found = [name for core in cores for name in self.cores.get(core, ())]
        return found[0] if len(found) == 1 else ""

    def add(self, module: str, roles: Roles) -> None:
        """Raises Refused."""
        if {"A", "B"} <= set(roles):
            self._pair(module, roles, "A", "B")
        elif {"embedding_A", "embedding_B"} <= set(roles):
            self._pair(module, roles, "embedding_A", "embedding_B")
        elif set(roles) & {"A", "B", "embedding_A", "embedding_B", "magnitude", "pair_bias"}:
            raise unsupported(next(iter(roles.values()))[0], gettext_noop("its matrices are not complete"))
        if "tokens" in roles:
            name, tensor = roles["tokens"]
            target = self._target(module, "weight", name)
            ids = self.said.tokens_of(module)
            if not ids and target == self.head:  # tied to the embedding, which has them
                ids = self.said.tokens_of(self.owners.get(self.embedding, "embed_tokens"))
            shape = self._shape(target)
            if tensor.shape != (len(ids), *shape[1:]) or any(token >= shape[0] for token in ids):
                raise unsupported(name, gettext_noop("its shape is another one"))
            self._change(target, module, name, {"tokens": tensor}, tokens=ids)
        for role, (name, tensor) in roles.items():
            if role not in PARTS.values():
                target = self._target(module, role, name)
                if tensor.shape != self._shape(target):
                    raise unsupported(name, gettext_noop("its shape is another one"))
                self._change(target, module, name, {"whole": tensor})

    def _pair(self, module: str, roles: Roles, first: str, second: str) -> None:
        (name, a), (_, b) = roles[first], roles[second]
        target = self._target(module, "weight", name)
        last = module.rpartition(".")[2]
        conv1d = self.base.model_type in CONV1D_TYPES and last in CONV1D_NAMES
        across = conv1d or first != "A"
        rank, inputs = a.shape
        if self._shape(target) != ((inputs, b.shape[0]) if across else (b.shape[0], inputs)):
            raise unsupported(name, gettext_noop("its shape is another one"))
        scale = self.alphas[module] / (math.sqrt(rank) if self.said.rslora else rank)
        parts = {"a": a, "b": b}
        if "magnitude" in roles:
            parts["magnitude"] = roles["magnitude"][1]
        self._change(target, module, name, parts, across=across, scale=scale)
        if "pair_bias" in roles:
            name, tensor = roles["pair_bias"]
            target = self._target(module, "bias", name)
            self._change(target, module, name, {"bias": tensor}, bias_scale=scale)

    def _change(self, target: str, module: str, name: str, parts: dict[str, Tensor], **more: Any) -> None:
        """Take parts into the recipe of a tensor. Raises Refused."""
        before = self.recipes.get(target, Recipe())
        together = {*before.parts, *parts}
        odd = "magnitude" in together and {"whole", "tokens"} & together or {"whole", "tokens"} <= together
        if set(before.parts) & set(parts) or self.owners.setdefault(target, module) != module or odd:
            raise unsupported(name, gettext_noop("the same tensor is changed in two ways"))
        if any(part.dtype not in MERGEABLE for part in parts.values()):
            raise unsupported(name, gettext_noop("its numbers are of another type"))
        self.recipes[target] = replace(before, parts={**before.parts, **parts}, **more)

    def _target(self, module: str, kind: str, name: str) -> str:
        """The base's tensor that the running model calls `module`.`kind`. Raises Refused."""
        wanted = f"{module}.{kind}"
        called = [f"{ours}.{kind}" for ours in self.files_call.get(module, ()) if f"{ours}.{kind}" in self.tensors]
        found = [wanted] if wanted in self.tensors else called or self.cores.get(core_of(wanted), [])
        if not found and kind == "weight" and core_of(module) in HEADS and self.embedding:
            return self.head
        if not found and kind == "bias":
            raise unsupported(name, gettext_noop("the base model's layer has no bias"))
        if len(found) != 1:
            reason = gettext_noop("it has no place of its own in the base model's files")
            raise unsupported(name, reason)
        if self.tensors[found[0]][2].dtype not in MERGEABLE:
            raise Refused("merge_quantised", base=self.base.name)
        return found[0]

    def _shape(self, target: str) -> tuple[int, ...]:
        return self.tensors[target if target in self.tensors else self.embedding][2].shape

    def _tie(self) -> bool:
        """What follows for the one of embedding and output layer from the other's recipe, where they share their
        weights; whether they become different. As `inference/engine/model/own_parts.py` has it: a layer of
        `modules_to_save` was trained as a copy, what was saved along otherwise went into the shared weights."""
        copies = {name.rpartition(".")[2] for name in self.said.saved_modules}
        pair = (self.embedding, self.head)
        copied = {name: core_of(name).removesuffix(".weight").rpartition(".")[2] in copies for name in pair}
        for one, other in (pair, pair[::-1]):
            own, theirs = self.recipes.get(one, Recipe()), self.recipes.get(other, Recipe())
            if "whole" in own.parts and "whole" not in theirs.parts and not copied[one] and not copied[other]:
                whole = {**theirs.parts, "whole": own.parts["whole"]}
                self.recipes[other] = replace(theirs, parts=whole)
        own, theirs = (self.recipes.get(name, Recipe()) for name in pair)
        if "tokens" in own.parts and "tokens" not in theirs.parts:
            rows = {**theirs.parts, "tokens": own.parts["tokens"]}
            self.recipes[self.head] = replace(theirs, parts=rows, tokens=own.tokens)
        return self.recipes.get(self.embedding) != self.recipes.get(self.head)

    def made(self, dtype: str) -> tuple[list[Made], bool]:
        """(all tensors of the result in the order of the base's files, whether the output layer becomes its own)"""
        untied = bool(self.tied and self.embedding and self._tie())
        order = sorted(self.tensors.items(), key=lambda item: (item[1][0], item[1][2].start))
        found = []
        for name, (file, data_start, tensor) in order:
            wide = "F32" if dtype == "fp32" and tensor.dtype in MERGEABLE else tensor.dtype
            found.append(Made(name, wide, file, data_start, tensor, self.recipes.get(name)))
            if name == self.embedding and untied and not self.stored_head:
                found.append(replace(found[-1], name=self.head, recipe=self.recipes.get(self.head)))
        return found, untied


def _ties(config: Mapping[str, Any]) -> bool:
    said = config.get("tie_word_embeddings")
    text = config.get("text_config")
    if said is None and isinstance(text, dict):
        said = text.get("tie_word_embeddings")
    return said is True


def _sharded(made: list[Made], most: int) -> dict[str, tuple[Made, ...]]:
    shards: list[list[Made]] = [[]]
    size = 0
    for one in made:
        if shards[-1] and size + one.size > most:
            shards.append([])
            size = 0
        shards[-1].append(one)
        size += one.size
    if len(shards) == 1:
        return {"model.safetensors": tuple(shards[0])}
    count = len(shards)
    return {f"model-{n:05d}-of-{count:05d}.safetensors": tuple(shard) for n, shard in enumerate(shards, 1)}


def index_of(plan: Plan) -> bytes | None:
    """`model.safetensors.index.json`; None where there is one file."""
    if len(plan.files) == 1:
        return None
    table = {made.name: file for file, tensors in plan.files.items() for made in tensors}
    return json.dumps({"metadata": {"total_size": plan.size}, "weight_map": table}, indent=2).encode() + b"\n"
