"""Judging: each adapter of a family that is not active is evaluated once, when nothing else is to be evaluated.

Runs in the queue's thread between two runs, so that one process alone does it at a time. What happened is in the
database alone: a process that is killed anywhere in here leaves a verdict that the next one goes on with.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from django.db import DatabaseError, InterfaceError, transaction
from django.utils import timezone

from adapters.failures import BusyError, Refused
from adapters.lifecycle.activation import Prepared
from adapters.lifecycle.trying import give_up, try_out
from adapters.models import LoraAdapter
from evaluations.models import (
    Duel,
    Gate,
    GateVerdict,
    Parity,
    Result,
    Run,
    RunState,
    RunTarget,
    SetVersion,
    TargetState,
    VerdictState,
)
from evaluations.models.explaining import kept
from evaluations.runs import making

from . import standing, webhooks

logger = logging.getLogger(__name__)

AT_MOST = 20  # verdicts that are looked at in one turn for one whose adapter nobody else is at
KEPT_RUNS = 100  # of a gate; older ones go with their answers, their figures stay


def turn(alive: Callable[[], None] = lambda: None) -> None:
    """Settle what has been evaluated; where no evaluation is under way, begin with the next adapter.

    `alive` is called every now and then, and raises where somebody else has taken over.
    """
    if not Gate.objects.exists():  # every portal asks every two seconds
        return
    for verdict in GateVerdict.objects.filter(state=VerdictState.RUNNING).select_related("gate", "adapter", "run"):
        if verdict.run is None or not verdict.run.is_under_way:
            settle(verdict)
    if any(rows.under_way().exists() for rows in (Run.objects, Parity.objects, Duel.objects)):
        return
    _note_new()
    waiting = GateVerdict.objects.filter(state=VerdictState.WAITING).order_by("pk")
    for verdict in waiting.select_related("gate__owner", "gate__prompts", "adapter")[:AT_MOST]:
        if begin(verdict, alive):
            return


def _note_new() -> None:
    """Of each gate the newest adapter that nothing is known of, unless one waits already."""
    for gate in Gate.objects.select_related("owner", "prompts").order_by("pk"):
        if gate.verdicts.filter(state=VerdictState.WAITING).exists():
            continue
        adapter = standing.unjudged(gate).order_by("-pk").first()
        if adapter is None:
            continue
        try:
            standing.usable_version(gate)
        except Refused:
            continue  # its page says so; each adapter would only hear the same
        GateVerdict.objects.create(gate=gate, adapter=adapter, files=standing.files_of(adapter))


def begin(verdict: GateVerdict, alive: Callable[[], None]) -> bool:
    """Copy the adapter and have its questions queued. False where somebody else is at it: it goes on waiting."""
    try:
        version = standing.usable_version(verdict.gate)
        try_out(verdict.adapter_id, partial(_taken, verdict, version), alive)
    except BusyError:
        return False
    except LoraAdapter.DoesNotExist:
        return True  # its verdict went with it
    except Refused as refused:
        _end(verdict, VerdictState.FAILED, kept(refused))
    except (DatabaseError, InterfaceError):
        raise
    except Exception as error:  # what fails for one adapter must not hold up the queue
        logger.exception("%s could not be evaluated for the gate %s", verdict.adapter, verdict.gate)
        _end(verdict, VerdictState.FAILED, kept(error))
    if verdict.state not in (VerdictState.WAITING, VerdictState.RUNNING):
        give_up_copy(verdict)
    return True


def _taken(verdict: GateVerdict, version: SetVersion, prepared: Prepared) -> None:
    """The copy is there, and the adapter's lock is held."""
    gate, base = verdict.gate, prepared.base
    if base is None:
        raise Refused("base_not_found")
    against = standing.active_of(gate, prepared.digest) if gate.not_worse else None
    facts: dict[str, Any] = {
        "digest": prepared.digest, "base_key": base.key, "version": version, "max_tokens": gate.max_tokens,
        "against_digest": against.digest if against else "", "against_name": against.name if against else "",
    }  # fmt: skip
    known = gate.verdicts.filter(state=VerdictState.JUDGED, **{k: v for k, v in facts.items() if k != "against_name"})
    if (same := known.first()) is not None:
        figures = {"passed": same.passed, "judged": same.judged, "against_passed": same.against_passed, "run": same.run}
        _end(verdict, VerdictState.JUDGED, {**facts, **figures})
        return
    with transaction.atomic():
        run = _run(verdict, version, prepared, against)
        _write(verdict, VerdictState.WAITING, {**facts, "run": run, "state": VerdictState.RUNNING})
    _forget_old_runs(gate)


def _run(verdict: GateVerdict, version: SetVersion, prepared: Prepared, against: LoraAdapter | None) -> Run:
    gate, adapter, base = verdict.gate, verdict.adapter, prepared.base
    if gate.owner is None:  # gone since the gate was looked at
        raise Refused("gate_owner_missing")
    rows = [making.row_of(adapter)]
    if base is not None:
        rows[0].base_key, rows[0].base_name = base.key, base.name
    rows[0].digest, rows[0].prompting, rows[0].trial = prepared.digest, prepared.prompting.get("sha256", ""), True
    if against is not None:
        rows.append(making.row_of(against))
    run = Run.objects.create(
        owner=gate.owner, version=version, params=gate.params(), of_gate=True, total=version.size * len(rows)
    )
    for position, row in enumerate(rows):
        row.run, row.position = run, position
    RunTarget.objects.bulk_create(rows)
    return run


def _forget_old_runs(gate: Gate) -> None:
    old = gate.verdicts.exclude(run=None).order_by("-run").values_list("run", flat=True).distinct()[KEPT_RUNS:]
    for run in Run.objects.filter(pk__in=[*old], of_gate=True):
        making.delete(run)


def settle(verdict: GateVerdict) -> None:
    """Its run has ended: what did it come to?"""
    run = verdict.run
    if run is None or run.state == RunState.CANCELLED:
        _end(verdict, VerdictState.FAILED, {"code": "gate_cancelled"})
    elif run.state == RunState.FAILED:
        _end(verdict, VerdictState.FAILED, {"code": run.code, "detail": run.detail})
    else:
        _end_by_figures(verdict, list(run.targets.all()))
    give_up_copy(verdict)


def _end_by_figures(verdict: GateVerdict, targets: list[RunTarget]) -> None:
    for target in targets:
        if target.state != TargetState.DONE:  # a part of its answers says nothing
            _end(verdict, VerdictState.FAILED, {"code": target.code, "detail": target.detail})
            return
    counts = [_count(target) for target in targets]
    passed, judged = counts[0]
    if not judged:
        _end(verdict, VerdictState.FAILED, {"code": "gate_set_missing"})
        return
    figures: dict[str, Any] = {"passed": passed, "judged": judged}
    if len(targets) > 1:
        # What was asked: another adapter may have become active since it was looked for.
        figures |= {"against_passed": counts[1][0], "against_digest": targets[1].digest}
    _end(verdict, VerdictState.JUDGED, figures)


def _count(target: RunTarget) -> tuple[int, int]:
    rows = Result.objects.filter(target=target)
    return rows.filter(passed=True).count(), rows.filter(passed__isnull=False).count()


def _end(verdict: GateVerdict, state: VerdictState, facts: Mapping[str, Any]) -> None:
    """Once, whoever comes first; with it the gate's webhook has something to say."""
    with transaction.atomic():
        if _write(verdict, verdict.state, {**facts, "state": state, "ended_at": timezone.now()}):
            webhooks.post(verdict)


def _write(verdict: GateVerdict, before: str, fields: Mapping[str, Any]) -> bool:
    if not GateVerdict.objects.filter(pk=verdict.pk, state=before).update(**fields):
        return False
    for name, value in fields.items():
        setattr(verdict, name, value)
    return True


def give_up_copy(verdict: GateVerdict) -> None:
    if verdict.digest:
        give_up(verdict.digest)
