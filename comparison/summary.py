"""Who won how often: a row for each model in each content."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models import Avg, Count, F, FloatField, Max, Q, Value
from django.db.models.functions import Cast

from .models import Candidate, Verdict, VoteQuerySet

Z = 1.96  # 95 %


@dataclass(frozen=True)
class Standing:
    """`share`: wins of all votes in which the model took part, `low` to `high` where it lies with 95 % confidence
    (Wilson's interval, wide while votes are few), `chance`: the share of somebody who chooses blindly."""

    model: str
    name: str
    digest: str
    votes: int
    blind: int
    wins: int
    losses: int
    ties: int
    none: int
    share: float
    low: float
    high: float
    chance: float

    @property
    def width(self) -> float:
        return self.high - self.low


def standings(votes: VoteQuerySet) -> list[Standing]:
    """Those whose share is surely high first; a model whose files changed has a row for each content."""
    best = Q(vote__verdict=Verdict.BEST)
    rows = (
        Candidate.objects.filter(vote__in=votes.order_by())
        .order_by()
        .values("model", "digest")
        .annotate(
            label=Max("name"),
            votes=Count("pk"),
            blind=Count("pk", filter=Q(vote__blind=True)),
            wins=Count("pk", filter=Q(chosen=True)),
            losses=Count("pk", filter=best & Q(chosen=False)),
            ties=Count("pk", filter=Q(vote__verdict=Verdict.TIE)),
            none=Count("pk", filter=Q(vote__verdict=Verdict.NONE)),
            chance=Avg(Value(1.0) / Cast(F("vote__size"), FloatField()), output_field=FloatField()),
        )
    )
    return sorted((_standing(row) for row in rows), key=lambda one: (-one.low, -one.share, one.model, one.digest))


def _standing(row: Mapping[str, Any]) -> Standing:
    low, high = wilson(row["wins"], row["votes"])
    facts = {"name" if key == "label" else key: value for key, value in row.items()}
    return Standing(**facts, share=row["wins"] / row["votes"], low=low, high=high)


def wilson(wins: int, votes: int) -> tuple[float, float]:
    """Wilson's score interval of a share, without continuity correction (Wilson 1927)."""
    share, square = wins / votes, Z * Z
    middle = share + square / (2 * votes)
    reach = Z * math.sqrt(share * (1 - share) / votes + square / (4 * votes * votes))
    whole = 1 + square / votes
    return max(0.0, (middle - reach) / whole), min(1.0, (middle + reach) / whole)
