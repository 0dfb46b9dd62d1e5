"""What an adapter has of its own beside LoRA's pairs, applied to its own rows of a step and to no other.

Two forms cover all that PEFT trains there. An affine change of a group's outputs, y * scale + shift, is DoRA's
magnitude (Liu et al. 2024: m / ‖W + BA‖ times the product without its bias), a trained bias and the bias of `lora_B`.
A stand-in takes the place of a whole module: a saved layer, an embedding with rows or matrices of its own.

An adapter may have another vocabulary than its base, with more rows of the embedding and as many logits, or with fewer.
The base's embedding then looks up a stand-in's ids under an id that it has (`lookup`), the output layer's rows are as
wide as the widest in the step, and what lies beyond a row's own vocabulary is minus infinity at last (`bound`).

A step without such an adapter does nothing for them: `outputs` is empty, and modules carry a hook only while an adapter
that needs it is resident.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Chosen = slice | Tensor  # rows of a step


class StandIn(Protocol):
    """An adapter's own module: x (1, rows, ...) and what the base's module makes of it -> what the adapter's does."""

    @property
    def bytes(self) -> int: ...

    def __call__(self, x: Tensor, y: Tensor) -> Tensor: ...


@dataclass
class Outputs:
    """y * scale + shift over a kind of groups; both (layers, outputs) in fp32. No `scale`: 1."""

    shift: Tensor
    scale: Tensor | None = None

    @property
    def bytes(self) -> int:
        return self.shift.nbytes + (self.scale.nbytes if self.scale is not None else 0)

    def apply(self, layer: int, y: Tensor) -> Tensor:
        # Two operations and not one: fused, the rounding might change with a row's place in the batch.
        made = y if self.scale is None else y * self.scale[layer]
        return (made + self.shift[layer]).to(y.dtype)


@dataclass
class OwnParts:
    """One adapter's: outputs by kind, modules by path. A stand-in of the output layer gives as many logits as the
    adapter has."""

    outputs: dict[str, Outputs] = field(default_factory=dict)
    modules: dict[str, StandIn] = field(default_factory=dict)
    vocabulary: int = 0  # rows of its embedding and logits of a position, where those are not the base's

    @property
    def bytes(self) -> int:
        outputs = sum(part.bytes for part in self.outputs.values())
        return outputs + sum(part.bytes for part in self.modules.values())


class OwnRows:
    """The parts of resident adapters, and those of the step under way. All calls come from the engine's thread."""

    def __init__(self, root: nn.Module, device: torch.device) -> None:
        self.root = root
        self.device = device
        self.on_logits: set[str] = set()  # kinds and paths that see the rows of `logit_rows`, not all
        self.embedding = self.head = ""  # paths, see `vocabulary`
        self.rows = 0
        self.resident: dict[str, OwnParts] = {}
        self.outputs: dict[str, list[tuple[Chosen, Outputs]]] = {}  # of the step under way, by kind
        self.modules: dict[str, list[tuple[Chosen, StandIn]]] = {}  # by path
        self.limits: list[tuple[Chosen, int]] = []  # logits of the rows that have another number of them than the base
        self._ids: Tensor | None = None  # of the step under way, where the base's embedding is given others
        self._hooks: dict[str, Any] = {}
        self._planned: tuple[list[str | None], list[int]] | None = None

    def vocabulary(self, embedding: str, head: str, rows: int) -> None:
        """The base's: paths of embedding and output layer, and the embedding's rows."""
        self.embedding, self.head, self.rows = embedding, head, rows

    def add(self, digest: str, parts: OwnParts) -> None:
        self.resident.setdefault(digest, parts)
        for path in parts.modules:
            if path not in self._hooks:
                self._hooks[path] = self.root.get_submodule(path).register_forward_hook(self._hook(path))

    def remove(self, digest: str) -> None:
        if self.resident.pop(digest, None) is None:
            return
        self.rest()
        wanted = {path for parts in self.resident.values() for path in parts.modules}
        for path in [path for path in self._hooks if path not in wanted]:
            self._hooks.pop(path).remove()

    def concern(self, rows: list[str | None]) -> bool:
        """Whether one of these rows' adapters has parts of its own."""
        return bool(self.resident) and any(digest in self.resident for digest in set(rows))

    def rest(self) -> None:
        """Until the next `prepare`, nothing is changed."""
        self.outputs, self.modules, self._planned = {}, {}, None
        self.limits, self._ids = [], None

    def prepare(self, rows: list[str | None], logit_rows: list[int]) -> None:
        """Begin a step, see `bank.LoraBank`."""
        if not self.resident or self._planned == (rows, logit_rows):
            return
        self.outputs, self.modules, self.limits = {}, {}, []
        every, of_logits = by_adapter(rows), by_adapter([rows[index] for index in logit_rows])
        for digest in every:
            parts = self.resident.get(digest)
            if parts is None:
                continue
            mine, mine_of_logits = self._chosen(every[digest]), self._chosen(of_logits.get(digest, []))
            if parts.vocabulary and mine_of_logits is not None:
                self.limits.append((mine_of_logits, parts.vocabulary))
            for kind, outputs in parts.outputs.items():
                if (chosen := mine_of_logits if kind in self.on_logits else mine) is not None:
                    self.outputs.setdefault(kind, []).append((chosen, outputs))
            for path, module in parts.modules.items():
                if (chosen := mine_of_logits if path in self.on_logits else mine) is not None:
                    self.modules.setdefault(path, []).append((chosen, module))
        self._planned = (list(rows), list(logit_rows))

    def _chosen(self, rows: list[int]) -> Chosen | None:
        """Rows side by side need no copy."""
        if not rows:
            return None
        if rows[-1] - rows[0] + 1 == len(rows):
            return slice(rows[0], rows[-1] + 1)
        return torch.tensor(rows, device=self.device)

    def finish(self, kind: str, layer: int, y: Tensor) -> None:
        """Change the rows of a group's outputs y (rows, out) in place that have outputs of their own."""
        for rows, outputs in self.outputs.get(kind, ()):
            y[rows] = outputs.apply(layer, y[rows])

    def lookup(self, ids: Tensor) -> Tensor:
        """Of the token ids (1, rows) of a step those for the base's embedding, which has no row for some of them."""
        self._ids = None
        if not any(parts.vocabulary > self.rows for parts in self.resident.values()):
            return ids
        self._ids = ids
        return torch.where(ids < self.rows, ids, 0)

    def bound(self, logits: Tensor, count: int) -> Tensor:
        """Logits (rows, width) of a step in which a position of the base has `count`; changed in place."""
        if self.limits:
            limit = torch.full((len(logits), 1), count, device=logits.device)
            for rows, own in self.limits:
                limit[rows] = own
            logits.masked_fill_(torch.arange(logits.shape[-1], device=logits.device) >= limit, float("-inf"))
        return logits

    def _hook(self, path: str) -> Any:
        def replace(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = args[0]
            if path == self.embedding and self._ids is not None:
                x = self._ids
            count = output.shape[-1]
            if path == self.head:
                output = widened(output, max((own for _, own in self.limits), default=0))
            for rows, stand_in in self.modules.get(path, ()):
                made = stand_in(x[:, rows], output[:, rows, :count])
                output[:, rows, : made.shape[-1]] = made.to(output.dtype)
            return output

        return replace


def widened(y: Tensor, width: int) -> Tensor:
    """y (..., outputs) with zeros behind its outputs, up to `width` of them; y itself where it is that wide."""
    missing = width - y.shape[-1]
    return y if missing <= 0 else nn.functional.pad(y, (0, missing))


def by_adapter(rows: list[str | None]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for index, digest in enumerate(rows):
        if digest is not None:
            found.setdefault(digest, []).append(index)
    return found
