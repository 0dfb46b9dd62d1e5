"""What a base model's own safetensors headers say about its linear layers."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from django.utils.translation import gettext_noop

from adapters.failures import Refused
from adapters.formats.files import open_below, parse_json, read_exactly, read_small
from adapters.formats.safetensors import BASE_HEADER_LIMIT, MAX_DIMENSIONS, Header, Tensor, read_header
from adapters.identifiers import text_hash

from .identity import states

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
INDEX_LIMIT = 32 * 2**20
MAX_SHARDS = 1000
# Architectures whose layers are transformers' Conv1D, which stores the transposed weight.
CONV1D_TYPES = {"gpt2", "openai-gpt", "decision_transformer"}
CONV1D_NAMES = {"c_attn", "q_attn", "c_proj", "c_fc"}
EMBEDDING_NAMES = {
    "embed_tokens",
    "wte",
    "wpe",
    "embed_in",
    "word_embeddings",
    "embeddings",
    "tok_embeddings",
}
POSITIONS = "wpe"  # the one of them that no token is looked up in
HEADS = {"lm_head", "embed_out"}
# What a checkpoint may leave out in front of its tensor names, by architecture family.
BODY_PREFIXES = ("transformer.", "model.", "gpt_neox.", "decoder.")
QUANT_STATE = ".quant_state.bitsandbytes__"


@dataclass(frozen=True)
class BaseShapes:
    """`linear`: module -> (out features, in features); `embeddings`: module -> (rows, width).

    By the names in the files, until the running side has said what they are called at run time (`at_run_time`), which
    is what adapters are written for: Transformers renames, fuses and splits while it loads.
    """

    linear: Mapping[str, tuple[int, int]]
    embeddings: Mapping[str, tuple[int, int]]
    others: frozenset[str]  # further tensors, such as norms
    parameters: int
    linear_parameters: int  # of those, in layers that NF4 would quantise
    dtype: str  # of most parameters
    conv1d: bool
    files: tuple[str, ...] = ()
    names: tuple[str, ...] = field(default=(), repr=False)
    roles: Mapping[str, str] = field(default_factory=dict, repr=False)  # module -> see hooks.py; empty: not known
    earlier_names: Mapping[str, str] = field(default_factory=dict, repr=False)

    def at_run_time(self, layers: Mapping[str, tuple[int, int, str]], earlier_names: Mapping[str, str]) -> BaseShapes:
        linear = {name: (outputs, inputs) for name, (outputs, inputs, _) in layers.items()}
        roles = {name: role for name, (_, _, role) in layers.items()}
        return replace(self, linear=linear, names=tuple(layers), roles=roles, earlier_names=earlier_names)

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding of tokens; 0 where that is not known."""
        rows = (shape[0] for name, shape in self.embeddings.items() if name.rpartition(".")[2] != POSITIONS)
        return next(rows, 0)

    def with_vocabulary(self, rows: int) -> BaseShapes:
        """The same with so many rows of the embedding and of the output layer."""
        embeddings = {
            name: shape if name.rpartition(".")[2] == POSITIONS else (rows, shape[1])
            for name, shape in self.embeddings.items()
        }
        linear = {
            name: (rows, shape[1]) if name.rpartition(".")[2] in HEADS else shape for name, shape in self.linear.items()
        }
        return replace(self, embeddings=embeddings, linear=linear)

    def module(self, name: str) -> tuple[int, int] | None:
        """Shape of the linear layer that PEFT calls `name`, also where the file leaves a prefix out."""
        found = self.linear.get(name)
        if found is not None or self.roles:
            return found
        for prefix in BODY_PREFIXES:
            if name.startswith(prefix):
                found = self.linear.get(name[len(prefix) :])
                if found is not None:
                    return found
        if name == "lm_head":  # tied to the embeddings: the file holds it once
            return next(iter(self.embeddings.values()), None)
        return None


def weight_files(root: tuple[str, ...], folder: str) -> list[str]:
    """Names of the safetensors files that make up the model. Raises Refused base_weights_missing."""
    if os.path.exists(os.path.join(folder, INDEX)):
        index = parse_json(read_small(root, folder, INDEX, INDEX_LIMIT), INDEX)
        table = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(table, dict) or not table or not all(isinstance(v, str) for v in table.values()):
            raise Refused("config_malformed", file=INDEX, reason=gettext_noop("weight_map is missing or invalid"))
        names = sorted(set(table.values()))
        if len(names) > MAX_SHARDS or any("/" in name or name.startswith(".") for name in names):
            raise Refused("config_malformed", file=INDEX, reason=gettext_noop("a shard name is invalid"))
    else:
        names = [SINGLE]
    for name in names:
        if not os.path.exists(os.path.join(folder, name)):
            raise Refused("base_weights_missing", file=name)
    return names


def find_tensors(root: tuple[str, ...], folder: str) -> Mapping[str, tuple[str, int, Tensor]]:
    """name -> (file, where the data of its tensors starts, the tensor). From a cache while the files are the same.
    Raises Refused, OSError."""
    return _find_tensors(root, folder, text_hash(*states(folder)))


@lru_cache(maxsize=4)  # a base with many experts has some 100,000 tensors
def _find_tensors(root: tuple[str, ...], folder: str, signature: str) -> Mapping[str, tuple[str, int, Tensor]]:
    """`signature` only tells the cache when to read again."""
    found = {}
    for name in weight_files(root, folder):
        with open_below(root, folder, name) as file:
            header = read_header(file, os.fstat(file.fileno()).st_size, BASE_HEADER_LIMIT)
        found.update({key: (name, header.data_start, tensor) for key, tensor in header.tensors.items()})
    return MappingProxyType(found)


@lru_cache(maxsize=16)
def read_shapes(root: tuple[str, ...], folder: str, model_type: str, signature: str) -> BaseShapes:
    """Shapes of the model in `folder`; `signature` only tells the cache when to read again."""
    tensors: dict[str, Tensor] = {}
    quantised: dict[str, tuple[int, ...]] = {}
    names = weight_files(root, folder)
    for name in names:
        with open_below(root, folder, name) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                header = read_header(file, size, BASE_HEADER_LIMIT)
            except Refused as refused:
                raise Refused("base_weights_missing", file=name, reason=refused.code) from None
            tensors.update(header.tensors)
            quantised.update(_quantised(file, header))
    return _build(tensors, quantised, model_type, tuple(names))


def _quantised(file: Any, header: Header) -> dict[str, tuple[int, ...]]:
    """Shapes of weights that bitsandbytes packed, from the small JSON tensors it writes beside them."""
    found: dict[str, tuple[int, ...]] = {}
    for name, tensor in header.tensors.items():
        if QUANT_STATE not in name or tensor.end - tensor.start > 65536:
            continue
        file.seek(header.data_start + tensor.start)
        try:
            shape = json.loads(read_exactly(file, tensor.end - tensor.start))["shape"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if _is_shape(shape):
            found[name.partition(QUANT_STATE)[0]] = tuple(shape)
    return found


def _is_shape(said: Any) -> bool:
    """Whole numbers, of which the product is a number of parameters that a model can have."""
    if not isinstance(said, list) or len(said) > MAX_DIMENSIONS:
        return False
    return all(type(n) is int and 0 < n < 2**31 for n in said) and math.prod(said) < 2**48


def _build(
    tensors: dict[str, Tensor], quantised: dict[str, tuple[int, ...]], model_type: str, files: tuple[str, ...]
) -> BaseShapes:
    linear: dict[str, tuple[int, int]] = {}
    embeddings: dict[str, tuple[int, int]] = {}
    others: set[str] = set()
    dtypes: dict[str, int] = {}
    parameters = linear_parameters = 0
    conv1d = model_type in CONV1D_TYPES
    for name, tensor in tensors.items():
        if _is_quant_part(name, quantised):
            continue
        shape = quantised.get(name, tensor.shape)
        count = 1
        for dimension in shape:
            count *= dimension
        parameters += count
        dtypes[tensor.dtype] = dtypes.get(tensor.dtype, 0) + count
        module, _, kind = name.rpartition(".")
        last = module.rpartition(".")[2]
        if kind != "weight" or len(shape) != 2:
            others.add(name)
        elif last in EMBEDDING_NAMES:
            embeddings[module] = (shape[0], shape[1])
        elif conv1d and last in CONV1D_NAMES:
            linear[module] = (shape[1], shape[0])
            linear_parameters += count
        else:
            linear[module] = (shape[0], shape[1])
            linear_parameters += count if last != "lm_head" else 0
    dtype = max(dtypes, key=lambda key: dtypes[key], default="")
    return BaseShapes(
        linear, embeddings, frozenset(others), parameters, linear_parameters, dtype, conv1d,
        files=files, names=tuple(_run_time_name(name, model_type) for name in linear),
    )  # fmt: skip


def _is_quant_part(name: str, quantised: dict[str, tuple[int, ...]]) -> bool:
    weight, mark, _ = name.partition(".weight.")
    return bool(mark) and f"{weight}.weight" in quantised


def _run_time_name(name: str, model_type: str) -> str:
    """gpt2 checkpoints call `h.0.attn.c_attn` what the model calls `transformer.h.0.attn.c_attn`."""
    if model_type in {"gpt2", "bloom"} and not name.startswith("transformer.") and name != "lm_head":
        return f"transformer.{name}"
    return name
