"""The LoRA bank of the native kernel: each row's update by its own adapter's matrices alone, where they lie.

Nothing is stacked or copied when the mix of a batch changes, rows of the base are not touched, and a step reads each
adapter in use once. For fp32 on a CPU; `native/segments.c` says how.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from inference.engine.native.library import FORMATS, TILE, Native

from .bank import AdapterFile, AdapterPairs, AdapterWeights, Kind, Packed, Update, nonfinite
from .own import by_adapter


@dataclass
class PackedRows:
    """`a` (layers, sum of ranks, in); `b` (layers, floats) in tiles, member after member, as segments.c wants them."""

    ranks: tuple[int, ...]
    a: Tensor
    b: Tensor

    @property
    def bytes(self) -> int:
        return self.a.nbytes + self.b.nbytes


@dataclass
class Plan:
    """The kernel's description of a step for one kind; both tensors are int64 and live as long as the step."""

    words: Tensor
    rows: Tensor
    scratch: int  # floats


class SegmentBank:
    """See `bank.LoraBank`."""

    def __init__(self, kinds: dict[str, Kind], native: Native) -> None:
        self.kinds = kinds
        self.native = native
        self.resident: dict[str, AdapterWeights] = {}
        self.plans: dict[str, Plan] = {}
        self.scratch = torch.empty(0)
        self.threads = torch.get_num_threads()
        self._planned: tuple[list[str | None], list[int]] | None = None

    def pack(self, read: AdapterFile) -> AdapterWeights:
        packed: dict[str, Packed] = {key: self._packed(self.kinds[key], found) for key, found in read.kinds.items()}
        return AdapterWeights(read.digest, read.name, read.rank, packed)

    def _packed(self, kind: Kind, found: AdapterPairs) -> PackedRows:
        ranks = found.ranks
        starts = [sum(ranks[:index]) for index in range(len(ranks))]
        sizes = [rank * -(-out // TILE) * TILE for rank, out in zip(ranks, kind.outs, strict=True)]
        made = PackedRows(
            ranks,
            torch.zeros(kind.layers, sum(ranks), kind.inputs, dtype=torch.float32),
            torch.zeros(kind.layers, sum(sizes), dtype=torch.float32),
        )
        words: list[int] = []
        kept: list[Tensor] = []  # what the words point to
        for layer, member, a, b, _ in found.pairs:
            if a.dtype != b.dtype or a.dtype not in FORMATS:
                a, b = a.float(), b.float()
            a, b = a.contiguous(), b.contiguous()
            kept += (a, b)
            words += (
                a.data_ptr(), b.data_ptr(), FORMATS[a.dtype], a.shape[0], kind.inputs, kind.outs[member],
                made.a.data_ptr() + 4 * (layer * made.a.stride(0) + starts[member] * kind.inputs),
                made.b.data_ptr() + 4 * (layer * made.b.stride(0) + sum(sizes[:member])),
                ranks[member],
            )  # fmt: skip
        # The default type is the whole process's, and changes while a base loads: types are explicit here.
        items = torch.tensor(words)
        scales = torch.tensor([pair.scale for pair in found.pairs], dtype=torch.float32)
        if not self.native.load_matrices(items.data_ptr(), scales.data_ptr(), len(found.pairs)):
            raise nonfinite()
        return made

    def add(self, weights: AdapterWeights) -> None:
        self.resident.setdefault(weights.digest, weights)

    def remove(self, digest: str) -> None:
        self.resident.pop(digest, None)
        self.plans, self._planned = {}, None  # they hold addresses of what has just been freed

    @property
    def bytes(self) -> int:
        return self.scratch.nbytes + sum(weights.bytes for weights in self.resident.values())

    def prepare(self, rows: list[str | None], logit_rows: list[int]) -> None:
        if self._planned == (rows, logit_rows):
            return  # the same sequences decode on, as in most steps
        self._planned = (list(rows), list(logit_rows))
        every, of_logits = by_adapter(rows), by_adapter([rows[index] for index in logit_rows])
        self.plans = {}
        for key, kind in self.kinds.items():
            plan = self._plan(kind, of_logits if kind.on_logits else every)
            if plan is not None:
                self.plans[key] = plan
        needed = max((plan.scratch for plan in self.plans.values()), default=0)
        if needed > self.scratch.numel():
            self.scratch = torch.empty(needed, dtype=torch.float32)

    def _plan(self, kind: Kind, users: dict[str, list[int]]) -> Plan | None:
        words: list[int] = []
        rows: list[int] = []
        segments = scratch = 0
        for digest, mine in users.items():
            packed = cast(PackedRows | None, self.resident[digest].kinds.get(kind.key))  # as `pack` made it
            if packed is None:
                continue  # the adapter leaves this kind alone
            a, b = packed.a, packed.b
            words += [a.data_ptr(), a.stride(0), b.data_ptr(), b.stride(0), len(rows), len(mine), *packed.ranks]
            rows += mine
            segments += 1
            scratch += len(mine) * a.shape[1]
        if not segments:
            return None
        return Plan(torch.tensor([segments, len(kind.outs), *kind.outs, *words]), torch.tensor(rows), scratch)

    def update(self, kind: str, layer: int) -> Update | None:
        plan = self.plans.get(kind)
        if plan is None:
            return None
        return plan.words.data_ptr(), plan.rows.data_ptr(), layer, self.scratch.data_ptr()

    def apply(self, kind: str, layer: int, x: Tensor, y: Tensor) -> Tensor:
        plan = self.plans.get(kind)
        if plan is None:
            return y
        if x.stride(1) != 1:
            x = x.contiguous()
        self.native.lora_apply(
            plan.words.data_ptr(), plan.rows.data_ptr(), layer, x.data_ptr(), x.stride(0), x.shape[1],
            y.data_ptr(), y.stride(0), self.scratch.data_ptr(), self.threads,
        )  # fmt: skip
        return y
