"""Results are settled one by one, each in a transaction of its own: what was answered is kept whatever comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from django.db import IntegrityError, transaction

from common.api import ApiError
from evaluations.checks.judging import Scored, asks, judged, passed, scores
from evaluations.models import Answer, Item, Result, Run, RunTarget, Score
from evaluations.models.explaining import kept

from .keys import answer_key, score_key

BATCH = 200  # rows of one transaction


@dataclass(frozen=True)
class Said:
    """An answer that was just computed."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float


@dataclass(frozen=True)
class Likely:
    """A score that was just computed; see `Score`."""

    logprob: float
    tokens: int
    prompt_tokens: int
    seconds: float


@dataclass
class Task:
    """What is to be settled of one item: what it needs, and what there is of it, from before or just computed."""

    item: Item
    answer: Answer | Said | None = None
    score: Score | Likely | None = None
    asks: bool = field(init=False)
    scores: bool = field(init=False)

    def __post_init__(self) -> None:
        self.asks, self.scores = asks(self.item.checks), scores(self.item.checks)

    @property
    def needs_answer(self) -> bool:
        return self.asks and self.answer is None

    @property
    def needs_score(self) -> bool:
        return self.scores and self.score is None


def left(target: RunTarget, items: Sequence[Item]) -> list[Item]:
    """Those that are not settled yet."""
    done = set(Result.objects.filter(target=target).values_list("item_id", flat=True))
    return [item for item in items if item.pk not in done]


def reuse(run: Run, target: RunTarget, items: Sequence[Item]) -> list[Task]:
    """Settle the items of which all is there already; returns the others, with what there is of them."""
    others: list[Task] = []
    for start in range(0, len(items), BATCH):
        tasks = [Task(item) for item in items[start : start + BATCH]]
        asked = {answer_key(one.item, target, run.params) for one in tasks if one.asks}
        scored = {score_key(one.item, target) for one in tasks if one.scores}
        found = {one.key: one for one in Answer.objects.filter(owner_id=run.owner_id, key__in=asked)}
        likely = {one.key: one for one in Score.objects.filter(owner_id=run.owner_id, key__in=scored)}
        rows = []
        for task in tasks:  # two items may ask the same
            answer = found.get(answer_key(task.item, target, run.params)) if task.asks else None
            score = likely.get(score_key(task.item, target)) if task.scores else None
            task.answer, task.score = answer, score
            if task.needs_answer or task.needs_score:
                others.append(task)
            else:
                rows.append(_result(target, task.item, answer, score, True, score is not None))
        Result.objects.bulk_create(rows, ignore_conflicts=True)
    return others


def settle(run: Run, target: RunTarget, task: Task) -> None:
    """A whole task of this run: what was just computed is kept, and what it came to."""
    owner, item = run.owner_id, task.item
    answer, score = task.answer, task.score
    with transaction.atomic():
        if isinstance(answer, Said):
            key = answer_key(item, target, run.params)
            answer, _made = Answer.objects.get_or_create(owner_id=owner, key=key, defaults=vars(answer))
        if isinstance(score, Likely):
            key = score_key(item, target)
            score, _made = Score.objects.get_or_create(owner_id=owner, key=key, defaults=vars(score))
        score_reused = score is not None and score is task.score
        reused = answer is task.answer if answer is not None else score_reused
        _save(_result(target, item, answer, score, reused, score_reused))


def settle_error(target: RunTarget, item: Item, error: ApiError) -> None:
    """This item cannot be answered by this model, whatever happens."""
    judges = any(check["kind"] != "loss" or check.get("most") is not None for check in item.checks)
    _save(Result(target=target, item=item, passed=False if judges else None, **kept(error)))


def _result(
    target: RunTarget, item: Item, answer: Answer | None, score: Score | None, reused: bool, score_reused: bool
) -> Result:
    scored = Scored(score.logprob, score.tokens) if score is not None else None
    verdicts = judged(answer.text if answer is not None else "", item.reference, item.checks, scored)
    return Result(
        target=target, item=item, answer=answer, score=score, reused=reused, score_reused=score_reused,
        passed=passed(verdicts), verdicts=verdicts,
    )  # fmt: skip


def _save(result: Result) -> None:
    try:
        with transaction.atomic():
            result.save(force_insert=True)
    except IntegrityError:  # settled by a process that was taken for dead, or the run was deleted meanwhile
        pass
