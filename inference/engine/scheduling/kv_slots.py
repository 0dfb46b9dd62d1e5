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


class SlotTable:
    """A fixed number of slots. Keys and values of one adapter are never offered to another."""

    def __init__(self, count: int) -> None:
        self.slots = [KVSlot(index) for index in range(count)]
        self.clock = 0

    @property
    def free(self) -> int:
        return sum(not slot.used for slot in self.slots)

    def take(self, key: tuple[str, str | None], tokens: list[int]) -> tuple[int, int] | None:
        """A free slot for a prompt: (slot, tokens of it that are already computed), or None where all are in use.

        At least the prompt's last token is left to compute, since its logits are needed.
        """
        best: KVSlot | None = None
        best_common = 0
        for slot in self.slots:
            if slot.used or slot.key != key:
                continue
            common = common_prefix(slot.tokens, tokens, len(tokens) - 1)
            if common >= MIN_REUSE and common > best_common:
                best, best_common = slot, common
        if best is None:
            free = [slot for slot in self.slots if not slot.used]
            if not free:
                return None
            # Never-used slots first and in order, which keeps the running ones side by side in memory.
            best = min(free, key=lambda slot: (bool(slot.tokens), slot.released, slot.index))
            best_common = 0
        best.used = True
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
                slot.key, slot.tokens, slot.released = None, [], 0


def common_prefix(a: list[int], b: list[int], limit: int) -> int:
    """Length of the common beginning of `a` and `b`, at most `limit`."""
    size = max(0, min(len(a), len(b), limit))
    if a[:size] == b[:size]:
        return size
    for index in range(size):
        if a[index] != b[index]:
            return index
    return size
