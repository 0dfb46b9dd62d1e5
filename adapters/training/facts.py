"""What training left about itself: steps, loss curve, data set, dates. Missing or damaged facts stop nothing.

`TrainingFacts.summary` holds those of these keys that were found: steps, max_steps, remaining (seconds, as the trainer
guessed), epochs, loss (last), eval_loss (last), diverged (the step from which on a loss is no finite number to the end;
such a loss is null in the curve), best_metric, best_step, batch_size, learning_rate (highest), dataset, trainer,
base_model, tags, license.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from itertools import islice
from typing import Any

from django.utils import timezone

from adapters.containment import contained
from adapters.failures import Refused
from adapters.formats.files import read_small
from adapters.models import LoraAdapter, TrainingFacts

from .layout import CHECKPOINT, MAX_ENTRIES
from .readers import ARGS, LIMITS, LOG, LOSSES, READERS, STATE, SWIFT_LOG, put

logger = logging.getLogger(__name__)
Facts = tuple[dict[str, Any], list[dict[str, Any]], list[str]]  # summary, curve, names of damaged files

MAX_POINTS = 500
MOST_CHECKPOINTS = 20  # of a run, that are asked for a state
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
        put(summary, key, next((point[key] for point in reversed(curve) if key in point), None))
    ends = [step for key in LOSSES if (step := _divergence(curve, key)) is not None]
    put(summary, DIVERGED, min(ends, default=None))
    curve = _thinned(curve)
    rates = [point["learning_rate"] for point in curve if "learning_rate" in point]
    if rates:
        summary["learning_rate"] = max(rates)
    return summary, curve, problems


def _place(folder: str, name: str) -> str | None:
    """Where the file lies: in the folder itself, or in the run's for a checkpoint, as the log is kept at the run alone,
    or in a run's newest checkpoint, as the state often is: `save_model` of the Trainer writes none."""
    if os.path.exists(os.path.join(folder, name)):
        return folder
    if name in (LOG, SWIFT_LOG, ARGS) and os.path.basename(folder).startswith("checkpoint-"):
        parent = os.path.dirname(folder)
        return parent if os.path.exists(os.path.join(parent, name)) else None
    return _newest_checkpoint(folder) if name == STATE else None


def _newest_checkpoint(folder: str) -> str | None:
    """The checkpoint of the highest step below a run's folder that has a state."""
    try:
        with os.scandir(folder) as entries:
            steps = [int(found[1]) for one in islice(entries, MAX_ENTRIES) if (found := CHECKPOINT.match(one.name))]
    except OSError:
        return None
    for step in sorted(steps, reverse=True)[:MOST_CHECKPOINTS]:
        if os.path.exists(os.path.join(folder, f"checkpoint-{step}", STATE)):
            return os.path.join(folder, f"checkpoint-{step}")
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
