"""Pass rate and loss of a training run's checkpoints by step, and which of them is best, with how sure that is."""

from __future__ import annotations

import functools
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.curves import curve_of
from adapters.training.steps import twins_step
from common.shares import wilson
from evaluations import answers
from evaluations.checks.judging import DIGITS
from evaluations.models import Result, Run, RunTarget

SAMPLES = 1000  # of the bootstrap
SEED = 20_240_601  # the same figure each time somebody looks

DRAWS = 1_000_000  # of items, in all samples together, where losses differ at each item
LEAST_SAMPLES = 200

Verdicts = Mapping[int, bool]  # by item
Losses = Mapping[int, tuple[float, int]]  # by item: the reference's loss in nats, and its tokens


@dataclass(frozen=True)
class Found:
    """What a model came to, by item."""

    verdicts: dict[int, bool] = field(default_factory=dict)
    losses: dict[int, tuple[float, int]] = field(default_factory=dict)


def curves(run: Run) -> list[dict[str, Any]]:
    """Of each training run of which at least two checkpoints take part.

    The run's own adapter stands for the checkpoint with the same files, unless that one has results of its own.
    """
    groups: dict[str, list[tuple[int, RunTarget]]] = defaultdict(list)
    for target in run.targets.select_related("adapter"):
        if target.group_hash and (step := step_of(target)) is not None:
            groups[target.group_hash].append((step, target))
    several = {group: found for group, found in groups.items() if len({step for step, _target in found}) > 1}
    if not several:
        return []
    results = results_of([target.pk for found in several.values() for _step, target in found])
    return [
        _group(group, [target for _step, target in found], _by_step(found, results), results)
        for group, found in several.items()
    ]


def step_of(target: RunTarget) -> int | None:
    if target.checkpoint is not None or target.adapter is None:
        return target.checkpoint
    return twins_step(target.adapter)


def _by_step(found: Sequence[tuple[int, RunTarget]], results: Mapping[int, Found]) -> dict[int, RunTarget]:
    """One for each step, of those that have results: a checkpoint before the run's own adapter."""
    ranked = sorted(found, key=lambda one: (one[0], one[1].checkpoint is None, one[1].position))
    chosen: dict[int, RunTarget] = {}
    for step, target in ranked:
        if results[target.pk].verdicts or results[target.pk].losses:
            chosen.setdefault(step, target)
    return chosen


def results_of(targets: Sequence[int]) -> dict[int, Found]:
    """By target, of what was judged or scored."""
    found = {target: Found() for target in targets}
    rows = Result.objects.filter(target__in=targets)
    for target, item, passed in rows.filter(passed__isnull=False).values_list("target", "item", "passed"):
        found[target].verdicts[item] = bool(passed)
    columns = ("target", "item", "score__logprob", "score__tokens")
    for target, item, logprob, tokens in rows.filter(score__isnull=False).values_list(*columns):
        found[target].losses[item] = (-logprob, tokens)
    return found


def _group(
    group: str, members: Sequence[RunTarget], chosen: Mapping[int, RunTarget], results: Mapping[int, Found]
) -> dict[str, Any]:
    points = [_point(step, target, results[target.pk]) for step, target in chosen.items()]
    adapter = next((target.adapter for target in members if target.adapter is not None), None)
    training = curve_of(adapter).told(adapter) if adapter is not None else None
    name = adapter.run_name if adapter is not None else members[0].name
    return answers.Group.of(group=group[:12], name=name, points=points, best=best(points, results), training=training)


def _point(step: int, target: RunTarget, found: Found) -> dict[str, Any]:
    passed, judged = sum(found.verdicts.values()), len(found.verdicts)
    low, high = wilson(passed, judged) if judged else (None, None)
    return answers.Point.of(
        target, target=target.pk, adapter=target.adapter_id, step=step, passed=passed, judged=judged,
        share=passed / judged if judged else None, low=low, high=high, loss=mean_loss(found.losses),
        loss_tokens=sum(tokens for _loss, tokens in found.losses.values()),
    )  # fmt: skip


def mean_loss(losses: Losses) -> float | None:
    """Of a token, each counting the same."""
    tokens = sum(count for _loss, count in losses.values())
    return sum(loss for loss, _count in losses.values()) / tokens if tokens else None


def best(points: Sequence[Mapping[str, Any]], results: Mapping[int, Found]) -> dict[str, Any] | None:
    """The point with the highest share, of equal ones the one with the lowest loss; how sure it beats the next best.

    Where nothing decides between it and the next best, it is the earliest of those that are equal.
    """
    ranked = sorted(points, key=lambda point: (*_rank(point), point["step"]))
    if not ranked:
        return None
    first = ranked[0]
    if len(ranked) == 1:
        by = "pass_rate" if first["judged"] else "loss"
        return answers.Best.of(target=first["target"], by=by, equal=[], sure=None, next=None)
    second = ranked[1]
    one, other = results[first["target"]], results[second["target"]]
    equal: list[int] = []
    if first["share"] != second["share"]:
        by, sure = "pass_rate", sureness(one.verdicts, other.verdicts)
    elif _rank(first) != _rank(second):
        by, sure = "loss", sureness_of_losses(one.losses, other.losses)
    else:
        by, sure = "", 0.5
        equal = [point["target"] for point in ranked if _rank(point) == _rank(first)]
    return answers.Best.of(target=first["target"], by=by, equal=equal, sure=sure, next=second["target"])


def _rank(point: Mapping[str, Any]) -> tuple[float, float]:
    """Less is better; what is not known comes last. Losses that look the same are the same: sums of floats differ."""
    share, loss = point["share"], point["loss"]
    return (1.0 if share is None else -share, float("inf") if loss is None else round(loss, DIGITS))


def sureness(one: Verdicts, other: Verdicts) -> float | None:
    """Share of paired bootstrap samples of the common items in which `one` passes more; ties count as half.

    Efron's percentile bootstrap over items, which both answered: only items where they differ move the sum.
    """
    common = one.keys() & other.keys()
    if not common:
        return None
    gains = sum(one[item] and not other[item] for item in common)
    losses = sum(other[item] and not one[item] for item in common)
    return _sureness(gains, losses, len(common))


@functools.lru_cache(maxsize=256)
def _sureness(gains: int, losses: int, items: int) -> float:
    if gains == losses == 0:
        return 0.5
    chance = random.Random(SEED)  # noqa: S311  (a figure, no secret)
    weights = (gains, losses, items - gains - losses)
    ahead = 0.0
    for _sample in range(SAMPLES):
        difference = sum(chance.choices((1, -1, 0), weights, k=items))
        ahead += 1.0 if difference > 0 else 0.5 if difference == 0 else 0.0
    return ahead / SAMPLES


def sureness_of_losses(one: Losses, other: Losses) -> float | None:
    """As `sureness`, of the mean loss of a token over the common items: the share of samples where `one` has less."""
    common = sorted(one.keys() & other.keys())
    return _sureness_of_losses(tuple((*one[item], *other[item]) for item in common)) if common else None


@functools.lru_cache(maxsize=64)
def _sureness_of_losses(items: tuple[tuple[float, int, float, int], ...]) -> float:
    chance = random.Random(SEED)  # noqa: S311  (a figure, no secret)
    samples = max(LEAST_SAMPLES, min(SAMPLES, DRAWS // len(items)))
    ahead = 0.0
    for _sample in range(samples):
        mine, my_tokens, others, other_tokens = map(sum, zip(*chance.choices(items, k=len(items)), strict=True))
        difference = others / other_tokens - mine / my_tokens
        ahead += 1.0 if difference > 0 else 0.5 if difference == 0 else 0.0
    return ahead / samples
