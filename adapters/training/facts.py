"""What training left about itself: steps, loss curve, data set, dates. Missing or damaged facts stop nothing.

`TrainingFacts.summary` holds those of these keys that were found: steps, max_steps, remaining (seconds, as the trainer
guessed), epochs, loss (last), eval_loss (last), diverged (the step from which on a loss is no finite number to the end;
such a loss is null in the curve), best_metric, best_step, batch_size, learning_rate (highest), dataset, trainer,
base_model, tags, license.
"""

from __future__ import annotations

import io
import logging
import math
import os
import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from django.utils import timezone

from adapters.containment import contained
from adapters.failures import Refused
from adapters.formats.config import clean
from adapters.formats.files import parse_json, read_small
from adapters.models import LoraAdapter, TrainingFacts

from .model_card import fields_of

logger = logging.getLogger(__name__)
Facts = tuple[dict[str, Any], list[dict[str, Any]], list[str]]  # summary, curve, names of damaged files

STATE, ARGS, CARD = "trainer_state.json", "args.json", "README.md"
LOG, SWIFT_LOG = "trainer_log.jsonl", "logging.jsonl"  # of LLaMA-Factory and of ms-swift, written at each step
LIMITS = {STATE: 32 * 2**20, LOG: 32 * 2**20, SWIFT_LOG: 32 * 2**20, ARGS: 2**20, CARD: 2**20}
MAX_POINTS = 500
MAX_LINES = 200_000  # of a log
LOSSES = ("loss", "eval_loss")
CURVE_KEYS = (*LOSSES, "learning_rate", "grad_norm", "epoch")
CLOCK = re.compile(r"(?:(\d{1,4}) days?, )?(\d{1,4}):(\d\d):(\d\d)")
WORDED = re.compile(r"(?:(\d{1,4})d ?)?(?:(\d{1,4})h ?)?(?:(\d{1,4})m ?)?(?:(\d{1,5})s)?")  # as in "1h 2m 3s"
DIVERGED = "diverged"  # the remark on such an adapter


def read_facts(roots: tuple[str, ...], folder: str) -> Facts:
    """(summary, curve, names of damaged files) of an adapter's folder, or of its newest checkpoint's state."""
    summary: dict[str, Any] = {}
    points: dict[int, dict[str, Any]] = {}
    problems: list[str] = []
    for name, reader in READERS.items():
        place = _place(folder, name)
        if place is None:
            continue
        try:
            reader(read_small(roots, place, name, LIMITS[name]), summary, points)
        except (Refused, ValueError, OSError):
            problems.append(name)
        except Exception:
            logger.exception("%s in %s cannot be read", name, place)
            problems.append(name)
    curve = [points[step] for step in sorted(points)]
    for key in LOSSES:
        _put(summary, key, next((point[key] for point in reversed(curve) if key in point), None))
    ends = [step for key in LOSSES if (step := _divergence(curve, key)) is not None]
    _put(summary, DIVERGED, min(ends, default=None))
    curve = _thinned(curve)
    rates = [point["learning_rate"] for point in curve if "learning_rate" in point]
    if rates:
        summary["learning_rate"] = max(rates)
    return summary, curve, problems


def _place(folder: str, name: str) -> str | None:
    """The folder itself, or the run's for a checkpoint, where the file lies; the log is kept at the run alone."""
    if os.path.exists(os.path.join(folder, name)):
        return folder
    if name in (LOG, SWIFT_LOG, ARGS) and os.path.basename(folder).startswith("checkpoint-"):
        parent = os.path.dirname(folder)
        return parent if os.path.exists(os.path.join(parent, name)) else None
    return None


def _number(value: Any) -> float | int | None:
    """A number of a sound size; JSON's whole numbers may be larger than any float, which `isfinite` cannot take."""
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return value if abs(value) <= 1e15 else None
    return None


def _divergence(curve: list[dict[str, Any]], key: str) -> int | None:
    """The step from which on this loss is no finite number to the end; None where its last value is one."""
    found = None
    for point in reversed(curve):
        if key in point:
            if point[key] is not None:
                break
            found = point["step"]
    return found


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
            value = entry.get(renamed.get(key, key), entry.get(key))
            number = _number(value)
            if number is not None or (key in LOSSES and type(value) is float):
                point[key] = number
        elapsed = seconds_of(entry.get("elapsed_time"))
        if elapsed is not None:
            point["elapsed"] = elapsed


def seconds_of(text: Any) -> int | None:
    """Of "1:02:03", "1 day, 1:02:03" or "1h 2m 3s"; None where it is none of them."""
    if not isinstance(text, str) or not 0 < len(text) <= 40:
        return None
    match = CLOCK.fullmatch(text.strip()) or WORDED.fullmatch(text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


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


def _lines(data: bytes, name: str) -> list[dict[str, Any]]:
    """One JSON object a line; the last one may be half-written."""
    entries = []
    for line in islice(io.BytesIO(data), MAX_LINES):
        if line.isspace():
            continue
        try:
            entry = parse_json(line, name, strict=False)
        except Refused:
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def _from_log(data: bytes, summary: dict[str, Any], points: dict[int, dict[str, Any]]) -> None:
    """LLaMA-Factory's log."""
    entries = _lines(data, LOG)
    _points(entries, points, {"learning_rate": "lr"})
    last = entries[-1] if entries else {}
    _put(summary, "trainer", "LLaMA-Factory")
    _put(summary, "steps", _number(last.get("current_steps")))
    _put(summary, "max_steps", _number(last.get("total_steps")))
    _put(summary, "epochs", _number(last.get("epoch")))
    _put(summary, "remaining", seconds_of(last.get("remaining_time")))


def _from_swift_log(data: bytes, summary: dict[str, Any], points: dict[int, dict[str, Any]]) -> None:
    """ms-swift's log: the step is told as "10/500"; its last line, a summary, has none."""
    entries = []
    for entry in _lines(data, SWIFT_LOG):
        told = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(entry.get("global_step/max_steps", ""))[:32])
        if told:
            entries.append({**entry, "step": int(told[1]), "max_steps": int(told[2])})
    if not entries:
        return
    _points(entries, points, {})
    _put(summary, "trainer", "ms-swift")
    _put(summary, "steps", entries[-1]["step"])
    _put(summary, "max_steps", entries[-1]["max_steps"])
    _put(summary, "epochs", _number(entries[-1].get("epoch")))
    _put(summary, "remaining", seconds_of(entries[-1].get("remaining_time")))


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
    """The front matter of a model card."""
    found = fields_of(data)
    for target, source in (("dataset", "datasets"), ("base_model", "base_model"), ("license", "license")):
        if target not in summary and found.get(source):
            _put(summary, target, clean(", ".join(found[source][:10]), 200))
    if found.get("tags"):
        _put(summary, "tags", [clean(tag, 64) for tag in found["tags"][:20]])
    names = {"llama-factory": "LLaMA-Factory", "axolotl": "axolotl", "unsloth": "Unsloth", "trl": "TRL"}
    for tag in found.get("tags", []):
        if tag in names:
            summary.setdefault("trainer", names[tag])


READERS = {LOG: _from_log, SWIFT_LOG: _from_swift_log, STATE: _from_state, ARGS: _from_args, CARD: _from_card}


def _thinned(curve: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most about 500 points, evenly, with every evaluation and the last point."""
    if len(curve) <= MAX_POINTS:
        return curve
    step = len(curve) / MAX_POINTS
    keep = {int(index * step) for index in range(MAX_POINTS)} | {len(curve) - 1}
    keep.update(index for index, point in enumerate(curve) if "eval_loss" in point and len(keep) < 2 * MAX_POINTS)
    return [point for index, point in enumerate(curve) if index in keep]


def store_facts(adapters: list[LoraAdapter], facts: Mapping[str, Facts]) -> None:
    """Write the facts of these rows, by their `path_hash`, and the remark that training diverged, in a few statements
    for all."""
    made: dict[int, TrainingFacts] = {}
    for adapter in adapters:
        summary, curve, problems = facts[adapter.path_hash]
        if summary or curve or problems:
            made[adapter.pk] = TrainingFacts(adapter_id=adapter.pk, summary=summary, curve=curve, problems=problems)
    marked = [adapter for adapter in adapters if _mark(adapter, made.get(adapter.pk))]
    for adapter in marked:
        adapter.updated_at = timezone.now()
    LoraAdapter.objects.bulk_update(marked, ["flags", *LOSSES, "updated_at"], batch_size=100)
    old = set(TrainingFacts.objects.filter(adapter__in=adapters).values_list("adapter_id", flat=True))
    if gone := old.difference(made):
        TrainingFacts.objects.filter(adapter_id__in=gone).delete()
    if again := old.intersection(made):
        for pk in again:
            new = made[pk]
            TrainingFacts.objects.filter(adapter_id=pk).update(
                summary=new.summary, curve=new.curve, problems=new.problems
            )
    TrainingFacts.objects.bulk_create([f for pk, f in made.items() if pk not in old], batch_size=100)


def facts_of(folder: str, roots: tuple[str, ...]) -> Facts:
    """`read_facts`, which an unexpected error makes empty."""
    with contained("the training facts in %s cannot be read", folder):
        return read_facts(roots, folder)
    return {}, [], []


def _mark(adapter: LoraAdapter, facts: TrainingFacts | None) -> bool:
    """Write the losses into the row, and set or take away the remark; whether that changed anything."""
    before = (adapter.flags, adapter.loss, adapter.eval_loss)
    flags = set(adapter.flags) - {DIVERGED}
    if facts is not None and DIVERGED in facts.summary:
        flags.add(DIVERGED)
    adapter.flags = sorted(flags)
    curve = facts.curve if facts is not None else []
    adapter.loss, adapter.eval_loss = (loss_at(curve, key, adapter.checkpoint) for key in LOSSES)
    return before != (adapter.flags, adapter.loss, adapter.eval_loss)


def loss_at(curve: list[dict[str, Any]], key: str, step: int | None) -> float | None:
    """The last loss of a curve up to `step`, that a checkpoint was saved at; None where there is none, or no number."""
    points = [point for point in curve if key in point and (step is None or point["step"] <= step)]
    return points[-1][key] if points else None
