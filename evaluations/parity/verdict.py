"""A parity report as people and programs read it: its figures, its first difference, and one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from common.numbers import grouped_values
from evaluations import answers
from evaluations.models import Parity, Sample

from .figures import Figure, figures, nearest, tolerance

SENTENCES = {
    "arrives": _("The loss here is %(loss)s, the trainer recorded %(recorded)s: what was trained arrives."),
    "arrives_otherwise": _(
        "The loss here is %(loss)s, the trainer recorded %(recorded)s: what was trained arrives, although "
        "%(differing)s of %(samples)s samples have other tokens here."
    ),
    "rendering": _(
        "The loss here is %(loss)s, the trainer recorded %(recorded)s: what was trained does not arrive, because "
        "prompts have other tokens here; with those of training the loss is %(trained)s."
    ),
    "apart": _(
        "The loss here is %(loss)s, the trainer recorded %(recorded)s: they differ by more than %(tolerance)s, so what "
        "was trained does not arrive unchanged."
    ),
    "other_samples": _(
        "The loss here is %(loss)s over %(samples)s samples, the trainer recorded %(recorded)s over %(expected)s: "
        "these are not the same samples, so nothing follows."
    ),
    "unrecorded": _(
        "The loss here is %(loss)s; the trainer recorded no evaluation at this step that it can be compared with."
    ),
    "unmeasured": _("None of the samples could be measured."),
}
ARRIVES = ("arrives", "arrives_otherwise")
PRECISIONS = ("fp32", "bf16", "int8", "nf4")


def parity_json(report: Parity, done: int) -> dict[str, Any]:
    """`done`: how many of its samples are settled."""
    return answers.StoredParity.of(report, **_facts(report, done))


def whole_json(report: Parity) -> dict[str, Any]:
    rows = list(report.samples.select_related("item").order_by("item__number"))
    measured = [row for row in rows if not row.code]
    facts = [row.facts for row in measured]
    loss, expected = report.recorded.get("loss"), report.recorded.get("samples")
    batch = _batch(report.recorded, len(measured))
    found = figures(facts, loss, batch)
    return answers.WholeParity.of(
        report, **_facts(report, len(rows)), errors=len(rows) - len(measured), differing=differing(facts), batch=batch,
        tolerance=tolerance(loss) if loss is not None else None,
        recorded=answers.Recorded.of(**report.recorded) if report.recorded else None,
        implied=answers.Implied.of(**report.implied) if report.implied else None,
        same_samples=None if expected is None else expected == len(measured),
        figures=[_figure(one, found) for one in found], precisions=_precisions(report),
        difference=_first(measured), untold=_untold(facts),
        ending=next((one["ending"] for one in facts if one.get("ending")), ""),
    )  # fmt: skip


def _facts(report: Parity, done: int) -> dict[str, Any]:
    version, prompts = report.version, report.version.prompts
    code = report.outcome.get("verdict", "")
    sentence = str(SENTENCES[code]) % grouped_values(report.outcome["values"]) if code in SENTENCES else ""
    return {
        "prompts": prompts.pk, "prompts_name": prompts.name, "version": version.number,
        "version_digest": version.digest, "done": done, "verdict": code, "sentence": sentence,
    }  # fmt: skip


def _batch(recorded: Mapping[str, Any], measured: int) -> int | None:
    """Samples of a batch, where the trainer had as many samples in so many batches."""
    samples, batches = recorded.get("samples"), recorded.get("batches")
    return -(-samples // batches) if samples and batches and samples == measured else None


def differing(facts: Sequence[Mapping[str, Any]]) -> int:
    return sum(bool(one.get("difference")) for one in facts)


def outcome(recorded: Mapping[str, Any], facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the measured samples, once there are no more: a key of SENTENCES as `verdict` and the `values` it names."""
    loss, expected = recorded.get("loss"), recorded.get("samples")
    found = figures(facts, loss, _batch(recorded, len(facts)))
    served, trained = nearest(found, "served"), nearest(found, "trained")
    if served is None:
        return {"verdict": "unmeasured", "values": {}}
    values: dict[str, Any] = {"loss": shown(served.loss), "samples": len(facts), "differing": differing(facts)}
    if loss is None:
        return {"verdict": "unrecorded", "values": values}
    values |= {"recorded": shown(loss), "tolerance": shown(tolerance(loss)), "expected": expected}
    if expected is not None and expected != len(facts):
        code = "other_samples"
    elif served.within:
        code = "arrives_otherwise" if differing(facts) else "arrives"
    elif trained is not None and trained.within:
        code, values["trained"] = "rendering", shown(trained.loss)
    else:
        code = "apart"
    return {"verdict": code, "values": values}


def shown(loss: float) -> str:
    return f"{loss:.3f}"


def _figure(one: Figure, found: Sequence[Figure]) -> dict[str, Any]:
    return answers.ParityFigure.of(one, nearest=one is nearest(found, one.rendering))


def _precisions(report: Parity) -> list[dict[str, Any]]:
    """Those that were not measured too: a base is not loaded in another one for a report."""
    present = report.precision
    names = PRECISIONS if present in ("", *PRECISIONS) else (*PRECISIONS, present)
    return [answers.Precision.of(name=name, measured=name == present) for name in names]


def _first(measured: Sequence[Sample]) -> dict[str, Any] | None:
    for row in measured:
        if apart := row.facts.get("difference"):
            return answers.TokenDifference.of(item=row.item.number, **apart)
    return None


def _untold(facts: Sequence[Mapping[str, Any]]) -> str:
    """Why training's tokens are not known, of the first sample of which they are not."""
    return next((gettext(one["untold"]) for one in facts if one.get("untold")), "")
