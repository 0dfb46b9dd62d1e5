"""What an adapter has of its own beside LoRA's pairs, applied to its own rows of a step and to no other.

Two forms cover all that PEFT trains there. An affine change of a group's outputs, y * scale + shift, is DoRA's
magnitude (Liu et al. 2024: m / ‖W + BA‖ times the product without its bias), a trained bias and the bias of `lora_B`.
A stand-in takes the place of a whole module: a saved layer, an embedding with rows or matrices of its own.

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
    """One adapter's: outputs by kind, modules by path."""

    outputs: dict[str, Outputs] = field(default_factory=dict)
    modules: dict[str, StandIn] = field(default_factory=dict)

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
        self.resident: dict[str, OwnParts] = {}
        self.outputs: dict[str, list[tuple[Chosen, Outputs]]] = {}  # of the step under way, by kind
        self.modules: dict[str, list[tuple[Chosen, StandIn]]] = {}  # by path
        self._hooks: dict[str, Any] = {}
        self._planned: tuple[list[str | None], list[int]] | None = None

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

    def prepare(self, rows: list[str | None], logit_rows: list[int]) -> None:
        """Begin a step, see `bank.LoraBank`."""
        if not self.resident or self._planned == (rows, logit_rows):
            return
        self.outputs, self.modules = {}, {}
        every, of_logits = by_adapter(rows), by_adapter([rows[index] for index in logit_rows])
        for digest in every:
            parts = self.resident.get(digest)
            if parts is None:
                continue
            mine, mine_of_logits = self._chosen(every[digest]), self._chosen(of_logits.get(digest, []))
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

    def _hook(self, path: str) -> Any:
        def replace(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            for rows, stand_in in self.modules.get(path, ()):
                output[:, rows] = stand_in(args[0][:, rows], output[:, rows]).to(output.dtype)

        return replace


def by_adapter(rows: list[str | None]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for index, digest in enumerate(rows):
        if digest is not None:
            found.setdefault(digest, []).append(index)
    return found
