"""Who beats whom in votes: each vote compares all its answers with one another."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from common.pairwise import Comparison, HeadToHead, Player, head_to_head

from .models import Candidate, Verdict, VoteQuerySet


def head_to_head_of(votes: VoteQuerySet) -> HeadToHead:
    """The chosen answer beats each other one; "all equally good" is a tie of each two; "none is good" says nothing.

    A model is a player for each content, and for parameters of its own; a blend is one for each recipe.
    """
    rows = Candidate.objects.filter(vote__in=votes.order_by()).exclude(vote__verdict=Verdict.NONE)
    fields = ("vote", "vote__verdict", "model", "name", "digest", "params", "chosen")
    players: dict[str, int] = {}
    found: list[Player] = []
    met: list[Comparison] = []
    ordered = rows.order_by("vote", "position").values_list(*fields)
    for vote, group in itertools.groupby(ordered.iterator(), key=lambda row: row[0]):
        places = []
        for _vote, verdict, model, name, digest, params, chosen in group:
            key = json.dumps([model, digest, params], sort_keys=True)
            if key not in players:
                players[key] = len(found)
                found.append(Player(model=model, name=name, digest=digest, params=params))
            places.append((players[key], chosen, verdict))
        met += _met(vote, places)
    return head_to_head(found, met)


def _met(vote: int, places: list[tuple[int, bool, Any]]) -> Iterator[Comparison]:
    for (one, is_best, verdict), (other, other_is_best, _verdict) in itertools.combinations(places, 2):
        if verdict == Verdict.TIE:
            yield Comparison(vote, one, other, 0.5)
        elif is_best or other_is_best:
            yield Comparison(vote, one, other, 1.0 if is_best else 0.0)
