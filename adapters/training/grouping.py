"""Runs and their checkpoints: which is the best, which the last, and which says the same twice."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from django.utils import timezone

from adapters.containment import contained
from adapters.failures import Refused
from adapters.formats.files import open_below, parse_json, read_small
from adapters.models import LoraAdapter, Status

from .layout import CHECKPOINT, WEIGHTS

STATE = "trainer_state.json"
STATE_LIMIT = 32 * 2**20
BATCH = 500


def mark_groups(groups: Iterable[str], roots: tuple[str, ...]) -> None:
    """Set `is_best`, `is_last` and `duplicate_of` of all members of these groups."""
    wanted = sorted(group for group in groups if group)
    for start in range(0, len(wanted), BATCH):
        members: dict[str, list[LoraAdapter]] = defaultdict(list)
        part = wanted[start : start + BATCH]
        fields = (
            "pk", "path", "group_hash", "checkpoint", "is_best", "is_last", "duplicate_of", "missing", "size_bytes",
            "status", "incomplete",
        )  # fmt: skip
        for adapter in LoraAdapter.objects.filter(group_hash__in=part).only(*fields).order_by("checkpoint", "pk"):
            members[adapter.group_hash].append(adapter)
        changed: list[LoraAdapter] = []
        for group in members.values():
            with contained("the checkpoints of %s could not be compared", group[0].path):
                changed += _mark(group, roots)
        for adapter in changed:
            adapter.updated_at = timezone.now()
        LoraAdapter.objects.bulk_update(changed, ["is_best", "is_last", "duplicate_of", "updated_at"], batch_size=100)


def _mark(group: list[LoraAdapter], roots: tuple[str, ...]) -> list[LoraAdapter]:
    before = {a.pk: (a.is_best, a.is_last, a.duplicate_of_id) for a in group}
    checkpoints = [a for a in group if a.checkpoint is not None and not a.missing and not a.incomplete]
    final = next((a for a in group if a.checkpoint is None and not a.missing), None)
    last = checkpoints[-1] if checkpoints else None
    step = best_step(checkpoints, final, roots) if checkpoints else None
    for adapter in group:
        adapter.is_last = adapter is last
        adapter.is_best = step is not None and adapter.checkpoint == step
        adapter.duplicate_of_id = None
    if final is not None and final.status != Status.FAILED:
        for adapter in checkpoints:
            if (adapter.is_last or adapter.is_best) and _same(adapter, final, roots):
                adapter.duplicate_of_id = final.pk
    return [a for a in group if before[a.pk] != (a.is_best, a.is_last, a.duplicate_of_id)]


def best_step(checkpoints: list[LoraAdapter], final: LoraAdapter | None, roots: tuple[str, ...]) -> int | None:
    """The step that training itself called the best, or the one of least evaluation loss; None where it is silent."""
    state: dict[str, Any] = {}
    for adapter in [final, *reversed(checkpoints)]:
        if adapter is not None and (state := read_state(adapter.path, roots)):
            break
    steps = {a.checkpoint for a in checkpoints}
    named = state.get("best_model_checkpoint")
    if isinstance(named, str):
        match = CHECKPOINT.match(named.replace("\\", "/").rstrip("/").rpartition("/")[2])
        if match and int(match.group(1)) in steps:
            return int(match.group(1))
    step = state.get("best_global_step")
    if type(step) is int and step in steps:
        return step
    losses = [
        (entry["eval_loss"], entry["step"])
        for entry in _entries(state)
        if type(entry.get("eval_loss")) in (int, float) and type(entry.get("step")) is int and entry["step"] in steps
    ]
    finite = [(loss, step) for loss, step in losses if loss == loss]
    return min(finite)[1] if finite else None


def _entries(state: dict[str, Any]) -> list[dict[str, Any]]:
    history = state.get("log_history")
    return [entry for entry in history if isinstance(entry, dict)] if isinstance(history, list) else []


def read_state(folder: str, roots: tuple[str, ...]) -> dict[str, Any]:
    """trainer_state.json, {} where there is none or it is damaged."""
    if not os.path.exists(os.path.join(folder, STATE)):
        return {}
    try:
        state = parse_json(read_small(roots, folder, STATE, STATE_LIMIT), STATE, strict=False)
    except Refused:
        return {}
    return state if isinstance(state, dict) else {}


def _same(one: LoraAdapter, other: LoraAdapter, roots: tuple[str, ...]) -> bool:
    """Byte-identical weights."""
    try:
        with open_below(roots, one.path, WEIGHTS) as a, open_below(roots, other.path, WEIGHTS) as b:
            if os.fstat(a.fileno()).st_size != os.fstat(b.fileno()).st_size:
                return False
            first = hashlib.file_digest(a, "sha256").digest()  # type: ignore[arg-type]
            return first == hashlib.file_digest(b, "sha256").digest()  # type: ignore[arg-type]
    except (Refused, OSError):
        return False
