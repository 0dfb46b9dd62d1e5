"""Win rates and rankings against known figures."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest

from common.bradley_terry import strengths
from common.pairwise import DECIDED_EACH, MOST_PLAYERS, Comparison, HeadToHead, Player, head_to_head
from common.shares import wilson

# Games of the American League, East, in 1987: who won (row) how often against whom. Agresti, Categorical Data Analysis.
TEAMS = ["Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore"]
GAMES = [
    [0, 7, 9, 7, 7, 9, 11],
    [6, 0, 7, 5, 11, 9, 9],
    [4, 6, 0, 7, 7, 8, 12],
    [6, 8, 6, 0, 6, 7, 10],
    [6, 2, 6, 7, 0, 7, 12],
    [4, 4, 5, 6, 6, 0, 6],
    [2, 4, 1, 3, 1, 7, 0],
]
FITTED = [1.581, 1.436, 1.294, 1.248, 1.108, 0.684, 0.0]  # against Baltimore


def players(number: int) -> list[Player]:
    return [Player(model=f"m{one}", name=f"m{one}", digest=str(one) * 64, params={}) for one in range(number)]


def games(table: list[list[int]], ties: int = 0) -> Iterator[Comparison]:
    """Each a question of its own; and so many ties of each two."""
    question = count()
    for one, row in enumerate(table):
        for other, wins in enumerate(row):
            yield from (Comparison(next(question), one, other, 1.0) for _ in range(wins))
            yield from (Comparison(next(question), one, other, 0.5) for _ in range(ties if one < other else 0))


def made(table: list[list[int]], ties: int = 0) -> HeadToHead:
    return head_to_head(players(len(table)), games(table, ties))


def test_the_figures_of_a_textbook() -> None:
    found = strengths(np.array(GAMES, dtype=float), prior=1e-9)
    assert found - found[-1] == pytest.approx(FITTED, abs=2e-3)


def test_strengths_that_made_a_table_are_found_again() -> None:
    true = np.array([1.0, 0.3, -0.2, -1.1])
    wins = 1e7 / (1 + np.exp(true[None, :] - true[:, None]))
    np.fill_diagonal(wins, 0)
    assert strengths(wins) == pytest.approx(true, abs=1e-5)


def test_the_ranking_and_its_intervals() -> None:
    found = made(GAMES)
    assert found.ranking is not None
    assert [TEAMS[one.player] for one in found.ranking] == TEAMS
    assert all(one.low < one.strength < one.high and not one.bounded for one in found.ranking)
    first, last = found.ranking[0], found.ranking[-1]
    assert first.low > last.high  # Milwaukee is surely better than Baltimore
    assert first.low < found.ranking[1].strength  # and not surely better than Detroit
    assert made(GAMES).ranking == found.ranking  # the same figures each time


def test_identical_players_are_equally_strong() -> None:
    found = made([[0, 10, 10], [10, 0, 10], [10, 10, 0]])
    assert found.ranking is not None
    assert [one.strength for one in found.ranking] == pytest.approx([0, 0, 0])
    assert all(one.low < 0 < one.high for one in found.ranking)


def test_who_never_lost_has_a_finite_strength_by_the_prior() -> None:
    found = made([[0, 20, 20], [0, 0, 10], [0, 8, 0]])
    assert found.ranking is not None
    first = found.ranking[0]
    assert (first.player, first.bounded) == (0, True)
    assert 2 < first.strength < 6
    assert [one.bounded for one in found.ranking[1:]] == [False, False]
    with pytest.raises(ValueError, match="prior"):
        strengths(np.zeros((2, 2)), prior=0)


def test_win_rates_of_pairs_leave_ties_out() -> None:
    found = made([[0, 12, 0], [4, 0, 0], [0, 0, 0]], ties=3)
    pair = found.pairs[0]
    assert (pair.wins, pair.losses, pair.ties, pair.share) == (12, 4, 3, 0.75)
    assert (pair.low, pair.high) == wilson(12, 16)
    turned = found.cell(1, 0)
    assert turned is not None and (turned.wins, turned.share) == (4, 0.25)
    assert (turned.low, turned.high) == pytest.approx(wilson(4, 16))
    assert (pair.lead, turned.lead) == ("ahead", "behind")
    assert made([[0, 11], [5, 0]]).pairs[0].lead == ""  # 16 are too few for that
    only_ties = found.cell(0, 2)
    assert only_ties is not None and (only_ties.share, only_ties.ties, only_ties.low) == (None, 3, None)


@pytest.mark.parametrize(
    ("table", "refusal"),
    [
        ([], "few_models"),
        ([[0, DECIDED_EACH - 1], [0, 0]], "few_decided"),
        ([[0, DECIDED_EACH - 1], [1, 0]], ""),
        ([[0, 30, 0, 0], [30, 0, 0, 0], [0, 0, 0, 30], [0, 0, 30, 0]], "not_connected"),
    ],
)
def test_a_ranking_needs_enough(table: list[list[int]], refusal: str) -> None:
    found = made(table)
    assert found.refusal == refusal
    assert (found.ranking is None) == bool(refusal) == bool(found.message)


def test_models_beyond_the_bound_are_left_out() -> None:
    number = MOST_PLAYERS + 2
    often = [Comparison(n, 2, one, 1.0) for n in range(2) for one in range(3, number)]
    found = head_to_head(players(number), [Comparison(99, 0, 1, 1.0), *often])
    assert (len(found.players), found.left_out) == (MOST_PLAYERS, 2)
    assert found.players[0].model == "m2"
    assert found.decided == len(often)
