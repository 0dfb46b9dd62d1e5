"""Parity reports: made, cancelled, deleted. Synchronous; the queue of evaluations does what they ask for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.http import Http404
from django.utils.translation import gettext as _

from adapters.lifecycle.sources import real_roots
from adapters.models import LoraAdapter, TrainingFacts
from adapters.training.evaluated import evaluated
from adapters.training.steps import step_of
from common.api import ApiError
from common.numbers import grouped
from evaluations.models import Parity, SetVersion
from inference.errors import InferenceError
from inference.gateway.apart import refusal
from inference.gateway.targets import of_adapter

from .precisions import PRECISIONS


def own(user: Any, pk: int) -> Parity:
    """Raises Http404."""
    rows = Parity.objects.of(user).select_related("owner", "adapter", "version__prompts")
    found = rows.filter(pk=pk).first()
    if found is None:
        raise Http404
    return found


def create(user: Any, slug: str, version: SetVersion, token_ref: int = 0, precisions: Sequence[str] = ()) -> Parity:
    """A report that waits for its turn. `precisions`: further ones of the base that it is measured in.

    Raises ApiError: InferenceError for an adapter that cannot be asked and for a precision that cannot be measured, 409
    for a set without references, for bounds.
    """
    adapter = LoraAdapter.objects.select_related("base").filter(slug=slug).first()
    if adapter is None:
        raise InferenceError("unknown_target", "adapter", {"name": slug[:100]})
    target = of_adapter(adapter)
    for name in precisions:
        if adapter.base is not None and (refused := refusal(adapter.base, name)) is not None:
            raise refused
    if not version.size:
        raise ApiError("empty", _("The prompt set has no items."), 409, "prompts")
    bare = version.items.filter(reference="").first()
    if bare is not None:
        message = _("Item %(number)s has no reference answer: every sample needs the answer that was trained.")
        raise ApiError("required", message % {"number": grouped(bare.number)}, 409, "prompts")
    if Parity.objects.of(user).count() >= settings.EVALUATION_RUNS:
        message = _("You have %(limit)s parity reports, which is the limit. Delete some first.")
        raise ApiError("too_many", message % {"limit": grouped(settings.EVALUATION_RUNS)}, 409)
    step = step_of(adapter)
    return Parity.objects.create(
        owner=user, version=version, adapter=adapter, slug=adapter.slug, name=adapter.name, step=step,
        digest=target.digest, base_key=target.base["key"], base_name=target.base["name"],
        prompting=target.adapter.get("prompting", "") if target.adapter else "", recorded=recorded_of(adapter, step),
        token_ref=token_ref, total=version.size, wanted=[name for name in PRECISIONS if name in precisions],
    )  # fmt: skip


def offered(adapter: LoraAdapter) -> list[dict[str, str]]:
    """The precisions, with the reason why one cannot be measured now; none where the adapter has no base."""
    if adapter.base is None:
        return []
    refusals = {name: refusal(adapter.base, name) for name in PRECISIONS}
    return [{"name": name, "reason": error.message if error else ""} for name, error in refusals.items()]


def recorded_of(adapter: LoraAdapter, step: int | None) -> dict[str, Any]:
    """What the trainer's evaluation at exactly this step came to; {} for none."""
    if step is None:
        return {}
    run = os.path.dirname(adapter.path) if adapter.checkpoint is not None else adapter.path
    found = evaluated(real_roots(), (adapter.path, run), step)
    if found is not None:
        return {"loss": found.loss, "samples": found.samples, "batches": found.batches}
    facts = TrainingFacts.objects.filter(adapter=adapter).first()  # the folder is gone, or the trainer has another log
    points = facts.curve if facts is not None else []
    loss = next((point["eval_loss"] for point in points if point["step"] == step and "eval_loss" in point), None)
    return {"loss": loss, "samples": None, "batches": None} if loss is not None else {}


def delete(report: Parity) -> None:
    report.cancel()
    report.delete()
