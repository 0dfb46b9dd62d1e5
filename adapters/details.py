"""What the page of one adapter shows beside its row: files, and which layers of the base it changes."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.utils.translation import gettext_lazy as _

from adapters.bases.registry import shapes_of
from adapters.formats.config import LIMIT, unknown_keys
from adapters.formats.files import open_below, parse_json, read_small
from adapters.formats.safetensors import read_header
from adapters.lifecycle.offers import changes_of
from adapters.lifecycle.sources import real_roots
from adapters.training.layout import CONFIG, PROMPT_FILES, WEIGHTS

from . import store
from .failures import Refused, render
from .models import LoraAdapter, Status, repair_of
from .places import innermost, names_below, open_root

FIRST_CHANGES = 20  # of a repair, on the page at once
SERVED = {CONFIG, WEIGHTS, *PROMPT_FILES, store.PROMPTING}
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
                File(entry.name, entry.stat(follow_symlinks=False).st_size, entry.name in SERVED)
                for entry in entries
                if entry.is_file(follow_symlinks=False)
            ]
    except OSError:
        return None


def prompting_of(adapter: LoraAdapter) -> dict[str, Any] | None:
    """What writes the prompts of an active adapter and ends its answers, see the API's schema."""
    if adapter.status != Status.ACTIVE:
        return None
    own = adapter.prompting
    template = "adapter" if own.get("chat_template") else ""
    if not template:
        template = "base" if adapter.base is not None and adapter.base.has_chat_template else "none"
    return {
        "chat_template": template,
        "same_as_base": own.get("chat_template") == "same",
        "end_tokens": own.get("end_tokens", []),
        "defaults": own.get("defaults", {}),
    }


STEPS = {"linted": _("checked"), "published": _("published"), "probed": _("probed")}


def promotion_of(adapter: LoraAdapter) -> dict[str, Any] | None:
    """What the running side reported when it took the copy that is served; None where it had nothing to tell."""
    report = adapter.promotion
    if adapter.status != Status.ACTIVE or not report.get("steps"):
        return None
    steps = [(step, STEPS[step]) for step in report["steps"] if step in STEPS]
    return {"version": report.get("version", ""), "steps": steps, "probe": report.get("probe")}


CHANGE_LABELS = {
    "renamed": _("renamed"),
    "transposed": _("transposed"),
    "reordered": _("rows reordered"),
    "split": _("split"),
    "dropped": _("left out"),
    "joined": _("joined"),
    "config": _("config"),
}


def repair_view(adapter: LoraAdapter, looks: bool = True) -> dict[str, Any] | None:
    """What the doctor found, see the API's schema. Where it `looks` into the files, the changes too; None for the first
    of them where the files are gone."""
    found = repair_of(adapter)
    if found is None:
        return None
    changes = changes_of(adapter, found) if looks else None
    serves = found.accepted_at is not None and adapter.status == Status.ACTIVE and "repaired" in adapter.flags
    return {
        "plan": found.plan,
        "state": "offered" if found.accepted_at is None else "serves" if serves else "accepted",
        "kinds": list(found.kinds),
        "reasons": [(kind, render(kind, {})) for kind in found.kinds],
        "count": found.changes,
        "changes": [(CHANGE_LABELS[one.kind], one) for one in changes[:FIRST_CHANGES]] if changes is not None else None,
        "labels": json.dumps({kind: str(label) for kind, label in CHANGE_LABELS.items()}),
        "all": changes or [],
    }


def unknown_keys_of(adapter: LoraAdapter) -> list[tuple[str, str]]:
    """(name, value) of the config's keys that are kept and have no effect."""
    if "config_keys_unknown" not in adapter.flags:
        return []
    roots, folder = _folder_of(adapter)
    try:
        return unknown_keys(parse_json(read_small(roots, folder, CONFIG, LIMIT), CONFIG))
    except Refused:
        return []


def _folder_of(adapter: LoraAdapter) -> tuple[tuple[str, ...], str]:
    """(roots, folder) of the stored copy, or of the training folder where there is none."""
    if adapter.digest and store.has(adapter.digest):
        root = os.path.realpath(settings.STORE_DIR)
        return (root,), os.path.join(root, adapter.digest)
    return real_roots(), adapter.path


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
        shapes = shapes_of(adapter.base) if adapter.base is not None else None
        names = [name for name in shapes.linear if shapes.roles.get(name) != "idle"] if shapes is not None else []
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
    roots, folder = _folder_of(adapter)
    with open_below(roots, folder, WEIGHTS) as file:
        header = read_header(file, os.fstat(file.fileno()).st_size)
    ranks: dict[str, int] = {}
    for name, tensor in header.tensors.items():
        match = LORA_A.match(name)
        if match is not None and tensor.shape:
            ranks[match.group(1)] = tensor.shape[0]
    return ranks
