"""The token rows of one step. They lie in one row of batch size 1, whatever sequence they belong to: first one token of
each sequence that decodes, then prompt chunks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class DecodeRows:
    """Sequences that decode: row i of the step attends to slot `slots[i]`, `lengths[i]` keys (itself included)."""

    slots: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)


@dataclass
class PromptRows:
    """A prompt chunk: rows `offset : offset + size` of the step, positions `start : start + size` of slot `slot`."""

    offset: int
    size: int
    slot: int
    start: int


@dataclass
class StepRows:
    """`tokens` and `adapters` (None: the base) by row; `logit_rows` are those whose logits are wanted."""

    tokens: list[int] = field(default_factory=list)
    adapters: list[str | None] = field(default_factory=list)
    decode: DecodeRows = field(default_factory=DecodeRows)
    prompts: list[PromptRows] = field(default_factory=list)
    logit_rows: list[int] = field(default_factory=list)

    def add_decoding(self, token: int, adapter: str | None, slot: int, length: int, wanted: bool = True) -> None:
        """A row at position `length - 1` of a slot. All of these come before any chunk."""
        if wanted:
            self.logit_rows.append(len(self.tokens))
        self.tokens.append(token)
        self.adapters.append(adapter)
        self.decode.slots.append(slot)
        self.decode.lengths.append(length)

    def add_chunk(self, tokens: list[int], adapter: str | None, slot: int, start: int, wanted: Iterable[int]) -> None:
        """Positions from `start` on of a slot; `wanted` are the positions whose logits are wanted."""
        offset = len(self.tokens)
        self.prompts.append(PromptRows(offset, len(tokens), slot, start))
        self.tokens += tokens
        self.adapters += [adapter] * len(tokens)
        self.logit_rows += [offset + position - start for position in wanted]
