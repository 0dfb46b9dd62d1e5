"""Results are settled one by one, each in a transaction of its own: what was answered is kept whatever comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db import IntegrityError, transaction

from common.api import ApiError
from evaluations.checks.judging import judged, passed
from evaluations.models import Answer, Item, Result, Run, RunTarget
from evaluations.models.explaining import kept

from .keys import answer_key

BATCH = 200  # rows of one transaction


@dataclass(frozen=True)
class Said:
    """An answer that was just computed."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float


def left(target: RunTarget, items: Sequence[Item]) -> list[Item]:
    """Those that are not settled yet."""
    done = set(Result.objects.filter(target=target).values_list("item_id", flat=True))
    return [item for item in items if item.pk not in done]


def reuse(run: Run, target: RunTarget, items: Sequence[Item]) -> list[Item]:
    """Settle the items whose answers are there already; returns the others."""
    others: list[Item] = []
    for start in range(0, len(items), BATCH):
        part = {answer_key(item, target, run.params): item for item in items[start : start + BATCH]}
        found = {one.key: one for one in Answer.objects.filter(owner_id=run.owner_id, key__in=part)}
        rows = []
        for item in items[start : start + BATCH]:  # two items may ask the same
            answer = found.get(answer_key(item, target, run.params))
            if answer is None:
                others.append(item)
            else:
                rows.append(_result(target, item, answer, reused=True))
        Result.objects.bulk_create(rows, ignore_conflicts=True)
    return others


def settle(run: Run, target: RunTarget, item: Item, said: Said) -> None:
    """An answer of this run, and what it came to."""
    key = answer_key(item, target, run.params)
    with transaction.atomic():
        answer, _made = Answer.objects.get_or_create(owner_id=run.owner_id, key=key, defaults=vars(said))
        _save(_result(target, item, answer, reused=False))


def settle_error(target: RunTarget, item: Item, error: ApiError) -> None:
    """This item cannot be answered by this model, whatever happens."""
    verdict = False if item.checks else None
    _save(Result(target=target, item=item, passed=verdict, **kept(error)))


def _result(target: RunTarget, item: Item, answer: Answer, reused: bool) -> Result:
    verdicts = judged(answer.text, item.reference, item.checks)
    return Result(target=target, item=item, answer=answer, reused=reused, passed=passed(verdicts), verdicts=verdicts)


def _save(result: Result) -> None:
    try:
        with transaction.atomic():
            result.save(force_insert=True)
    except IntegrityError:  # settled by a process that was taken for dead, or the run was deleted meanwhile
        pass
