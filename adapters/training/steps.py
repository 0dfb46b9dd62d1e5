"""The step of its training that an adapter's weights are of."""

from __future__ import annotations

from adapters.identifiers import UNKNOWN
from adapters.models import LoraAdapter, TrainingFacts


def step_of(adapter: LoraAdapter) -> int | None:
    """A run's own adapter is that of the checkpoint with the same files, else of the last step."""
    if adapter.checkpoint is not None:
        return adapter.checkpoint
    if (twin := twins_step(adapter)) is not None:
        return twin
    facts = TrainingFacts.objects.filter(adapter=adapter).first()
    step = facts.summary.get("steps") if facts is not None else None
    return step if type(step) is int and 0 <= step < 2**31 else None


def twins_step(adapter: LoraAdapter) -> int | None:
    """Of a run's own adapter: the checkpoint with the same files, the earliest of several."""
    if not adapter.group_hash or adapter.content_key in ("", UNKNOWN):
        return None
    same = LoraAdapter.objects.filter(group_hash=adapter.group_hash, content_key=adapter.content_key)
    return same.exclude(checkpoint=None).order_by("checkpoint").values_list("checkpoint", flat=True).first()
