"""The pass rate of a training run's checkpoints by their step, and which of them is best, with how sure that is."""

from __future__ import annotations

import functools
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.curves import curve_of
from common.shares import wilson
from evaluations import answers
from evaluations.models import Result, Run, RunTarget

SAMPLES = 1000  # of the bootstrap
SEED = 20_240_601  # the same figure each time somebody looks

Verdicts = Mapping[int, bool]  # by item


def curves(run: Run) -> list[dict[str, Any]]:
    """Of each training run of which at least two checkpoints take part."""
    groups: dict[str, list[RunTarget]] = defaultdict(list)
    for target in run.targets.select_related("adapter"):
        if target.group_hash and target.checkpoint is not None:
            groups[target.group_hash].append(target)
    several = {group: sorted(found, key=step_of) for group, found in groups.items() if len(found) > 1}
    if not several:
        return []
    verdicts = verdicts_of([target.pk for found in several.values() for target in found])
    return [_group(group, found, verdicts) for group, found in several.items()]


def step_of(target: RunTarget) -> int:
    return target.checkpoint or 0


def verdicts_of(targets: Sequence[int]) -> dict[int, dict[int, bool]]:
    """By target and item, of what was judged."""
    found: dict[int, dict[int, bool]] = {target: {} for target in targets}
    rows = Result.objects.filter(target__in=targets, passed__isnull=False)
    for target, item, passed in rows.values_list("target", "item", "passed"):
        found[target][item] = bool(passed)
    return found


def _group(group: str, targets: Sequence[RunTarget], verdicts: Mapping[int, Verdicts]) -> dict[str, Any]:
    points = [_point(target, verdicts[target.pk]) for target in targets if verdicts[target.pk]]
    adapter = next((target.adapter for target in targets if target.adapter is not None), None)
    training = curve_of(adapter).told(adapter) if adapter is not None else None
    name = adapter.run_name if adapter is not None else targets[0].name
    return answers.Group.of(group=group[:12], name=name, points=points, best=best(points, verdicts), training=training)


def _point(target: RunTarget, verdicts: Verdicts) -> dict[str, Any]:
    passed, judged = sum(verdicts.values()), len(verdicts)
    low, high = wilson(passed, judged)
    return answers.Point.of(
        target, target=target.pk, adapter=target.adapter_id, step=step_of(target), passed=passed, judged=judged,
        share=passed / judged, low=low, high=high,
    )  # fmt: skip


def best(points: Sequence[Mapping[str, Any]], verdicts: Mapping[int, Verdicts]) -> dict[str, Any] | None:
    """The point with the highest share, of equal ones the earliest; how sure it beats the next best one."""
    ranked = sorted(points, key=lambda point: (-point["share"], point["step"]))
    if not ranked:
        return None
    if len(ranked) == 1:
        return answers.Best.of(target=ranked[0]["target"], sure=None, next=None)
    first, second = ranked[0]["target"], ranked[1]["target"]
    return answers.Best.of(target=first, sure=sureness(verdicts[first], verdicts[second]), next=second)


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
