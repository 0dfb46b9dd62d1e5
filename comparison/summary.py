"""Who won how often: a row for each model in each content."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from django.db.models import Avg, Count, F, FloatField, Max, Q, Value
from django.db.models.functions import Cast
from pydantic import Field

from common.answers import Answer
from common.shares import wilson
from inference.api.parts import BlendPartObject

from .models import Candidate, Verdict, VoteQuerySet


class Standing(Answer):
    model: str
    name: str
    digest: str
    params: dict[str, Any] = Field(description="Of its own, beside those of the votes.")
    adapters: list[BlendPartObject] = Field([], exclude_if=operator.not_, description="Of a blend.")
    votes: int = Field(description="In which it took part.")
    blind: int = Field(description="Of these, blind ones.")
    wins: int
    losses: int = Field(description="Another one was best.")
    ties: int
    none: int = Field(description="None was good.")
    share: float = Field(description="Wins of votes.")
    low: float = Field(description="Lower end of the share's 95 % interval (Wilson).")
    high: float
    chance: float = Field(description="The share that blind luck would give.")

    @property
    def width(self) -> float:
        """Wide while votes are few."""
        return self.high - self.low


class Standings(Answer):
    results: list[Standing]


def standings(votes: VoteQuerySet) -> list[Standing]:
    """Those whose share is surely high first; a model has a row for each content, and for parameters of its own.

    A blend is none of its adapters: each recipe has a row.
    """
    best = Q(vote__verdict=Verdict.BEST)
    rows = (
        Candidate.objects.filter(vote__in=votes.order_by())
        .order_by()
        .values("model", "digest", "params", "adapters")
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
