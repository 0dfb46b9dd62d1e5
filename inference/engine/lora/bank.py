"""What a LoRA bank holds: kinds of linear layers, and one adapter's matrices by kind.

Groups of linear layers that share their input and have the same names and shapes, such as q/k/v of every layer, form a
kind. For such a group the base gives y (T, out) from x (T, in), and a row's adapter adds

    y[columns of member m] += scaling · (x Aₘᵀ) Bₘ        (Hu et al. 2021, eq. 3)

Two banks apply it: `segment_bank.py` by a kernel on a CPU, `stacked_bank.py` by three tensor operations elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from inference.engine.errors import EngineError

from .own import OwnParts


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


class Pair(NamedTuple):
    """The two matrices of one linear layer as the file has them: a (rank, in), b (out, rank), of any float type."""

    layer: int
    member: int
    a: Tensor
    b: Tensor
    scale: float


@dataclass
class AdapterPairs:
    """One adapter's pairs of one kind. `ranks` are each member's largest over the layers, 0 where the adapter leaves
    the member alone."""

    ranks: tuple[int, ...]
    pairs: list[Pair]


Own = dict[str, dict[str, Tensor]]  # module path -> what an adapter has of it beside pairs: role -> tensor


@dataclass
class AdapterFile:
    """An adapter as it was read; its tensors may be views of the mapped file."""

    digest: str
    name: str
    rank: int
    kinds: dict[str, AdapterPairs]
    own: Own = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)  # of LoRA on embeddings, by path
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        pairs = sum(pair.a.nbytes + pair.b.nbytes for found in self.kinds.values() for pair in found.pairs)
        return pairs + sum(tensor.nbytes for roles in self.own.values() for tensor in roles.values())


@dataclass
class AdapterWeights:
    """An adapter in its bank's own form, by kind."""

    digest: str
    name: str
    rank: int
    kinds: dict[str, Packed]
    own: OwnParts | None = None  # what it has beside pairs; None for nothing, as most
    text: Any = None  # `model/token_text.py`, where its tokenizer is not the base's

    @property
    def vocabulary(self) -> int:
        """Rows of its embedding; 0 for as many as the base's."""
        return self.own.vocabulary if self.own is not None else 0

    @property
    def bytes(self) -> int:
        own = self.own.bytes if self.own is not None else 0
        return own + sum(packed.bytes for packed in self.kinds.values())


def nonfinite() -> EngineError:
    return EngineError("weights_nonfinite", "The adapter holds values that are not finite numbers.")


Update = tuple[int, int, int, int]  # addresses of a plan's words and rows, the layer, the address of scratch


class Packed(Protocol):
    """One adapter's matrices of one kind in a bank's own form."""

    @property
    def bytes(self) -> int: ...


class LoraBank(Protocol):
    """Resident adapters, applied to the rows of a step. All calls but `pack` come from the engine's thread."""

    kinds: dict[str, Kind]
    resident: dict[str, AdapterWeights]

    def pack(self, read: AdapterFile) -> AdapterWeights:
        """Bring a read adapter into the bank's form; runs beside the steps and touches no shared state.

        Raises EngineError `weights_nonfinite`."""
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

    def update(self, kind: str, layer: int) -> Update | None:
        """What a product takes that adds the update in its own pass; None where that is left to `apply`."""
        ...

    def apply(self, kind: str, layer: int, x: Tensor, y: Tensor) -> Tensor:
        """Add the update of a group's adapters to y (rows, out) in place; x is (rows, in)."""
        ...
