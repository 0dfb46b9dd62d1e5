"""The curve of a run as its files tell it now, also while training writes them, and how far the training is.

What is read is bounded (`training/facts.py`) and kept until a file changes: looking again costs a listing.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from operator import itemgetter
from typing import Any

from django.utils import timezone

from .lifecycle.sources import real_roots
from .models import LoraAdapter, TrainingFacts
from .places import Place, innermost, names_below, open_root
from .training.facts import read_facts
from .training.layout import CHECKPOINT, PICKLE, WEIGHTS, moment_of
from .training.readers import LOG, STATE, SWIFT_LOG

MOST_CHECKPOINTS = 1000
KEPT = 64  # curves in memory
RECENT = timedelta(hours=6)  # since the last file of an adapter: longer ago, nobody asks whether it is trained still
QUIET = timedelta(minutes=30)  # without a word a training has ended, unless its checkpoints are further apart
LONGEST_QUIET = timedelta(hours=6)

Seen = tuple[int, int]  # mtime in ns, size


@dataclass(frozen=True)
class RunFiles:
    """The files of a run that tell about its training."""

    path: str
    logs: dict[str, Seen] = field(default_factory=dict)  # of the run's folder itself
    states: dict[int, Seen] = field(default_factory=dict)  # step -> of that checkpoint's trainer_state.json
    is_saved: bool = False  # the run's own adapter is there

    @property
    def written(self) -> datetime | None:
        """When the last of them was written."""
        times = [seen[0] for seen in (*self.logs.values(), *self.states.values())]
        return moment_of(max(times, default=0))


@dataclass(frozen=True)
class Curve:
    """`state`: training, finished, stopped (before its end), unknown. Points have `elapsed` seconds where told."""

    state: str = "unknown"
    step: int | None = None
    max_steps: int | None = None
    updated_at: datetime | None = None
    ends_at: datetime | None = None
    points: list[dict[str, Any]] = field(default_factory=list)

    def told(self, adapter: LoraAdapter) -> dict[str, Any]:
        """With whose curve it is, as calls and pages tell it."""
        facts = {name: getattr(self, name) for name in ("state", "step", "max_steps", "updated_at", "ends_at")}
        return {"id": adapter.pk, "run": adapter.run_name, "name": adapter.name, **facts, "curve": self.points}


_kept: OrderedDict[str, tuple[RunFiles, dict[str, Any], list[dict[str, Any]]]] = OrderedDict()
_lock = threading.Lock()


def run_path(adapter: LoraAdapter) -> str:
    return os.path.dirname(adapter.path) if adapter.checkpoint is not None else adapter.path


def curve_of(adapter: LoraAdapter) -> Curve:
    """Of the adapter's run; what a scan has kept where the folder is gone."""
    files = _files_of(run_path(adapter))
    if files is None or files.written is None:
        facts = TrainingFacts.objects.filter(adapter=adapter).first()
        if facts is None:
            return Curve()
        told = facts.summary
        return Curve(_ended(told), told.get("steps"), told.get("max_steps"), points=facts.curve)
    summary, points = _read(files)
    step, most = summary.get("steps"), summary.get("max_steps")
    if points and (step is None or points[-1]["step"] > step):
        step = points[-1]["step"]
    now = timezone.now()
    state = _ended(summary) if step is None or not most or step >= most or files.is_saved else "stopped"
    if state == "stopped" and now - files.written < _quiet(files):
        state = "training"
    ends_at = None
    if state == "training" and step is not None and most:
        left = _left(files, summary, points, step, most)
        ends_at = max(now, files.written + left) if left is not None else None
    return Curve(state, step, most, files.written, ends_at, _timed(points, files))


def is_recent(adapter: LoraAdapter) -> bool:
    """Whether it is worth asking if the adapter's training still runs."""
    return adapter.trained_at is not None and timezone.now() - adapter.trained_at < RECENT


def _ended(summary: dict[str, Any]) -> str:
    return "finished" if summary.get("steps") else "unknown"


def _files_of(path: str) -> RunFiles | None:
    """None where the run's folder is gone, or lies below no root."""
    root = innermost(path, real_roots()) if path else None
    if root is None:
        return None
    try:
        with open_root(root) as top, top.below(*names_below(path, root)) as folder:
            logs = {name: seen for name in (LOG, SWIFT_LOG, STATE) if (seen := _seen(folder, name))}
            steps = [(name, match) for name, is_dir in folder.entries() if is_dir and (match := CHECKPOINT.match(name))]
            states = {}
            for name, match in sorted(steps, key=lambda one: int(one[1][1]))[-MOST_CHECKPOINTS:]:
                if seen := _seen(folder, f"{name}/{STATE}"):
                    states[int(match[1])] = seen
            saved = any(_seen(folder, name) for name in (WEIGHTS, PICKLE))
            return RunFiles(path, logs, states, saved or STATE in logs)
    except OSError:
        return None


def _seen(folder: Place, name: str) -> Seen | None:
    try:
        info = folder.stat(name)
    except OSError:
        return None
    return (info.st_mtime_ns, info.st_size) if info is not None else None


def _read(files: RunFiles) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summary and points: of the run's own state where it has one, else of its newest checkpoint and its log."""
    with _lock:
        known = _kept.get(files.path)
        if known is not None and known[0] == files:
            _kept.move_to_end(files.path)
            return known[1], known[2]
    newest = max(files.states, default=None)
    own = STATE in files.logs or newest is None
    summary, points, _ = read_facts(real_roots(), files.path if own else f"{files.path}/checkpoint-{newest}")
    with _lock:
        _kept[files.path] = (files, summary, points)
        _kept.move_to_end(files.path)
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
    return summary, points


def _saved(files: RunFiles) -> list[tuple[int, float]]:
    """(step, seconds since the epoch) of the checkpoints, where these times can be the training's: not of a copy."""
    pairs = [(step, files.states[step][0] / 1e9) for step in sorted(files.states)]
    grow = all(after[1] > before[1] for before, after in pairwise(pairs))
    return pairs if grow and len(pairs) > 1 and pairs[-1][1] - pairs[0][1] > 1 else []


def _quiet(files: RunFiles) -> timedelta:
    gaps = [after[1] - before[1] for before, after in pairwise(_saved(files))]
    usual = timedelta(seconds=3 * max(gaps)) if gaps else QUIET
    return min(max(usual, QUIET), LONGEST_QUIET)


def _left(
    files: RunFiles, summary: dict[str, Any], points: list[dict[str, Any]], step: int, most: int
) -> timedelta | None:
    """How long the rest takes from the last word on: as the trainer guessed, or at the pace so far."""
    if (told := summary.get("remaining")) is not None:
        return timedelta(seconds=told)
    timed = [(point["step"], point["elapsed"]) for point in points if "elapsed" in point] or _saved(files)
    if len(timed) < 2 or timed[-1][0] <= timed[0][0] or timed[-1][1] < timed[0][1]:  # (a clock that began anew)
        return None
    pace = (timed[-1][1] - timed[0][1]) / (timed[-1][0] - timed[0][0])
    return timedelta(seconds=min(pace * (most - step), 366 * 86_400))


def _timed(points: list[dict[str, Any]], files: RunFiles) -> list[dict[str, Any]]:
    """The points with `elapsed` seconds: as logged, or between the times at which checkpoints were saved."""
    if not points or any("elapsed" in point for point in points):
        return points
    saved = _saved(files)
    if not saved:
        return points
    start = saved[0][1] - saved[0][0] * _pace(saved[0], saved[1])
    return [{**point, "elapsed": round(_moment(point["step"], saved) - start, 1)} for point in points]


def _pace(one: tuple[int, float], other: tuple[int, float]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])


def _moment(step: int, saved: list[tuple[int, float]]) -> float:
    """On the line through the two checkpoints around the step, or the nearest two."""
    after = min(max(bisect_left(saved, step, key=itemgetter(0)), 1), len(saved) - 1)
    before = saved[after - 1]
    return before[1] + (step - before[0]) * _pace(before, saved[after])
