"""Which sequence has which KV slot, and what a free slot still holds from an earlier turn."""

from __future__ import annotations

from dataclasses import dataclass, field

MIN_REUSE = 16  # tokens; a shorter common beginning is not worth being picky about slots


@dataclass
class KVSlot:
    """`tokens` are those whose keys and values the slot holds, valid for `key` = (base, adapter) alone."""

    index: int
    used: bool = False
    key: tuple[str, str | None] | None = None
    tokens: list[int] = field(default_factory=list)
    released: int = 0  # order of release, for least-recent use
    background: bool = False  # what it holds is of a request that nobody waited for, and no conversation's


class SlotTable:
    """A fixed number of slots. Keys and values of one adapter are never offered to another."""

    def __init__(self, count: int) -> None:
        self.slots = [KVSlot(index) for index in range(count)]
        self.clock = 0

    @property
    def free(self) -> int:
        return sum(not slot.used for slot in self.slots)

    def take(
        self, key: tuple[str, str | None], tokens: list[int], reusable: int | None = None, background: bool = False
    ) -> tuple[int, int] | None:
        """A free slot for a prompt: (slot, tokens of it that are already computed), or None where all are in use.

        All but the first `reusable` (None: all but the last) are left to compute, since their logits are needed.
        """
        reusable = len(tokens) - 1 if reusable is None else reusable
        best: KVSlot | None = None
        best_common = 0
        for slot in self.slots:
            if slot.used or slot.key != key:
                continue
            common = common_prefix(slot.tokens, tokens, reusable)
            if common >= MIN_REUSE and common > best_common:
                best, best_common = slot, common
        if best is None:
            free = [slot for slot in self.slots if not slot.used]
            if not free:
                return None
            # Never-used slots first and in order, which keeps the running ones side by side in memory; then those that
            # no conversation will go on in.
            best = min(free, key=lambda slot: (bool(slot.tokens), not slot.background, slot.released, slot.index))
            best_common = 0
        best.used, best.background = True, background
        best.key = key
        best.tokens = tokens[:best_common]
        return best.index, best_common

    def release(self, index: int, computed: list[int]) -> None:
        """Give a slot back; `computed` are the tokens that it holds keys and values for."""
        slot = self.slots[index]
        self.clock += 1
        slot.used = False
        slot.tokens = computed
        slot.released = self.clock

    def forget(self, adapter: str | None = None) -> None:
        """Drop what free slots hold, of one adapter or (None) of all."""
        for slot in self.slots:
            if not slot.used and (adapter is None or (slot.key is not None and slot.key[1] == adapter)):
                slot.key, slot.tokens, slot.released, slot.background = None, [], 0, False


def common_prefix(a: list[int], b: list[int], limit: int) -> int:
    """Length of the common beginning of `a` and `b`, at most `limit`."""
    size = max(0, min(len(a), len(b), limit))
    if a[:size] == b[:size]:
        return size
    for index in range(size):
        if a[index] != b[index]:
            return index
    return size
