"""The LoRA bank of tensor operations: every adapter in use, stacked, applied by three operations a layer.

Let A (R, in) be the stacked A matrices of the adapters in use and B (R, out) their B matrices. Then

    y += ((x Aᵀ) where M else 0) B

where the mask M (T, R) holds where row t's sequence uses the adapter that column r belongs to. Rows of the base itself
have an empty mask, so each row gets exactly its own adapter's update. The mask selects and does not multiply: an
adapter whose products overflow must not reach other rows as infinity times zero.

A kind's matrices of all layers lie in one tensor, so an adapter enters or leaves the working set by a few copies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from inference.engine.native.onednn import ONEDNN, linear_pointwise

from .bank import AdapterFile, AdapterPairs, AdapterWeights, Kind, Packed, nonfinite
from .residency import RowRanges

PAUSE = 4  # steps that an adapter may sit out before it gives up its rows in the working set


@dataclass
class AdapterRows:
    """One adapter's matrices of one kind.

    `a` is (layers, sum of ranks, in), member after member; `b[m]` is (layers, ranks[m], outs[m]) with the scaling in
    it. A layer of smaller rank ends in zeros.
    """

    ranks: tuple[int, ...]
    a: Tensor
    b: list[Tensor]

    @property
    def bytes(self) -> int:
        return self.a.nbytes + sum(part.nbytes for part in self.b)


@dataclass
class WorkingSet:
    """Matrices of one kind for the adapters in use: a (layers, capacity, in), b (layers, capacity, out)."""

    a: Tensor
    b: Tensor
    ranges: RowRanges = field(default_factory=RowRanges)
    needed: dict[str, int] = field(default_factory=dict)  # digest -> last step that used it
    step: int = 0

    @property
    def capacity(self) -> int:
        return self.a.shape[1]


class StackedBank:
    """See `bank.LoraBank`: resident adapters, and the working set of those that sequences use now."""

    def __init__(self, kinds: dict[str, Kind], device: torch.device, dtype: torch.dtype) -> None:
        self.kinds = kinds
        self.device = device
        self.dtype = dtype
        self.resident: dict[str, AdapterWeights] = {}
        self.sets: dict[str, WorkingSet] = {}
        self.masks: dict[str, Tensor] = {}  # of the step under way: kind -> (rows, high), true where to blank
        self.version = 0  # changes whenever a working set moves to other memory

    def pack(self, read: AdapterFile) -> AdapterWeights:
        packed: dict[str, Packed] = {}
        for key, found in read.kinds.items():
            rows = stack(self.kinds[key], found)
            rows.a = rows.a.to(self.device, self.dtype)
            rows.b = [part.to(self.device, self.dtype) for part in rows.b]
            packed[key] = rows
        return AdapterWeights(read.digest, read.name, read.rank, packed)

    def add(self, weights: AdapterWeights) -> None:
        self.resident.setdefault(weights.digest, weights)

    def remove(self, digest: str) -> None:
        self.resident.pop(digest, None)
        for working in self.sets.values():
            if digest in working.ranges.ranges:
                self._leave(working, digest)

    @property
    def bytes(self) -> int:
        working = sum(w.a.nbytes + w.b.nbytes for w in self.sets.values())
        return working + sum(weights.bytes for weights in self.resident.values())

    def prepare(self, rows: list[str | None], logit_rows: list[int], whole: bool = False) -> None:
        """See `LoraBank`. With `whole` the masks span the working sets' capacity, which changes seldom."""
        wanted = {digest for digest in rows if digest is not None}
        self.masks = {}
        if not wanted:
            return
        for key, kind in self.kinds.items():
            users = [digest for digest in wanted if key in self.resident[digest].kinds]
            if users:
                working = self._enter(kind, users)
                self.masks[key] = self._mask(working, rows, logit_rows if kind.on_logits else None, whole)

    def _mask(
        self, working: WorkingSet, rows: list[str | None], subset: list[int] | None, whole: bool
    ) -> Tensor:  # fmt: skip
        chosen = rows if subset is None else [rows[index] for index in subset]
        ranges = working.ranges.ranges
        order = list(ranges)
        table = torch.ones(len(order) + 1, working.capacity if whole else working.ranges.high, dtype=torch.bool)
        for index, digest in enumerate(order):
            start, stop = ranges[digest]
            table[index, start:stop] = False
        number = {digest: index for index, digest in enumerate(order)}
        chosen_rows = torch.tensor([number.get(digest, len(order)) if digest else len(order) for digest in chosen])
        return table[chosen_rows].to(self.device)

    def _enter(self, kind: Kind, users: list[str]) -> WorkingSet:
        working = self.sets.get(kind.key)
        if working is None:
            working = self.sets[kind.key] = self._allocate(kind, 0)
        sizes = {digest: self._rows(digest, kind).a.shape[1] for digest in users}
        self._make_dense(working, sizes)
        for digest in users:
            if digest in working.ranges.ranges:
                continue
            rows = self._rows(digest, kind)
            start, stop = working.ranges.place(digest, rows.a.shape[1])
            if stop > working.capacity:
                working = self._grow(kind, working, stop)
            self._copy(kind, working, rows, start)
        return working

    def _rows(self, digest: str, kind: Kind) -> AdapterRows:
        return cast(AdapterRows, self.resident[digest].kinds[kind.key])

    def _copy(self, kind: Kind, working: WorkingSet, rows: AdapterRows, start: int) -> None:
        working.a[:, start : start + rows.a.shape[1]] = rows.a
        for columns, rank, part in zip(kind.columns, rows.ranks, rows.b, strict=True):
            working.b[:, start : start + rank, columns] = part
            start += rank

    def _make_dense(self, working: WorkingSet, sizes: dict[str, int]) -> None:
        """Every row up to the highest range costs time in every step, so adapters that were not needed for a few steps
        leave once they are a quarter or more, and the rest closes up. An adapter that pauses for a step stays."""
        working.step += 1
        for digest in sizes:
            working.needed[digest] = working.step
        needed = sum(sizes.values())
        if working.ranges.high <= 1.25 * needed:
            return
        stale = [d for d in working.ranges.ranges if working.step - working.needed.get(d, 0) > PAUSE]
        for digest in stale:
            self._leave(working, digest)
        if stale and working.ranges.high > 1.25 * working.ranges.used:
            for digest in list(working.ranges.ranges):
                self._leave(working, digest)  # placed again, side by side, by the caller

    def _leave(self, working: WorkingSet, digest: str) -> None:
        # Blanked columns meet these rows as 0 · b, so nothing stale may lie here.
        working.needed.pop(digest, None)
        start, stop = working.ranges.free(digest)
        working.a[:, start:stop] = 0
        working.b[:, start:stop] = 0

    def _allocate(self, kind: Kind, capacity: int) -> WorkingSet:
        self.version += 1
        capacity = max(32, 1 << (capacity - 1).bit_length()) if capacity else 32
        a = torch.zeros(kind.layers, capacity, kind.inputs, device=self.device, dtype=self.dtype)
        b = torch.zeros(kind.layers, capacity, kind.outputs, device=self.device, dtype=self.dtype)
        return WorkingSet(a, b)

    def _grow(self, kind: Kind, old: WorkingSet, capacity: int) -> WorkingSet:
        new = self._allocate(kind, capacity)
        new.a[:, : old.capacity] = old.a
        new.b[:, : old.capacity] = old.b
        new.ranges, new.needed, new.step = old.ranges, old.needed, old.step
        self.sets[kind.key] = new
        return new

    def update(self, kind: str, layer: int) -> None:
        return None

    def apply(self, kind: str, layer: int, x: Tensor, y: Tensor) -> Tensor:
        mask = self.masks.get(kind)
        if mask is None:
            return y
        working = self.sets[kind]
        high = mask.shape[1]
        a, b = working.a[layer, :high], working.b[layer, :high]
        if x.shape[0] > 1 and x.device.type == "cpu" and x.dtype == torch.float32 and ONEDNN:
            # oneDNN's small products beat BLAS several times over between 2 and 64 rows; both are exact fp32.
            hidden = linear_pointwise(x, a, None, "none", [], "").masked_fill_(mask, 0)
            return linear_pointwise.binary(hidden, y, b.t(), None, "add")
        hidden = torch.mm(x, a.t()).masked_fill_(mask, 0)
        return torch.addmm(y, hidden, b, out=y)


def stack(kind: Kind, found: AdapterPairs) -> AdapterRows:
    """All layers' matrices of a kind in fp32 on the CPU. Raises EngineError `weights_nonfinite`."""
    ranks = found.ranks
    starts = [sum(ranks[:index]) for index in range(len(ranks))]
    # The default type is the whole process's, and changes while a base loads.
    a_all = torch.zeros(kind.layers, sum(ranks), kind.inputs, dtype=torch.float32)
    b_all = [
        torch.zeros(kind.layers, rank, out, dtype=torch.float32) for rank, out in zip(ranks, kind.outs, strict=True)
    ]
    for layer, member, a, b, scale in found.pairs:
        rank = a.shape[0]
        a_all[layer, starts[member] : starts[member] + rank] = a
        b_all[member][layer, :rank] = b.float().t() * scale
    if not all(finite(tensor) for tensor in (a_all, *b_all)):
        raise nonfinite()
    return AdapterRows(ranks, a_all, b_all)


def finite(tensor: Tensor) -> bool:
    """Whether all values are finite numbers. One that is not makes the sum so, which a tenth of the time finds; a sum
    of finite numbers may still overflow, so only then every value is looked at."""
    return math.isfinite(float(tensor.sum())) or bool(torch.isfinite(tensor).all())
