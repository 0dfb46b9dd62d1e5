"""What a head to head came to so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db.models import Count, Q, Sum

from common.pairwise import Comparison, HeadToHead, Player, head_to_head
from evaluations import answers
from evaluations.models import Bout, Duel, Outcome, RunTarget

SCORES = {Outcome.ONE: 1.0, Outcome.OTHER: 0.0, Outcome.TIE: 0.5}


def duel_json(duel: Duel) -> dict[str, Any]:
    return answers.StoredDuel.of(duel, outside=not duel.judge, run=duel.run_id, **counts_of(duel))


def whole_json(duel: Duel) -> dict[str, Any]:
    facts = {"outside": not duel.judge, "run": duel.run_id, **counts_of(duel)}
    return answers.WholeDuel.of(duel, **facts, table=table_of(duel))


def counts_of(duel: Duel) -> dict[str, int]:
    fresh = Q(asked=2)
    row = duel.bouts.order_by().aggregate(
        done=Count("pk", filter=~Q(outcome=Outcome.WAITING)),
        unclear=Count("pk", filter=Q(outcome=Outcome.NONE)),
        same=Count("pk", filter=Q(outcome=Outcome.TIE, forward=None)),
        reused=Count("pk", filter=Q(forward__isnull=False, asked=0)),
        prompt_one=Sum("forward__prompt_tokens", filter=fresh),
        prompt_two=Sum("backward__prompt_tokens", filter=fresh),
        answer_one=Sum("forward__completion_tokens", filter=fresh),
        answer_two=Sum("backward__completion_tokens", filter=fresh),
    )
    return {
        **{name: row[name] for name in ("done", "unclear", "same", "reused")},
        "prompt_tokens": (row["prompt_one"] or 0) + (row["prompt_two"] or 0),
        "completion_tokens": (row["answer_one"] or 0) + (row["answer_two"] or 0),
    }


def table_of(duel: Duel) -> HeadToHead:
    """The win rates of each pair, and the ranking where there is enough for one."""
    rows = duel.bouts.filter(outcome__in=SCORES).values_list("item", "one", "other", "outcome")
    met = list(rows)
    targets = list(RunTarget.objects.filter(run=duel.run_id))
    places = {target.pk: place for place, target in enumerate(targets)}
    players = [Player(model=one.slug, name=one.name, digest=one.digest, params={}) for one in targets]
    comparisons = (
        Comparison(item, places[one], places[other], SCORES[Outcome(outcome)]) for item, one, other, outcome in met
    )
    return head_to_head(players, comparisons)


def bouts_of(duel: Duel, outcome: str = "") -> Any:
    """Those that are settled, item by item; only `outcome`: one that a bout may have."""
    rows = duel.bouts.exclude(outcome=Outcome.WAITING).select_related("item", "one", "other", "forward", "backward")
    return (rows.filter(outcome=outcome) if outcome else rows).order_by("item__number", "pk")


def bouts_json(bouts: Sequence[Bout]) -> list[dict[str, Any]]:
    return [
        answers.StoredBout.of(
            bout, item=bout.item.number, one=bout.one_id, other=bout.other_id,
            forward=bout.forward and answers.StoredJudgement.of(bout.forward),
            backward=bout.backward and answers.StoredJudgement.of(bout.backward),
        )
        for bout in bouts
    ]  # fmt: skip
