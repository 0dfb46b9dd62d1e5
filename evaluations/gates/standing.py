"""How an adapter's content stands with the gates of its family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from django.db.models import Exists, OuterRef
from django.db.models.functions import Substr

from adapters.failures import Refused, render
from adapters.models import LoraAdapter, Status
from adapters.models.adapter import AdapterQuerySet
from common.numbers import grouped
from evaluations.models import Gate, GateVerdict, SetVersion, VerdictState
from evaluations.models.gates import PENDING
from evaluations.models.sets import PromptSet
from evaluations.runs import queue

WAITING, BELOW, WORSE, UNJUDGED = "gate_waiting", "gate_below_bar", "gate_worse", "gate_unjudged"
NOT_NEW, UNLISTED = "gate_not_new", "gate_unlisted"
FILES = 32  # characters of an adapter's signature that tell its files
TOLERANCE = 1e-9  # 0.9 is no exact number


@dataclass(frozen=True)
class Standing:
    """`code`: why the gate objects, "" where it lets the content through. `unasked`: why no evaluation that would
    settle it begins by itself, "" where one does or none is needed."""

    gate: Gate
    verdict: GateVerdict | None = None
    code: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    unasked: str = ""

    @property
    def message(self) -> str:
        return render(self.code, dict(self.details))

    @property
    def unasked_message(self) -> str:
        return render(self.unasked, {}) if self.unasked else ""

    @property
    def is_queued(self) -> bool:
        return self.verdict is not None and self.verdict.state in PENDING

    @property
    def pending(self) -> bool:
        """Whether a verdict will come: from the moment when the gate concerns the adapter, not from its turn on."""
        return self.is_queued or (self.code == WAITING and not self.unasked)


def percent(share: float) -> str:
    """As people write it, whatever their language: 90%, 87.5%."""
    return f"{100 * share:.1f}".removesuffix(".0") + "%"


def family(gate: Gate) -> str:
    return gate.name


def version_of(gate: Gate) -> SetVersion | None:
    """The newest version of the gate's set."""
    if gate.prompts is None:
        return None
    return SetVersion.objects.filter(prompts=gate.prompts_id, number=gate.prompts.version).first()


def usable_version(gate: Gate) -> SetVersion:
    """That the gate's questions can be asked of. Raises Refused gate_owner_missing, gate_set_missing."""
    owner = gate.owner
    if owner is None or not owner.is_active or not owner.is_staff:
        raise Refused("gate_owner_missing")
    seen = gate.prompts_id and PromptSet.objects.visible_to(owner).filter(pk=gate.prompts_id).exists()
    version = version_of(gate) if seen else None
    if version is None or not any(version.items.values_list("checks", flat=True)):
        raise Refused("gate_set_missing")
    return version


def active_of(gate: Gate, digest: str) -> LoraAdapter | None:
    """The adapter of the family that was activated last, of those that are active with other content."""
    rows = gate.members().active().exclude(digest=digest).select_related("base")
    return rows.order_by("-activated_at", "-pk").first()


def objection_of(gate: Gate, verdict: GateVerdict) -> str:
    """Of figures that are there: a code, or "" where they meet the bar."""
    share = verdict.passed / verdict.judged if verdict.judged else 0.0
    if gate.least is not None and share < gate.least - TOLERANCE:
        return BELOW
    if gate.not_worse and verdict.against_digest and verdict.passed < verdict.against_passed:
        return WORSE
    return ""


def details_of(gate: Gate, verdict: GateVerdict | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"family": family(gate)}
    if verdict is not None and verdict.state == VerdictState.JUDGED:
        facts |= {"passed": verdict.passed, "judged": verdict.judged, "least": percent(gate.least or 0.0)}
        facts |= {"against": verdict.against_name, "other": verdict.against_passed}
    elif verdict is not None:
        facts["why"] = verdict.code
    return facts


def of_content(gate: Gate, adapter: LoraAdapter, digest: str, base_key: str) -> Standing:
    """Of this content on this base, as this adapter."""
    version = version_of(gate)
    rows = gate.verdicts.filter(digest=digest, base_key=base_key, state=VerdictState.JUDGED)
    known = rows.filter(version=version, max_tokens=gate.max_tokens).first() if version is not None else None
    if known is not None:
        code = objection_of(gate, known)
        if code == BELOW or not _is_outdated(gate, known):
            return Standing(gate, known, code, details_of(gate, known) if code else {})
    latest = gate.verdicts.filter(adapter=adapter).first()
    if latest is not None and latest.state == VerdictState.FAILED and latest.digest in ("", digest):
        return Standing(gate, latest, UNJUDGED, details_of(gate, latest))
    pending = latest if latest is not None and latest.state in PENDING else None
    return Standing(gate, pending, WAITING, {"family": family(gate)})


def _is_outdated(gate: Gate, verdict: GateVerdict) -> bool:
    """Whether another adapter is active than the one that it was compared with."""
    if not gate.not_worse:
        return False
    active = active_of(gate, verdict.digest)
    return (active.digest if active is not None else "") != verdict.against_digest


def unjudged(gate: Gate) -> AdapterQuerySet:
    """The adapters of the family that could be activated and whose files this gate has not looked at: they are judged
    without being asked for."""
    known = GateVerdict.objects.filter(gate=gate, adapter=OuterRef("pk"), files=OuterRef("files"))
    rows = gate.members().filter(status=Status.DISCOVERED, missing=False, incomplete=False, duplicate_of=None)
    rows = rows.exclude(signature="").annotate(files=Substr("signature", 1, FILES))
    return rows.filter(~Exists(known))


def why_unasked(gate: Gate, adapter: LoraAdapter) -> str:
    """Why no evaluation of what waits begins by itself: a code, or "" where one does."""
    try:
        usable_version(gate)
    except Refused as refused:
        return refused.code
    if unjudged(gate).filter(pk=adapter.pk).exists():
        return ""
    return NOT_NEW if gate.verdicts.filter(adapter=adapter, files=files_of(adapter)).exists() else UNLISTED


def of_adapter(adapter: LoraAdapter) -> list[Standing]:
    """Of its files as the last scan saw them, for people and programs; gate after gate."""
    found = _by_gate(adapter)
    return [
        replace(one, unasked=why_unasked(one.gate, adapter)) if one.code == WAITING and not one.is_queued else one
        for one in found
    ]


def _by_gate(adapter: LoraAdapter) -> list[Standing]:
    found = []
    for gate in Gate.objects.concerning(adapter):
        verdict = (
            gate.verdicts.filter(adapter=adapter, files=files_of(adapter)).select_related("run", "version").first()
        )
        if adapter.status == Status.ACTIVE and not adapter.update_available:
            found.append(Standing(gate, verdict))
        elif verdict is not None and verdict.digest:
            found.append(of_content(gate, adapter, verdict.digest, verdict.base_key))
        elif verdict is not None and verdict.state == VerdictState.FAILED:
            found.append(Standing(gate, verdict, UNJUDGED, details_of(gate, verdict)))
        else:
            found.append(Standing(gate, verdict, WAITING, {"family": family(gate)}))
    return found


def files_of(adapter: LoraAdapter) -> str:
    return adapter.signature[:FILES]


def request(gate: Gate, adapter: LoraAdapter) -> GateVerdict:
    """Have the adapter's files judged, as soon as there is time; the one that waits already where there is one."""
    waiting = gate.verdicts.filter(adapter=adapter, state__in=PENDING).first()
    if waiting is None:
        waiting = GateVerdict.objects.create(gate=gate, adapter=adapter, files=files_of(adapter))
    queue.wake()
    return waiting


def shown_bar(gate: Gate) -> str:
    """The bar in symbols: ≥ 90%."""
    return f"≥ {percent(gate.least)}" if gate.least is not None else ""


def shown_count(verdict: GateVerdict) -> str:
    return f"{grouped(verdict.passed)} / {grouped(verdict.judged)}"
