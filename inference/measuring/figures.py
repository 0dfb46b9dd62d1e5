"""Figures that add up: counts, distributions and levels of some stretch of time, of one process or of many."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

PER_DOUBLING = 10  # buckets from one power of two to the next: a percentile is off by 3.5 % at most
LOWEST = -10 * PER_DOUBLING  # 2^-10 s, about a millisecond
HIGHEST = 13 * PER_DOUBLING  # 2^13 s, more than two hours
ACCURACY = 2 ** (1 / PER_DOUBLING) - 1


def bucket_of(seconds: float) -> int:
    """Bucket i holds what lies above 2^((i-1)/10) s, up to 2^(i/10) s."""
    if seconds <= 2 ** (LOWEST / PER_DOUBLING):
        return LOWEST
    return min(HIGHEST, math.ceil(PER_DOUBLING * math.log2(seconds)))


def middle_of(bucket: int) -> float:
    """Seconds in the geometric middle of a bucket."""
    return float(2 ** ((bucket - 0.5) / PER_DOUBLING))


def percentile(buckets: Mapping[int, int], share: float) -> float | None:
    """Seconds that `share` (0..1) of what was counted did not exceed; None where nothing was."""
    wanted = share * sum(buckets.values())
    seen = 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen >= wanted:
            return middle_of(bucket)
    return None


class Figures:
    """`counts` add up, `buckets` are distributions of seconds, `levels` have (sum, samples, highest)."""

    def __init__(self, data: Mapping[str, Any] | None = None) -> None:
        data = data or {}
        self.counts: Counter[str] = Counter(data.get("counts", {}))
        self.buckets: defaultdict[str, Counter[int]] = defaultdict(Counter)
        for name, found in data.get("buckets", {}).items():
            self.buckets[name] = Counter({int(bucket): count for bucket, count in found.items()})
        self.levels: dict[str, tuple[float, int, float]] = {
            name: (level[0], level[1], level[2]) for name, level in data.get("levels", {}).items()
        }

    def add(self, name: str, seconds: float) -> None:
        self.buckets[name][bucket_of(seconds)] += 1
        self.counts.update({f"{name}_seconds": seconds})  # type: ignore[dict-item]

    def level(self, name: str, value: float, samples: int = 1, highest: float | None = None) -> None:
        total, before, top = self.levels.get(name, (0.0, 0, -math.inf))
        self.levels[name] = total + value, before + samples, max(top, value if highest is None else highest)

    def merge(self, other: Figures) -> None:
        self.counts.update(other.counts)
        for name, found in other.buckets.items():
            self.buckets[name].update(found)
        for name, (total, samples, highest) in other.levels.items():
            self.level(name, total, samples, highest)

    def mean(self, name: str) -> float | None:
        total, samples, _highest = self.levels.get(name, (0.0, 0, 0.0))
        return total / samples if samples else None

    def highest(self, name: str) -> float | None:
        return self.levels[name][2] if name in self.levels else None

    def percentile(self, name: str, share: float) -> float | None:
        return percentile(self.buckets.get(name, {}), share)

    def data(self) -> dict[str, Any]:
        """As JSON holds it; `Figures(data)` is the way back."""
        counts = {name: round(count, 4) for name, count in self.counts.items()}
        return {"counts": counts, "buckets": self.buckets, "levels": self.levels}


def total(parts: Iterable[Figures]) -> Figures:
    whole = Figures()
    for part in parts:
        whole.merge(part)
    return whole
