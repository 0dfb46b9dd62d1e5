"""The losses of a report: of three ways to count a sample's tokens, averaged as the trainer averages its batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# What trainers count: the answer with the end of its turn (most), everything, or the answer alone.
WAYS = ("ended", "whole", "answer")
ABSOLUTE, RELATIVE = 0.01, 0.02  # nats, and share of the recorded loss: the larger one is allowed

Sum = tuple[float, int]  # the loss of some tokens together in nats, and how many they are


@dataclass(frozen=True)
class Figure:
    """`difference`: from the recorded loss; None where none was recorded."""

    way: str
    rendering: str  # "served" or, where that is another one, "trained"
    loss: float
    tokens: int
    difference: float | None
    within: bool


def tolerance(recorded: float) -> float:
    return max(ABSOLUTE, RELATIVE * recorded)


def mean(sums: Sequence[Sum], batch: int | None) -> float:
    """Of a token; with a `batch` size the mean over samples of their batch's mean, as Transformers' Trainer has it."""
    size = batch or len(sums)
    total = 0.0
    for start in range(0, len(sums), size):
        part = sums[start : start + size]
        total += len(part) * sum(loss for loss, _n in part) / sum(n for _loss, n in part)
    return total / len(sums)


def figures(samples: Sequence[Mapping[str, Any]], recorded: float | None, batch: int | None) -> list[Figure]:
    """Of the samples' facts in their order; a way that not every sample has is left out."""
    found = []
    for rendering in ("served", "trained"):
        for way in WAYS:
            sums = [sample.get(rendering, {}).get(way) for sample in samples]
            if not sums or not all(sums) or (rendering == "trained" and not differs(samples)):
                continue
            loss = mean(sums, batch)
            apart = loss - recorded if recorded is not None else None
            within = apart is not None and recorded is not None and abs(apart) <= tolerance(recorded)
            found.append(Figure(way, rendering, loss, sum(n for _loss, n in sums), apart, within))
    return found


def differs(samples: Sequence[Mapping[str, Any]]) -> bool:
    return any(sample.get("difference") for sample in samples)


def nearest(found: Sequence[Figure], rendering: str) -> Figure | None:
    """Which way the trainer counted is not recorded: the one that comes nearest, else the first."""
    own = [one for one in found if one.rendering == rendering]
    return min(own, key=lambda one: abs(one.difference or 0.0), default=None)
