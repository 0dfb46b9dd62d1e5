"""What the page of one adapter shows beside its row: files, and which layers of the base it changes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from django.conf import settings

from adapters.bases.registry import shapes_of
from adapters.formats.files import open_below
from adapters.formats.safetensors import read_header
from adapters.lifecycle.sources import real_roots
from adapters.training.layout import CONFIG, WEIGHTS

from . import store
from .failures import Refused
from .models import LoraAdapter
from .places import innermost, names_below, open_root

MOST_FILES = 200
MOST_ROWS = 32
LAYER = re.compile(r"(?:^|\.)(\d+)\.(.+)$")
LORA_A = re.compile(r"^(?:base_model\.model\.)?(.+)\.lora_(?:embedding_)?A(?:\.weight)?$")


@dataclass(frozen=True)
class File:
    name: str
    size: int
    served: bool  # its content is part of the stored copy


def files_of(adapter: LoraAdapter) -> list[File]:
    """The files in the training folder, by name; of the stored copy where the folder is gone."""
    root = innermost(adapter.path, real_roots())
    found = _files(root, names_below(adapter.path, root)) if root is not None else None
    if found is None and adapter.digest:
        found = _files(os.path.realpath(settings.STORE_DIR), (adapter.digest,))
    return sorted(found or [], key=lambda file: (not file.served, file.name))[:MOST_FILES]


def _files(root: str, way: tuple[str, ...]) -> list[File] | None:
    """The files in the folder that `way` leads to from a resolved root; None where it cannot be entered."""
    try:
        with open_root(root) as top, top.below(*way) as folder, os.scandir(folder.descriptor) as entries:
            return [
                File(entry.name, entry.stat(follow_symlinks=False).st_size, entry.name in (CONFIG, WEIGHTS))
                for entry in entries
                if entry.is_file(follow_symlinks=False)
            ]
    except OSError:
        return None


@dataclass
class LayerMap:
    """`rows`: module -> rank in each layer (0: left alone). `others`: modules outside of layers."""

    layers: int = 0
    rows: dict[str, list[int]] = field(default_factory=dict)
    others: list[tuple[str, int]] = field(default_factory=list)

    @property
    def changed(self) -> int:
        return sum(rank > 0 for ranks in self.rows.values() for rank in ranks) + len(self.others)

    @property
    def total(self) -> int:
        return self.layers * len(self.rows) + len(self.others)


def layer_map(adapter: LoraAdapter) -> LayerMap | None:
    """Which linear layers of the base the adapter changes, from headers alone; None where they cannot be read."""
    try:
        ranks = _ranks(adapter)
        names = list(shapes_of(adapter.base).linear) if adapter.base is not None else []
    except (Refused, OSError):
        return None
    return arrange(ranks, names)


def arrange(ranks: dict[str, int], names: list[str]) -> LayerMap:
    """`ranks`: module -> rank. `names`: every linear layer of the base."""
    found = LayerMap()
    places: dict[str, dict[int, int]] = {}
    for name in [*names, *ranks]:
        match = LAYER.search(name)
        if match is None:
            if name in ranks and (name, ranks[name]) not in found.others:
                found.others.append((name, ranks[name]))
            continue
        layer = int(match.group(1))
        row = re.sub(r"\.\d+(?=\.|$)", ".*", match.group(2))  # the experts of a layer share a row
        cells = places.setdefault(row, {})
        cells[layer] = max(cells.get(layer, 0), ranks.get(name, 0))
        found.layers = max(found.layers, layer + 1)
    for row, cells in list(places.items())[:MOST_ROWS]:
        found.rows[row] = [cells.get(layer, 0) for layer in range(found.layers)]
    return found


def _ranks(adapter: LoraAdapter) -> dict[str, int]:
    if adapter.digest and store.has(adapter.digest):
        path = store.entry(adapter.digest) / WEIGHTS
        with open(path, "rb") as file:
            header = read_header(file, path.stat().st_size)
    else:
        with open_below(real_roots(), adapter.path, WEIGHTS) as file:
            header = read_header(file, os.fstat(file.fileno()).st_size)
    ranks: dict[str, int] = {}
    for name, tensor in header.tensors.items():
        match = LORA_A.match(name)
        if match is not None and tensor.shape:
            ranks[match.group(1)] = tensor.shape[0]
    return ranks
