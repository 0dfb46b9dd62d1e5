"""Which adapters are resident and where their rows lie: plain bookkeeping for the LoRA bank of `bank.py`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Resident:
    digest: str
    name: str
    rank: int
    bytes: int
    used: int = 0  # order of last use
    proven: bool = False
    members: tuple[str, ...] = ()  # digests of what a blend consists of
    vocabulary: int = 0  # rows of its embedding; 0 for as many as the base's


@dataclass
class Residency:
    """Adapters in memory within a byte budget. Those in use are pinned; the rest leave by least-recent use."""

    budget: int
    adapters: dict[str, Resident] = field(default_factory=dict)
    pins: Counter[str] = field(default_factory=Counter)
    clock: int = 0

    @property
    def bytes(self) -> int:
        return sum(adapter.bytes for adapter in self.adapters.values())

    def __contains__(self, digest: str) -> bool:
        return digest in self.adapters

    def touch(self, digest: str) -> None:
        self.clock += 1
        self.adapters[digest].used = self.clock

    def pin(self, digest: str) -> None:
        self.pins[digest] += 1
        self.touch(digest)

    def unpin(self, digest: str) -> None:
        self.pins[digest] -= 1
        if self.pins[digest] <= 0:
            del self.pins[digest]

    def victims(self, needed: int) -> list[str] | None:
        """Who must leave for `needed` more bytes, least recently used first; None where even that is not enough."""
        excess = self.bytes + needed - self.budget
        leaving = []
        for adapter in sorted(self.adapters.values(), key=lambda a: a.used):
            if excess <= 0:
                break
            if self.pins[adapter.digest] == 0:
                leaving.append(adapter.digest)
                excess -= adapter.bytes
        return leaving if excess <= 0 else None

    def add(self, adapter: Resident) -> None:
        self.adapters[adapter.digest] = adapter
        self.touch(adapter.digest)

    def remove(self, digest: str) -> int:
        """Bytes that this returns. An adapter in use cannot be removed (RuntimeError)."""
        if self.pins[digest] > 0:
            raise RuntimeError("an adapter in use cannot leave the bank")
        return self.adapters.pop(digest).bytes


class RowRanges:
    """First-fit allocation of row ranges in a working set; `high` is the end of the highest range in use."""

    def __init__(self) -> None:
        self.ranges: dict[str, tuple[int, int]] = {}

    @property
    def high(self) -> int:
        return max((stop for _, stop in self.ranges.values()), default=0)

    @property
    def used(self) -> int:
        return sum(stop - start for start, stop in self.ranges.values())

    def place(self, digest: str, rows: int) -> tuple[int, int]:
        """The lowest free range of `rows` rows."""
        start = 0
        for begin, end in sorted(self.ranges.values()):
            if begin - start >= rows:
                break
            start = max(start, end)
        self.ranges[digest] = (start, start + rows)
        return start, start + rows

    def free(self, digest: str) -> tuple[int, int]:
        return self.ranges.pop(digest)
