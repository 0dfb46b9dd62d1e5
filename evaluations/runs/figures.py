"""What a run came to so far: how far it is, how long the rest may take, how much passed, where the models disagree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from django.conf import settings
from django.db.models import Count, Q, Sum

from common.shares import wilson
from evaluations import answers
from evaluations.models import Item, Result, Run, RunTarget

NOTHING: dict[str, Any] = dict.fromkeys(("done", "again", "fresh", "prompt_tokens", "completion_tokens", "seconds"), 0)
FILTERS = ("", "disagree", "failed", "errors")


def run_json(run: Run, user: Any, counts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return answers.StoredRun.of(run, **_facts(run, user, counts or counts_of([run])[run.pk]))


def whole_json(run: Run, user: Any) -> dict[str, Any]:
    facts = _facts(run, user, counts_of([run])[run.pk])
    return answers.WholeRun.of(run, **facts, targets=targets_of(run))


def _facts(run: Run, user: Any, counts: Mapping[str, Any]) -> dict[str, Any]:
    prompts = run.version.prompts
    seconds, tokens = expected(run, counts)
    return {
        "prompts": prompts.pk, "prompts_name": prompts.name, "version": run.version.number,
        "version_digest": run.version.digest, "owner": run.owner.get_username(), "mine": run.owner_id == user.pk,
        **{name: counts[name] or 0 for name in ("done", "prompt_tokens", "completion_tokens")},
        "reused": counts["again"],
        "expected_seconds": seconds, "expected_tokens": tokens,
    }  # fmt: skip


def counts_of(runs: Sequence[Run]) -> dict[int, dict[str, Any]]:
    """Of each run what is settled, and what its own answers took."""
    fresh, scored = Q(reused=False, answer__isnull=False), Q(score_reused=False, score__isnull=False)
    rows = (
        Result.objects.filter(target__run__in=[run.pk for run in runs])
        .order_by()
        .values("target__run")
        .annotate(
            done=Count("pk"),
            again=Count("pk", filter=Q(reused=True)),  # (not by the field's name, which the next ones look at)
            fresh=Count("pk", filter=fresh | scored),
            answer_tokens=Sum("answer__prompt_tokens", filter=fresh),
            score_tokens=Sum("score__prompt_tokens", filter=scored),
            completion_tokens=Sum("answer__completion_tokens", filter=fresh),
            answer_seconds=Sum("answer__seconds", filter=fresh),
            score_seconds=Sum("score__seconds", filter=scored),
        )
    )
    found = {row["target__run"]: _counts(row) for row in rows}
    return {run.pk: found.get(run.pk, NOTHING) for run in runs}


def _counts(row: Mapping[str, Any]) -> dict[str, Any]:
    """`seconds`: that what one result needed took in the mean."""
    both = {name: (row[f"answer_{name}"] or 0) + (row[f"score_{name}"] or 0) for name in ("tokens", "seconds")}
    seconds = both["seconds"] / row["fresh"] if row["fresh"] else 0.0
    return {**row, "prompt_tokens": both["tokens"], "seconds": seconds}


def expected(run: Run, counts: Mapping[str, Any]) -> tuple[float | None, int | None]:
    """(seconds, tokens) that the rest is likely to take, by what this run has computed; None where nothing was yet."""
    if not run.is_under_way or not counts["fresh"]:
        return None, None
    left = max(0, run.total - counts["done"])
    tokens = (counts["prompt_tokens"] or 0) + (counts["completion_tokens"] or 0)
    seconds = left * (counts["seconds"] or 0.0) / settings.EVALUATION_CONCURRENT
    return round(seconds, 1), left * tokens // counts["fresh"]


def targets_of(run: Run) -> list[dict[str, Any]]:
    by_target = (
        Result.objects.filter(target__run=run)
        .order_by()
        .values("target")
        .annotate(
            done=Count("pk"),
            judged=Count("pk", filter=Q(passed__isnull=False)),
            errors=Count("pk", filter=~Q(code="")),
            good=Count("pk", filter=Q(passed=True)),
            scored=Count("score"),
            logprob=Sum("score__logprob"),
            tokens=Sum("score__tokens"),
        )
    )
    found = {row["target"]: row for row in by_target}
    nothing = dict.fromkeys(("done", "good", "judged", "errors", "scored"), 0)
    rows = []
    for target in run.targets.all():
        counts = found.get(target.pk, nothing)
        figures = {name: counts[name] for name in ("done", "judged", "errors")} | {"passed": counts["good"]}
        rate = share(counts["good"], counts["judged"])
        rows.append(answers.StoredTarget.of(target, **figures, pass_rate=rate, loss=loss_of(counts)))
    return rows


def loss_of(counts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Of the references that were scored: every token counts the same, as in a trainer's loss of a batch."""
    if not counts["scored"]:
        return None
    return {"loss": -counts["logprob"] / counts["tokens"], "tokens": counts["tokens"], "items": counts["scored"]}


def share(passed: int, judged: int) -> dict[str, float] | None:
    if not judged:
        return None
    low, high = wilson(passed, judged)
    return {"share": passed / judged, "low": low, "high": high}


def items_of(run: Run, kind: str = "", search: str = "") -> Any:
    """The run's items, or those where models disagree (in verdicts, or without any in texts), or where one fails."""
    rows = run.version.items
    results = Result.objects.filter(target__run=run)
    if kind == "disagree":
        several = results.order_by().values("item").annotate(verdicts=Count("passed", distinct=True))
        judged = several.filter(verdicts__gt=1).values("item")
        texts = results.filter(passed=None).order_by().values("item").annotate(n=Count("answer__text", distinct=True))
        rows = rows.filter(Q(pk__in=judged) | Q(pk__in=texts.filter(n__gt=1).values("item")))
    elif kind == "failed":
        rows = rows.filter(pk__in=results.filter(passed=False).values("item"))
    elif kind == "errors":
        rows = rows.filter(pk__in=results.exclude(code="").values("item"))
    return rows.filter(title__icontains=search) if search else rows


def cells_of(run: Run, items: Sequence[Item]) -> dict[int, dict[int, Result]]:
    """By the item's id and the target's id."""
    found: dict[int, dict[int, Result]] = defaultdict(dict)
    rows = Result.objects.filter(target__run=run, item__in=[item.pk for item in items])
    rows = rows.select_related("answer", "score")
    for row in rows:
        found[row.item_id][row.target_id] = row
    return found


def rows_json(run: Run, items: Sequence[Item]) -> list[dict[str, Any]]:
    cells = cells_of(run, items)
    return [
        answers.Row.of(item=answers.StoredItem.of(item), cells=[cell_json(cell) for cell in cells[item.pk].values()])
        for item in items
    ]


def cell_json(cell: Result) -> dict[str, Any]:
    answer, score = cell.answer, cell.score
    return answers.Cell.of(
        cell, target=cell.target_id, answer=answer.text if answer else None,
        finish_reason=answer.finish_reason if answer else "", loss=score.loss if score else None,
        loss_tokens=score.tokens if score else None,
    )  # fmt: skip


def differences(run: Run) -> list[tuple[str, str, list[str]]]:
    """Why this run may differ from its owner's one before of the same set: (model, what it was, codes of what changed).

    Codes: new, adapter, base, template, params, items.
    """
    before = Run.objects.filter(owner_id=run.owner_id, version__prompts=run.version.prompts_id, pk__lt=run.pk)
    earlier = before.select_related("version").order_by("-pk").first()
    if earlier is None:
        return []
    common = [code for code, changed in (
        ("params", earlier.params != run.params), ("items", earlier.version.digest != run.version.digest)
    ) if changed]  # fmt: skip
    olds = {target.slug: target for target in earlier.targets.all()}
    found = []
    for target in run.targets.all():
        old = olds.get(target.slug)
        if not target.digest or (old is not None and not old.digest):
            continue
        codes = common + _changed(old, target) if old else ["new"]
        if codes:
            found.append((target.name, str(earlier.pk), codes))
    return found


def _changed(old: RunTarget, new: RunTarget) -> list[str]:
    fields = {"adapter": "digest", "base": "base_key", "template": "prompting"}
    return [code for code, field in fields.items() if getattr(old, field) != getattr(new, field)]
