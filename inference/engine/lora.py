"""What a LoRA bank holds: kinds of linear layers, and one adapter's matrices by kind.

Groups of linear layers that share their input and have the same names and shapes, such as q/k/v of every layer, form a
kind. For such a group the base gives y (T, out) from x (T, in), and a row's adapter adds

    y[columns of member m] += scaling · (x Aₘᵀ) Bₘ        (Hu et al. 2021, eq. 3)

Two banks apply it: `segments.py` by a native kernel on a CPU, `stacked.py` by three tensor operations anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass
class Kind:
    """Shape of a kind of groups: `outs` are the output sizes of its members, in order."""

    key: str
    names: tuple[str, ...]  # last parts of the members' module paths
    inputs: int
    outs: tuple[int, ...]
    on_logits: bool = False  # sees the rows of `StepRows.logit_rows`, not all
    layers: int = 0

    @property
    def outputs(self) -> int:
        return sum(self.outs)

    @property
    def columns(self) -> list[slice]:
        """Each member's columns of y."""
        ends = [sum(self.outs[: index + 1]) for index in range(len(self.outs))]
        return [slice(end - out, end) for end, out in zip(ends, self.outs, strict=True)]


@dataclass
class AdapterRows:
    """One adapter's matrices of one kind.

    `a` is (layers, sum of ranks, in), member after member; `b[m]` is (layers, ranks[m], outs[m]) with the scaling in
    it. A layer of smaller rank ends in zeros; a member that the adapter leaves alone has rank 0.
    """

    ranks: tuple[int, ...]
    a: Tensor
    b: list[Tensor]

    @property
    def bytes(self) -> int:
        return self.a.nbytes + sum(part.nbytes for part in self.b)


@dataclass
class AdapterWeights:
    """A loaded adapter. `packed` is what its bank made of `kinds`, which is empty from then on."""

    digest: str
    name: str
    rank: int
    kinds: dict[str, AdapterRows]
    packed: dict[str, Packed] | None = None

    @property
    def bytes(self) -> int:
        parts = self.packed if self.packed is not None else self.kinds
        return sum(rows.bytes for rows in parts.values())


class Packed(Protocol):
    """One adapter's matrices of one kind in a bank's own form."""

    @property
    def bytes(self) -> int: ...


class LoraBank(Protocol):
    """Resident adapters, applied to the rows of a step. All calls but `pack` come from the engine's thread."""

    kinds: dict[str, Kind]
    resident: dict[str, AdapterWeights]

    def pack(self, weights: AdapterWeights) -> AdapterWeights:
        """Bring a read adapter into the bank's form; runs beside the steps and touches no shared state."""
        ...

    def add(self, weights: AdapterWeights) -> None:
        """Keep a packed adapter. The same digest twice keeps the first."""
        ...

    def remove(self, digest: str) -> None:
        """Forget an adapter and return its memory. It must not be part of the step under way."""
        ...

    @property
    def bytes(self) -> int: ...

    def prepare(self, rows: list[str | None], logit_rows: list[int]) -> None:
        """Begin a step. `rows` names each token row's adapter (None: the base); `logit_rows` are the rows that the
        output layer sees."""
        ...

    def apply(self, kind: str, layer: int, x: Tensor, y: Tensor) -> Tensor:
        """Add the update of a group's adapters to y (rows, out) in place; x is (rows, in)."""
        ...
