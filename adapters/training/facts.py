"""What training left about itself: steps, loss curve, data set, dates. Missing or damaged facts stop nothing.

`TrainingFacts.summary` holds those of these keys that were found: steps, max_steps, epochs, loss (last), eval_loss
(last), best_metric, best_step, batch_size, learning_rate (highest), dataset, trainer, base_model, tags, license.
"""

from __future__ import annotations

import codecs
import io
import math
import os
import re
from collections.abc import Iterable
from itertools import islice
from typing import Any

from adapters.failures import Refused
from adapters.formats.config import clean
from adapters.formats.files import parse_json, read_small
from adapters.models import LoraAdapter, TrainingFacts

STATE, LOG, ARGS, CARD = "trainer_state.json", "trainer_log.jsonl", "args.json", "README.md"
LIMITS = {STATE: 32 * 2**20, LOG: 32 * 2**20, ARGS: 2**20, CARD: 2**20}
MAX_POINTS = 500
MAX_LINES = 200_000  # of a log
FRONT_MATTER = 65536  # bytes at the beginning of a model card
CURVE_KEYS = ("loss", "eval_loss", "learning_rate", "grad_norm", "epoch")


def read_facts(roots: tuple[str, ...], folder: str) -> tuple[dict[str, Any], list[dict[str, Any]], list[str]]:
    """(summary, curve, names of damaged files) of an adapter's folder, or of its newest checkpoint's state."""
    summary: dict[str, Any] = {}
    points: dict[int, dict[str, Any]] = {}
    problems: list[str] = []
    for name, reader in ((LOG, _from_log), (STATE, _from_state), (ARGS, _from_args), (CARD, _from_card)):
        place = _place(folder, name)
        if place is None:
            continue
        try:
            reader(read_small(roots, place, name, LIMITS[name]), summary, points)
        except (Refused, ValueError, TypeError, KeyError, OSError):
            problems.append(name)
    curve = _thinned([points[step] for step in sorted(points)])
    for key in ("loss", "eval_loss"):
        last = next((point[key] for point in reversed(curve) if key in point), None)
        if last is not None:
            summary[key] = last
    rates = [point["learning_rate"] for point in curve if "learning_rate" in point]
    if rates:
        summary["learning_rate"] = max(rates)
    return summary, curve, problems


def _place(folder: str, name: str) -> str | None:
    """The folder itself, or the run's for a checkpoint, where the file lies; the log is kept at the run alone."""
    if os.path.exists(os.path.join(folder, name)):
        return folder
    if name in (LOG, ARGS) and os.path.basename(folder).startswith("checkpoint-"):
        parent = os.path.dirname(folder)
        return parent if os.path.exists(os.path.join(parent, name)) else None
    return None


def _number(value: Any) -> float | int | None:
    if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > 1e15:
        return None
    return value


def _put(summary: dict[str, Any], key: str, value: Any) -> None:
    if value is not None and value != "":
        summary[key] = value


def _points(entries: Iterable[Any], points: dict[int, dict[str, Any]], renamed: dict[str, str]) -> None:
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        step = entry.get("step", entry.get("current_steps"))
        if type(step) is not int or not 0 <= step < 2**31:
            continue
        point = points.setdefault(step, {"step": step})
        for key in CURVE_KEYS:
            number = _number(entry.get(renamed.get(key, key), entry.get(key)))
            if number is not None:
                point[key] = number


def _from_state(data: bytes, summary: dict[str, Any], points: dict[int, dict[str, Any]]) -> None:
    state = parse_json(data, STATE, strict=False)
    if not isinstance(state, dict):
        raise ValueError(STATE)
    history = state.get("log_history")
    _points(history if isinstance(history, list) else [], points, {})
    for key, source in (
        ("steps", "global_step"), ("max_steps", "max_steps"), ("epochs", "epoch"), ("best_metric", "best_metric"),
        ("best_step", "best_global_step"), ("batch_size", "train_batch_size"),
    ):  # fmt: skip
        _put(summary, key, _number(state.get(source)))


def _from_log(data: bytes, summary: dict[str, Any], points: dict[int, dict[str, Any]]) -> None:
    """LLaMA-Factory: one JSON object a line; the last one may be half-written."""
    entries = []
    for line in islice(io.BytesIO(data), MAX_LINES):
        if line.isspace():
            continue
        try:
            entries.append(parse_json(line, LOG, strict=False))
        except Refused:
            continue
    _points(entries, points, {"learning_rate": "lr"})
    last = next((entry for entry in reversed(entries) if isinstance(entry, dict)), {})
    _put(summary, "trainer", "LLaMA-Factory")
    _put(summary, "steps", _number(last.get("current_steps")))
    _put(summary, "max_steps", _number(last.get("total_steps")))
    _put(summary, "epochs", _number(last.get("epoch")))


def _from_args(data: bytes, summary: dict[str, Any], points: dict[int, dict[str, Any]]) -> None:
    """ms-swift: its arguments."""
    found = parse_json(data, ARGS, strict=False)
    if not isinstance(found, dict):
        raise ValueError(ARGS)
    _put(summary, "trainer", "ms-swift")
    dataset = found.get("dataset")
    names = dataset if isinstance(dataset, list) else [dataset]
    _put(summary, "dataset", ", ".join(clean(name, 200) for name in names[:10] if isinstance(name, str)))
    model = found.get("model")
    _put(summary, "base_model", clean(model, 200) if isinstance(model, str) else None)
    _put(summary, "batch_size", _number(found.get("per_device_train_batch_size")))


def _from_card(data: bytes, summary: dict[str, Any], points: dict[int, dict[str, Any]]) -> None:
    """The front matter of a model card: `key: value` and `key:` with `- value` lines; nothing deeper of YAML."""
    found: dict[str, list[str]] = {}
    key = ""
    for line in _front_matter(data):
        item = re.match(r"\s*-\s+(\S.*)$", line)
        if item and key:
            found[key].append(item.group(1).strip().strip("'\""))
            continue
        entry = re.match(r"([A-Za-z_][\w-]*):\s*(.*)$", line)
        if entry:
            key = entry.group(1)
            value = entry.group(2).strip().strip("'\"")
            inner = value[1:-1].split(",") if value.startswith("[") and value.endswith("]") else [value]
            found[key] = [part.strip().strip("'\"") for part in inner if part.strip()]
    for target, source in (("dataset", "datasets"), ("base_model", "base_model"), ("license", "license")):
        if target not in summary and found.get(source):
            _put(summary, target, clean(", ".join(found[source][:10]), 200))
    if found.get("tags"):
        _put(summary, "tags", [clean(tag, 64) for tag in found["tags"][:20]])
    names = {"llama-factory": "LLaMA-Factory", "axolotl": "axolotl", "unsloth": "Unsloth", "trl": "TRL"}
    for tag in found.get("tags", []):
        if tag in names:
            summary.setdefault("trainer", names[tag])


def _front_matter(data: bytes) -> list[str]:
    """The lines between the first line `---` and the next one; none where either is missing."""
    start = data.removeprefix(codecs.BOM_UTF8)[:FRONT_MATTER].decode("utf-8", "replace")
    first, *lines = start.split("\n")
    if first.rstrip() != "---":
        return []
    end = next((number for number, line in enumerate(lines) if line.rstrip() == "---"), None)
    return lines[:end] if end is not None else []


def _thinned(curve: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most about 500 points, evenly, with every evaluation and the last point."""
    if len(curve) <= MAX_POINTS:
        return curve
    step = len(curve) / MAX_POINTS
    keep = {int(index * step) for index in range(MAX_POINTS)} | {len(curve) - 1}
    keep.update(index for index, point in enumerate(curve) if "eval_loss" in point and len(keep) < 2 * MAX_POINTS)
    return [point for index, point in enumerate(curve) if index in keep]


def store_facts(adapters: list[LoraAdapter], roots: tuple[str, ...]) -> None:
    """Read and write the facts of these rows, in a few statements for all of them."""
    made: dict[int, TrainingFacts] = {}
    for adapter in adapters:
        summary, curve, problems = read_facts(roots, adapter.path)
        if summary or curve or problems:
            made[adapter.pk] = TrainingFacts(adapter_id=adapter.pk, summary=summary, curve=curve, problems=problems)
    old = set(TrainingFacts.objects.filter(adapter__in=adapters).values_list("adapter_id", flat=True))
    if gone := old.difference(made):
        TrainingFacts.objects.filter(adapter_id__in=gone).delete()
    if again := old.intersection(made):
        for pk in again:
            facts = made[pk]
            TrainingFacts.objects.filter(adapter_id=pk).update(
                summary=facts.summary, curve=facts.curve, problems=facts.problems
            )
    TrainingFacts.objects.bulk_create([f for pk, f in made.items() if pk not in old], batch_size=100)
