"""Who beats whom: win rates of each pair of models, and a ranking where there is enough for one."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from django.utils.translation import gettext_lazy as _
from pydantic import Field

from .answers import Answer
from .bradley_terry import interval, strengths
from .numbers import grouped_values
from .shares import wilson

MOST_PLAYERS = 20  # of one table: those that were compared most
DECIDED_EACH = 10  # comparisons with a winner for a ranking: so many for each model but one
SAMPLES = 300  # of the bootstrap
SEED = 20_240_601  # the same figures each time somebody looks

REFUSALS = {
    "few_models": _("A ranking needs at least two models that were compared."),
    "few_decided": _(
        "A ranking of these models needs at least %(needed)s comparisons with a winner; there are %(decided)s."
    ),
    "not_connected": _(
        "A ranking needs every model to be compared with every other one, directly or through others; these models "
        "fall into separate groups."
    ),
}


class Comparison(NamedTuple):
    """`score` of `one`: 1 where it won, 0 where `other` did, 0.5 for a tie. `group`: the question that was asked."""

    group: int
    one: int
    other: int
    score: float


class Player(Answer):
    model: str = Field(description="Slug.")
    name: str
    digest: str
    params: dict[str, Any] = Field(description="Of its own, beside those of all.")

    @property
    def details(self) -> str:
        """What tells it from others of its name."""
        return " · ".join([self.digest[:12], *(f"{name} {value}" for name, value in self.params.items())])


class Pair(Answer):
    one: int = Field(description="Place in `players`, from 0.")
    other: int
    wins: int = Field(description="Of `one`.")
    losses: int
    ties: int
    share: float | None = Field(description="Wins of the comparisons with a winner.")
    low: float | None = Field(description="Lower end of the share's 95 % interval (Wilson).")
    high: float | None

    @property
    def lead(self) -> str:
        """`ahead` or `behind` where the interval says so, else empty."""
        if self.low is None or self.high is None:
            return ""
        return "ahead" if self.low > 0.5 else "behind" if self.high < 0.5 else ""


class Strength(Answer):
    player: int = Field(description="Place in `players`, from 0.")
    strength: float = Field(description="Of the Bradley-Terry model: log odds against one of average strength.")
    low: float = Field(description="Lower end of the 95 % interval (bootstrap over the questions).")
    high: float
    bounded: bool = Field(description="It never lost, or never won: only the prior keeps its strength finite.")


class HeadToHead(Answer):
    players: list[Player]
    left_out: int = Field(description="Models beyond the first ones, which were compared less.")
    pairs: list[Pair] = Field(description="Those that were compared.")
    decided: int = Field(description="Comparisons with a winner.")
    ties: int
    ranking: list[Strength] | None = Field(description="The strongest first; null where there is too little for one.")
    refusal: str = Field(description="Code why there is no ranking.")
    message: str

    def cell(self, row: int, column: int) -> Pair | None:
        """The pair as the first of both sees it."""
        return self._cells.get((row, column))

    @functools.cached_property
    def _cells(self) -> dict[tuple[int, int], Pair]:
        found = {(pair.one, pair.other): pair for pair in self.pairs}
        return found | {(pair.other, pair.one): turned(pair) for pair in self.pairs}

    @property
    def order(self) -> list[int]:
        """Places of the players: by strength, else by the share of all their comparisons with a winner."""
        if self.ranking is not None:
            return [one.player for one in self.ranking]
        wins: Counter[int] = Counter()
        decided: Counter[int] = Counter()
        for (row, _column), pair in self._cells.items():
            wins[row] += pair.wins
            decided[row] += pair.wins + pair.losses
        return sorted(
            range(len(self.players)), key=lambda one: (-(wins[one] / decided[one] if decided[one] else 0), one)
        )

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The matrix for a page, in that order; `at`, `from`, `width`: a strength on a common scale from 0 to 1."""
        by_player = {one.player: one for one in self.ranking or ()}
        ends = [end for one in by_player.values() for end in (one.low, one.strength, one.high)] or [0.0]
        least, span = min(ends), max(ends) - min(ends) or 1.0
        order = self.order
        found = []
        for place, one in enumerate(order, 1):
            cells = [{"same": one == other, "pair": self.cell(one, other)} for other in order]
            row = {"place": place, "player": self.players[one], "cells": cells}
            if (strength := by_player.get(one)) is not None:
                row |= {
                    "strength": strength,
                    "at": (strength.strength - least) / span,
                    "from": (strength.low - least) / span,
                    "width": (strength.high - strength.low) / span,
                }
            found.append(row)
        return found


def turned(pair: Pair) -> Pair:
    share = None if pair.share is None else 1 - pair.share
    low, high = (None, None) if pair.low is None or pair.high is None else (1 - pair.high, 1 - pair.low)
    return Pair(
        one=pair.other, other=pair.one, wins=pair.losses, losses=pair.wins, ties=pair.ties,
        share=share, low=low, high=high,
    )  # fmt: skip


def head_to_head(players: Sequence[Player], comparisons: Iterable[Comparison]) -> HeadToHead:
    """`one` and `other` of a comparison are places in `players`. A pair's order in it does not matter."""
    met = list(comparisons)
    often = Counter(place for one in met for place in (one.one, one.other))
    kept = sorted(sorted(often, key=lambda place: (-often[place], place))[:MOST_PLAYERS])
    places = {old: new for new, old in enumerate(kept)}
    met = [
        one._replace(one=places[one.one], other=places[one.other])
        for one in met
        if one.one in places and one.other in places
    ]
    pairs = _pairs(met)
    decided = sum(one.score != 0.5 for one in met)
    refusal = _refusal(len(kept), decided, pairs)
    values = {"needed": DECIDED_EACH * (len(kept) - 1), "decided": decided}
    return HeadToHead(
        players=[players[old] for old in kept],
        left_out=len(often) - len(kept),
        pairs=pairs,
        decided=decided,
        ties=len(met) - decided,
        ranking=None if refusal else _ranking(len(kept), met, pairs),
        refusal=refusal,
        message=str(REFUSALS[refusal]) % grouped_values(values) if refusal else "",
    )


def _pairs(met: Sequence[Comparison]) -> list[Pair]:
    counts: dict[tuple[int, int], Counter[float]] = {}
    for _group, one, other, score in met:
        first, second = min(one, other), max(one, other)
        counts.setdefault((first, second), Counter())[score if one == first else 1 - score] += 1
    return [_pair(one, other, counts[one, other]) for one, other in sorted(counts)]


def _pair(one: int, other: int, counts: Counter[float]) -> Pair:
    wins, losses = counts[1.0], counts[0.0]
    decided = wins + losses
    low, high = wilson(wins, decided) if decided else (None, None)
    return Pair(
        one=one, other=other, wins=wins, losses=losses, ties=counts[0.5],
        share=wins / decided if decided else None, low=low, high=high,
    )  # fmt: skip


def _refusal(players: int, decided: int, pairs: Sequence[Pair]) -> str:
    if players < 2:
        return "few_models"
    if not _connected(players, pairs):
        return "not_connected"
    return "few_decided" if decided < DECIDED_EACH * (players - 1) else ""


def _connected(players: int, pairs: Sequence[Pair]) -> bool:
    reached, todo = {0}, [0]
    while todo:
        here = todo.pop()
        beside = {pair.other if pair.one == here else pair.one for pair in pairs if here in (pair.one, pair.other)}
        todo += beside - reached
        reached |= beside
    return len(reached) == players


def _ranking(players: int, met: Sequence[Comparison], pairs: Sequence[Pair]) -> list[Strength]:
    groups = {group: number for number, group in enumerate(sorted({one.group for one in met}))}
    rows = np.array([(groups[one.group], one.one, one.other, one.score) for one in met], dtype=np.float64)
    found = _strengths(players, rows.tobytes(), len(groups))
    won, lost = _has_won(pairs)
    ranked = [
        Strength(player=place, strength=middle, low=low, high=high, bounded=not (place in won and place in lost))
        for place, (middle, low, high) in enumerate(found)
    ]
    return sorted(ranked, key=lambda one: (-one.strength, one.player))


def _has_won(pairs: Sequence[Pair]) -> tuple[set[int], set[int]]:
    """Who won at least something (a tie is half a win), and who lost something."""
    won, lost = set(), set()
    for pair in pairs:
        if pair.wins or pair.ties:
            won.add(pair.one)
            lost.add(pair.other)
        if pair.losses or pair.ties:
            won.add(pair.other)
            lost.add(pair.one)
    return won, lost


@functools.lru_cache(maxsize=64)
def _strengths(players: int, rows: bytes, groups: int) -> list[tuple[float, float, float]]:
    """(strength, lower and upper end) of each. A page that follows a comparison asks for the same again and again."""
    met = np.frombuffer(rows, dtype=np.float64).reshape(-1, 4)
    wins = np.zeros((players, players))
    one, other = met[:, 1].astype(np.intp), met[:, 2].astype(np.intp)
    np.add.at(wins, (one, other), met[:, 3])
    np.add.at(wins, (other, one), 1 - met[:, 3])
    low, high = interval(players, met, groups, SAMPLES, SEED)
    return list(zip(strengths(wins).tolist(), low.tolist(), high.tolist(), strict=True))
