"""Runs: made, cancelled, deleted. Synchronous; `queue.py` does what they ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.db import transaction
from django.http import Http404
from django.utils.translation import gettext as _

from adapters.models import BaseModel, LoraAdapter, Status
from common.api import ApiError
from common.numbers import grouped
from evaluations.models import Run, RunTarget, SetVersion
from evaluations.sets import forget_answers
from inference.engine.params import SamplingParams
from inference.errors import InferenceError
from inference.gateway.targets import of_adapter, of_base

DEFAULTS = {"temperature": 0.0, "max_tokens": 256}
SEED = 1  # of sampling without one: an answer that is asked again is the same


def visible(user: Any, pk: int) -> Run:
    """Raises Http404."""
    rows = Run.objects.visible_to(user).select_related("owner", "version__prompts")
    found = rows.filter(pk=pk).first()
    if found is None:
        raise Http404
    return found


def own(user: Any, pk: int) -> Run:
    """Raises Http404."""
    found = Run.objects.filter(owner_id=user.pk, pk=pk).select_related("owner", "version__prompts").first()
    if found is None:
        raise Http404
    return found


def create(
    user: Any, version: SetVersion, targets: Sequence[str], params: SamplingParams | None = None,
    activates: bool = False, shared: bool = False, token_ref: int = 0,
) -> Run:  # fmt: skip
    """A run that waits for its turn. `targets`: slugs; `activates`: inactive adapters, which needs an operator.

    Raises ApiError: InferenceError for a model that cannot be asked, 409 for bounds.
    """
    if not version.size:
        raise ApiError("empty", _("The prompt set has no items."), 409, "prompts")
    if Run.objects.filter(owner=user, of_gate=False).count() >= settings.EVALUATION_RUNS:
        message = _("You have %(limit)s evaluations, which is the limit. Delete some first.") % {
            "limit": grouped(settings.EVALUATION_RUNS)
        }
        raise ApiError("too_many", message, 409)
    slugs = list(dict.fromkeys(targets))
    if not 1 <= len(slugs) <= settings.EVALUATION_TARGETS:
        message = _("%(param)s must have from %(low)s to %(high)s entries.") % {
            "param": "targets", "low": 1, "high": grouped(settings.EVALUATION_TARGETS)
        }  # fmt: skip
        raise ApiError("out_of_range", message, 400, "targets")
    rows = [target_of(user, slug, activates) for slug in slugs]
    given = DEFAULTS | (params.given() if params else {})
    if given["temperature"] > 0 and given.get("seed") is None:
        given["seed"] = SEED
    with transaction.atomic():
        run = Run.objects.create(
            owner=user, version=version, params=given, shared=shared, activates=activates, token_ref=token_ref,
            total=version.size * len(rows),
        )  # fmt: skip
        for position, row in enumerate(rows):
            row.run, row.position = run, position
        RunTarget.objects.bulk_create(rows)
    return run


def members_of(user: Any, pk: int) -> list[str]:
    """Slugs of the adapters of the training run that this adapter belongs to, by their steps. Raises ApiError 404."""
    rows = LoraAdapter.objects.visible_to(user)
    one = rows.filter(pk=pk).first()
    if one is None or not one.group_hash:
        raise ApiError("not_found", _("The requested object was not found."), 404, "run_of")
    members = rows.filter(group_hash=one.group_hash, missing=False, incomplete=False, duplicate_of=None)
    return [*members.order_by("checkpoint", "slug").values_list("slug", flat=True)]


def target_of(user: Any, slug: str, activates: bool) -> RunTarget:
    """Raises InferenceError."""
    adapter = LoraAdapter.objects.select_related("base").filter(slug=slug).first()
    base = BaseModel.objects.filter(slug=slug).first() if adapter is None or adapter.status != Status.ACTIVE else None
    if adapter is None and base is None:
        raise InferenceError("unknown_target", "targets", {"name": slug[:100]})
    if adapter is None or base is not None:
        found = of_base(base)  # type: ignore[arg-type]
        return RunTarget(slug=found.slug, name=found.name)
    if adapter.status == Status.ACTIVE:
        of_adapter(adapter)
    elif not (activates and user.is_staff):
        raise InferenceError("adapter_inactive", "targets", {"name": adapter.name})
    return row_of(adapter)


def row_of(adapter: LoraAdapter) -> RunTarget:
    """A model of a run that this adapter stands for."""
    return RunTarget(
        adapter=adapter, slug=adapter.slug, name=adapter.name, group_hash=adapter.group_hash,
        checkpoint=adapter.checkpoint,
    )  # fmt: skip


def delete(run: Run) -> None:
    """With its answers, but for those that other runs of its owner have."""
    owner = run.owner_id
    run.cancel()
    with transaction.atomic():
        run.delete()
        forget_answers([owner])
