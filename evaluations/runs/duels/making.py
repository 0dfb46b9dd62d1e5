"""Head to heads: made, found, cancelled, deleted. Synchronous; `queue.py` does what they ask for."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from django.conf import settings
from django.db import transaction
from django.http import Http404
from django.utils.translation import gettext as _

from common.api import ApiError
from common.numbers import grouped
from evaluations.models import Bout, Duel, Result, Run, RunTarget
from evaluations.sets import forget_answers
from inference.errors import InferenceError
from inference.gateway.targets import find

from . import outside, questions
from .errors import JudgeError

MOST_OF_A_RUN = 20
BATCH = 500  # rows of one statement


def of_run(run: Run) -> list[Duel]:
    """Newest first."""
    return list(run.duels.all())


def visible(user: Any, pk: int) -> Duel:
    """Raises Http404."""
    runs = Run.objects.visible_to(user)
    found = Duel.objects.filter(pk=pk, run__in=runs).select_related("run__owner", "run__version__prompts").first()
    if found is None:
        raise Http404
    return found


def own(user: Any, pk: int) -> Duel:
    """Raises Http404."""
    found = visible(user, pk)
    if found.run.owner_id != user.pk:
        raise Http404
    return found


def create(
    run: Run, judge: str = "", targets: Collection[int] = (), items: int | None = None, criteria: str = "",
    token_ref: int = 0,
) -> Duel:  # fmt: skip
    """One that waits for its turn. `judge`: slug, "" for the judge model of the settings; `targets`: ids of the run's
    models, all without any; `items`: so many of the run's items at most.

    Raises ApiError: 409 where run or judge are not ready or bounds are reached, 400, InferenceError.
    """
    if run.is_under_way:
        raise ApiError("under_way", _("The evaluation has not ended. Wait for its end or cancel it."), 409)
    if run.duels.count() >= MOST_OF_A_RUN:
        message = _("This evaluation was judged %(limit)s times, which is the limit. Delete some first.")
        raise ApiError("too_many", message % {"limit": MOST_OF_A_RUN}, 409)
    slug, name = _judge(judge)
    most = settings.EVALUATION_COMPARISONS
    pairs = list(itertools.islice(_pairs(_chosen(run, targets), items, run), most + 1))
    if not pairs:
        raise ApiError("empty", _("There is no item that two of these models have answered."), 409, "targets")
    if len(pairs) > most:
        message = _(
            "These are more than %(limit)s comparisons, which is the limit. Choose fewer models or fewer items."
        ) % {"limit": grouped(most)}
        raise ApiError("too_many", message, 409, "items")
    with transaction.atomic():
        duel = Duel.objects.create(
            run=run, judge=slug, name=name, criteria=criteria, params=questions.params(), token_ref=token_ref,
            total=len(pairs),
        )  # fmt: skip
        rows = (Bout(duel=duel, item_id=item, one_id=one, other_id=other) for item, one, other in pairs)
        Bout.objects.bulk_create(rows, batch_size=BATCH)
    return duel


def _judge(slug: str) -> tuple[str, str]:
    """(slug, name). Raises ApiError."""
    if not slug:
        if not outside.is_configured():
            raise JudgeError("judge_off", "judge")
        return "", outside.name()
    try:
        target = find(slug)
    except InferenceError as error:
        raise InferenceError(error.code, "judge", error.detail) from None
    return target.slug, target.name


def _chosen(run: Run, targets: Collection[int]) -> list[RunTarget]:
    """Raises ApiError."""
    rows = list(run.targets.all())
    chosen = [row for row in rows if row.pk in targets] if targets else rows
    if len(chosen) < 2 or len(chosen) < len(set(targets)):
        message = _("%(param)s must name at least two models of this evaluation.") % {"param": "targets"}
        raise ApiError("out_of_range", message, 400, "targets")
    return chosen


def _pairs(targets: Sequence[RunTarget], most: int | None, run: Run) -> Iterator[tuple[int, int, int]]:
    """(item, one, other) of all items that both have answered, item by item.

    Fewer items are those whose digests are lowest: a sample that is the same each time, whatever the items' order.
    """
    place = {target.pk: number for number, target in enumerate(targets)}
    answered: dict[int, list[int]] = defaultdict(list)
    rows = Result.objects.filter(target__in=place, answer__isnull=False).order_by("item__number")
    for item, target in rows.values_list("item", "target"):
        answered[item].append(target)
    several = [item for item, found in answered.items() if len(found) > 1]
    if most is not None and most < len(several):
        digests = dict(run.version.items.values_list("pk", "digest"))
        sample = set(sorted(several, key=lambda item: digests[item])[:most])
        several = [item for item in several if item in sample]
    for item in several:
        by_place = sorted(answered[item], key=lambda target: place[target])
        yield from ((item, one, other) for one, other in itertools.combinations(by_place, 2))


def delete(duel: Duel) -> None:
    """With what the judge said, but for what other head to heads of its owner have."""
    owner = duel.run.owner_id
    duel.cancel()
    with transaction.atomic():
        duel.delete()
        forget_answers([owner])
