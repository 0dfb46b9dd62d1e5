"""A parity report as people and programs read it: its figures, its first difference, and one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from common.numbers import grouped_values
from evaluations import answers
from evaluations.models import Parity, Sample
from evaluations.models.explaining import explained

from .figures import Figure, figures, nearest, tolerance
from .precisions import PRECISIONS, REMARKS, Measured, measured, remark, way_of

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


def parity_json(report: Parity, done: int) -> dict[str, Any]:
    """`done`: how many of its samples are settled."""
    return answers.StoredParity.of(report, **_facts(report, done))


def whole_json(report: Parity) -> dict[str, Any]:
    rows = list(report.samples.select_related("item").order_by("item__number"))
    good = [row for row in rows if not row.code]
    facts = [row.facts for row in good]
    loss, expected = report.recorded.get("loss"), report.recorded.get("samples")
    batch = _batch(report.recorded, len(good))
    found = figures(facts, loss, batch)
    return answers.WholeParity.of(
        report, **_facts(report, len(rows)), errors=len(rows) - len(good), differing=differing(facts), batch=batch,
        tolerance=tolerance(loss) if loss is not None else None,
        recorded=answers.Recorded.of(**report.recorded) if report.recorded else None,
        implied=answers.Implied.of(**report.implied) if report.implied else None,
        same_samples=None if expected is None else expected == len(good),
        figures=[_figure(one, found) for one in found], precisions=_precisions(report, good),
        difference=_first(good), untold=_untold(facts),
        ending=next((one["ending"] for one in facts if one.get("ending")), ""),
    )  # fmt: skip


def _facts(report: Parity, done: int) -> dict[str, Any]:
    version, prompts = report.version, report.version.prompts
    code = report.outcome.get("verdict", "")
    sentence = str(SENTENCES[code]) % grouped_values(report.outcome["values"]) if code in SENTENCES else ""
    said = report.outcome.get("precision") or {}
    if said.get("code") in REMARKS:
        sentence = joined(sentence, str(REMARKS[said["code"]]) % said["values"])
    return {
        "prompts": prompts.pk, "prompts_name": prompts.name, "version": version.number,
        "version_digest": version.digest, "done": done, "verdict": code, "sentence": sentence,
        "precision_verdict": said.get("code", ""),
    }  # fmt: skip


def _batch(recorded: Mapping[str, Any], measured: int) -> int | None:
    """Samples of a batch, where the trainer had as many samples in so many batches."""
    samples, batches = recorded.get("samples"), recorded.get("batches")
    return -(-samples // batches) if samples and batches and samples == measured else None


def differing(facts: Sequence[Mapping[str, Any]]) -> int:
    return sum(bool(one.get("difference")) for one in facts)


def outcome(recorded: Mapping[str, Any], samples: Sequence[Any], served: str = "") -> dict[str, Any]:
    """Of the measured samples, once there are no more: a key of SENTENCES as `verdict` and the `values` it names, and
    as `precision` what `remark` says. `served`: the precision that they were served in."""
    said = _verdict(recorded, [one.facts for one in samples])
    if found := _measured(recorded, samples, served):
        said["precision"] = remark(found, served, said["verdict"] == "apart")
    return said


def _measured(recorded: Mapping[str, Any], samples: Sequence[Any], served: str) -> list[Measured]:
    loss, batch = recorded.get("loss"), _batch(recorded, len(samples))
    one = nearest(figures([sample.facts for sample in samples], loss, batch), "served")
    return measured(samples, served, way_of(one, samples), loss, batch)


def joined(one: str, other: str) -> str:
    """Two sentences; Chinese has no space between them."""
    return f"{one}{'' if one.endswith('。') else ' '}{other}"


def _verdict(recorded: Mapping[str, Any], facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
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


def _precisions(report: Parity, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Those that were not asked for too."""
    served, found = report.precision, {one.name: one for one in _measured(report.recorded, samples, report.precision)}
    names = PRECISIONS if served in ("", *PRECISIONS) else (*PRECISIONS, served)
    return [_precision(report, name, found.get(name), samples) for name in names]


def _precision(report: Parity, name: str, found: Measured | None, samples: Sequence[Sample]) -> dict[str, Any]:
    served = name == report.precision
    said = report.others.get(name, {})
    state = "done" if served else said.get("state") or ("waiting" if name in report.wanted else "")
    if state in ("waiting", "running") and not report.is_under_way:
        state = ""  # the report ended before
    code, detail = said.get("code", ""), said.get("detail", {})
    if not code and state == "done" and found is None and not served:  # none of its samples: why, by the first
        first: Mapping[str, Any] = next(
            (one.elsewhere[name] for one in samples if one.elsewhere.get(name, {}).get("code")), {}
        )
        code, detail = first.get("code", ""), first.get("detail", {})
    return answers.Precision.of(
        name=name, measured=found is not None and state == "done", served=served, state=state, code=code,
        message=explained(code, detail), done=len(samples) if served else sum(name in one.elsewhere for one in samples),
        loss=found.loss if found else None, tokens=found.tokens if found else 0,
        reference=found is not None and found.name == found.reference, against=found.reference if found else "",
        difference=found.difference if found else None, tolerance=found.tolerance if found else None,
        matters=found is not None and found.matters,
    )  # fmt: skip


def _first(measured: Sequence[Sample]) -> dict[str, Any] | None:
    for row in measured:
        if apart := row.facts.get("difference"):
            return answers.TokenDifference.of(item=row.item.number, **apart)
    return None


def _untold(facts: Sequence[Mapping[str, Any]]) -> str:
    """Why training's tokens are not known, of the first sample of which they are not."""
    return next((gettext(one["untold"]) for one in facts if one.get("untold")), "")
