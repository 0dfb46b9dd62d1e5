"""Gates: saved, told of, removed. For operators alone; who calls this has made sure of it."""

from __future__ import annotations

from typing import Any

from django.http import Http404
from django.utils.translation import gettext as _

from adapters.failures import Refused, render
from adapters.lifecycle.editing import clean_tags
from adapters.models import LoraAdapter, Status
from common.api import ApiError
from common.numbers import grouped
from evaluations import answers, sets
from evaluations.models import Family, Gate, GateVerdict, Notice, NoticeState, VerdictState
from evaluations.models.gates import PENDING
from evaluations.runs.figures import share

from . import sending, standing, webhooks
from .standing import Standing

MOST = 100  # gates of an installation: each scan's findings are compared with all of them


def one(pk: int) -> Gate:
    """Raises Http404."""
    found = Gate.objects.select_related("prompts", "owner").filter(pk=pk).first()
    if found is None:
        raise Http404
    return found


def save(user: Any, gate: Gate, **changes: Any) -> Gate:
    """A new one, or changed; its evaluations are `user`'s from now on. Raises ApiError, Http404."""
    prompts = changes.pop("prompts", None)
    if prompts is not None:
        gate.prompts = _set_of(user, prompts)
    for field, value in changes.items():
        setattr(gate, field, value)
    if gate.kind == Family.TAG and (cleaned := clean_tags([gate.name])):
        gate.name = cleaned[0]  # as tags are kept
    if gate.least is None and not gate.not_worse:
        raise ApiError("required", _("Give a lowest pass rate, or ask for one that is not worse."), 400, "least")
    if gate.webhook:
        try:
            sending.check(gate.webhook)
        except sending.NotSentError as error:
            raise ApiError(error.code, str(webhooks.SENTENCES[error.code]), 400, "webhook") from None
    if gate.pk is None and Gate.objects.count() >= MOST:
        raise ApiError("too_many", _("There can be up to %(limit)s gates.") % {"limit": grouped(MOST)}, 409)
    gate.owner = user
    gate.save()
    return gate


def _set_of(user: Any, pk: int) -> Any:
    try:
        prompts = sets.visible(user, pk)
    except Http404:
        raise ApiError("not_found", _("The requested object was not found."), 404, "prompts") from None
    if not any(sets.version_of(prompts).items.values_list("checks", flat=True)):
        raise ApiError("gate_set_missing", render("gate_set_missing", {}), 409, "prompts")
    return prompts


def problem_of(gate: Gate) -> str:
    """Code of why it can judge nothing now, or ""."""
    try:
        standing.usable_version(gate)
    except Refused as refused:
        return refused.code
    return ""


def gate_json(gate: Gate) -> dict[str, Any]:
    problem = problem_of(gate)
    return answers.StoredGate.of(
        gate, prompts_name=gate.prompts.name if gate.prompts else "", problem=problem, message=render(problem, {}),
        owner=gate.owner.get_username() if gate.owner else "",
    )  # fmt: skip


def outcome_of(gate: Gate, verdict: GateVerdict) -> str:
    if verdict.state in PENDING:
        return "pending"
    if verdict.state == VerdictState.FAILED:
        return "unjudged"
    return "failed" if standing.objection_of(gate, verdict) else "passed"


def verdict_json(gate: Gate, verdict: GateVerdict) -> dict[str, Any]:
    adapter = verdict.adapter
    return answers.StoredVerdict.of(
        verdict, family=gate.name, adapter_name=adapter.name, slug=adapter.slug, checkpoint=adapter.checkpoint,
        outcome=outcome_of(gate, verdict),
        pass_rate=share(verdict.passed, verdict.judged) if verdict.state == VerdictState.JUDGED else None,
    )  # fmt: skip


def standings_json(adapter: LoraAdapter) -> dict[str, Any]:
    found = standing.of_adapter(adapter)
    results = [_standing_json(one) for one in found]
    return answers.Standings.of(
        adapter, adapter=adapter.pk, active=adapter.status == Status.ACTIVE, results=results,
        passes=not any(one.code for one in found), pending=any(one.pending for one in found),
    )  # fmt: skip


def _standing_json(found: Standing) -> dict[str, Any]:
    verdict = verdict_json(found.gate, found.verdict) if found.verdict is not None else None
    return answers.GateStanding.of(
        found, gate=found.gate.pk, family=found.gate.name, passes=not found.code, verdict=verdict
    )


def notice_json(notice: Notice) -> dict[str, Any]:
    waiting = notice.state == NoticeState.WAITING
    return answers.StoredNotice.of(
        notice, key=str(notice.key), message=str(webhooks.SENTENCES.get(notice.code, "")),
        next_at=notice.next_at if waiting else None,
    )  # fmt: skip


def judge(gate: Gate, adapter: LoraAdapter) -> GateVerdict:
    """Have an adapter of the gate's family judged, also again. Raises ApiError."""
    if not gate.members().filter(pk=adapter.pk).exists():
        message = _("The adapter does not belong to this gate's family.")
        raise ApiError("invalid", message, 400, "adapter")
    if problem := problem_of(gate):
        raise ApiError(problem, render(problem, {}), 409)
    return standing.request(gate, adapter)
