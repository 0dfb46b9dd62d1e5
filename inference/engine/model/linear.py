"""Base linear layers grouped by shared input, packed, and joined with the LoRA bank.

Transformers writes q, k and v (or gate and up) as separate layers over one input. A probe run finds such siblings by
the identity of their input tensor; each group then computes once and hands each member its slice. Nothing about
the architecture is assumed: layers that never share their input form groups of one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from inference.engine.lora.bank import Kind, LoraBank
from inference.engine.lora.own import OwnRows
from inference.engine.native.library import Native

from .products import base_product
from .weights import HARMLESS


@dataclass
class Member:
    path: str
    module: Any  # nn.Linear, Conv1D or a quantised layer
    outputs: int


@dataclass
class ProbedLayers:
    """What a probe run saw: linear layers in the order of their calls, siblings together."""

    groups: list[list[Member]] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)  # module path -> rows of its input
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))


QUANTISED = {"Linear4bit", "Linear8bitLt"}  # of bitsandbytes
SCALES = (1e-2, 1.0, 1e2)  # of the rows that prove a subclass: a bound, a threshold or an offset shows in one of them
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-5}  # of the largest output of a row; other types round more coarsely


def is_linear(module: nn.Module) -> bool:
    """Whether a layer computes x Wᵀ + b and nothing else. A subclass may do anything in its `forward` (a router returns
    a tuple, others project in blocks), so it counts where it proves equal on test rows."""
    kind = type(module)
    if kind in (nn.Linear, Conv1D) or (kind.__name__ in QUANTISED and kind.__module__.startswith("bitsandbytes.")):
        return True
    return isinstance(module, nn.Linear | Conv1D) and proves_linear(module)


def proves_linear(module: Any) -> bool:
    """Whether the layer gives on test rows what its weight and bias give, as a single tensor."""
    weight, bias = module.weight, module.bias
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point() or weight.is_meta:
        return False
    inputs, outputs = sizes(module)
    rows = torch.randn(len(SCALES), inputs, generator=torch.Generator().manual_seed(0))
    rows = (rows * torch.tensor(SCALES)[:, None]).to(weight.device, weight.dtype)
    matrix = weight.t() if isinstance(module, Conv1D) else weight
    try:
        with torch.no_grad():
            wanted = nn.functional.linear(rows, matrix, bias)
            given = module(rows[None])
    except Exception:  # noqa: BLE001  (whatever it wants as its input, it is no plain layer)
        return False
    if not isinstance(given, Tensor) or given.shape != (1, len(SCALES), outputs) or given.dtype != wanted.dtype:
        return False
    apart = (given[0] - wanted).abs().amax(dim=-1)
    return bool((apart <= ROUNDING.get(weight.dtype, 1e-2) * wanted.abs().amax(dim=-1)).all())


def sizes(module: Any) -> tuple[int, int]:
    """(inputs, outputs) of a linear layer of either orientation."""
    if isinstance(module, Conv1D):
        return module.weight.shape[0], module.weight.shape[1]
    return module.in_features, module.out_features


def trace(model: nn.Module, run: Callable[[], Any]) -> ProbedLayers:
    """Run the model once and note which linear layers are called, in what order, and which share their input."""
    seen = ProbedLayers()
    inputs: list[Any] = []  # keeps them alive, so that identity means the same tensor
    handles = []

    def hook(path: str) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            seen.calls[path] += 1
            if len(args) != 1 or named:  # called in another way than what stands in its place can be: left alone
                inputs.append(None)
                return
            x = args[0]
            seen.rows[path] = x.numel() // x.shape[-1]
            member = Member(path, module, sizes(module)[1])
            if inputs and inputs[-1] is x and seen.groups:
                seen.groups[-1].append(member)
            else:
                seen.groups.append([member])
            inputs.append(x)

        return note

    for path, module in model.named_modules():
        if is_linear(module):
            handles.append(module.register_forward_hook(hook(path), with_kwargs=True))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


class Group:
    """Sibling linear layers computed as one, plus the adapters' update."""

    def __init__(
        self, members: list[Member], kind: Kind, layer: int, bank: LoraBank, own: OwnRows, native: Native | None
    ) -> None:  # fmt: skip
        self.kind = kind
        self.layer = layer
        self.bank = bank
        self.own = own
        self.transposed = isinstance(members[0].module, Conv1D)
        self.outputs = [member.outputs for member in members]
        self.offsets = [sum(self.outputs[:index]) for index in range(len(members))]
        self.base = base_product([member.module for member in members], native)
        self.x: Tensor | None = None
        self.y: Tensor | None = None

    def output(self, x: Tensor, index: int) -> Tensor:
        if x is not self.x:
            flat = x.reshape(-1, x.shape[-1])
            y = self.base.adding(flat, self.bank, self.kind.key, self.layer)
            if self.own.outputs:
                self.own.finish(self.kind.key, self.layer, y)
            self.x, self.y = x, y.view(*x.shape[:-1], -1)
        assert self.y is not None  # noqa: S101  (for the type checker)
        start = self.offsets[index]
        y = self.y if len(self.outputs) == 1 else self.y[..., start : start + self.outputs[index]]
        if index == len(self.outputs) - 1:
            self.x = self.y = None
        return y


class GroupMember(nn.Module):
    """Stands where a linear layer stood."""

    def __init__(self, group: Group, index: int, original: nn.Module) -> None:
        super().__init__()
        self.group = group
        self.index = index
        self.in_features, self.out_features = sizes(original)

    def forward(self, x: Tensor) -> Tensor:
        return self.group.output(x, self.index)


def output_layer(model: nn.Module) -> nn.Module | None:
    head: nn.Module | None = getattr(model, "get_output_embeddings", lambda: None)()
    return head


def carrying(model: nn.Module, seen: ProbedLayers, rows: int, logit_rows: int) -> list[list[Member]]:
    """The groups of layers that can carry an adapter: called once, with the step's rows. Routed experts are not."""
    head = output_layer(model)
    return [
        members
        for members in seen.groups
        if all(
            seen.calls[m.path] == 1 and seen.rows[m.path] == (logit_rows if m.module is head else rows) for m in members
        )
    ]


def idle(model: nn.Module, seen: ProbedLayers) -> frozenset[str]:
    """Linear layers that no text ever enters, such as those of a multimodal model's tower: an adapter of theirs changes
    no answer. Not those that this run alone did not enter."""
    return frozenset(
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and path not in seen.calls and HARMLESS.search(f"{path}.weight")
    )


def layers_of(model: nn.Module, seen: ProbedLayers, rows: int, logit_rows: int) -> dict[str, tuple[int, int, str]]:
    """Every linear layer by the name that PEFT gives it: (outputs, inputs, role). The roles: "carries" an adapter,
    "idle" (see there), "fixed" for one that is used in a way that no adapter can join.

    A subclass that this model, without numbers, cannot prove to be linear is taken for one; its first load tells.
    """
    carriers = {member.path for members in carrying(model, seen, rows, logit_rows) for member in members}
    resting = idle(model, seen)
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            unproven = module.weight.is_meta and not is_linear(module)
            role = "idle" if path in resting else "carries" if unproven or path in carriers else "fixed"
            inputs, outputs = sizes(module)
            found[path] = (outputs, inputs, role)
    return found


@dataclass
class Installed:
    """What was replaced: for each module path (kind, layer, index in the group); groups by kind and layer; bytes of
    weights."""

    places: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    groups: dict[tuple[str, int], Group] = field(default_factory=dict)
    bytes: int = 0


def install(
    model: nn.Module,
    seen: ProbedLayers,
    rows: int,
    logit_rows: int,
    bank: LoraBank,
    own: OwnRows,
    native: Native | None,
    progress: Callable[[float], None],
) -> Installed:
    """Replace the traced linear layers by groups, whose kinds `bank` gets to know.

    Layers that are not `carrying` stay as they are.
    """
    made = Installed()
    kinds = bank.kinds
    head = output_layer(model)
    groups = carrying(model, seen, rows, logit_rows)
    total = sum(m.module.weight.numel() for members in groups for m in members)
    done = 0
    for members in groups:
        inputs = sizes(members[0].module)[0]
        names = tuple(m.path.rsplit(".", 1)[-1] for m in members)
        on_logits = members[0].module is head
        key = f"{','.join(names)}:{inputs}:{','.join(str(m.outputs) for m in members)}"
        kind = kinds.setdefault(key, Kind(key, names, inputs, tuple(m.outputs for m in members), on_logits=on_logits))
        count = sum(m.module.weight.numel() for m in members)
        group = made.groups[key, kind.layers] = Group(members, kind, kind.layers, bank, own, native)
        if on_logits:
            own.on_logits |= {key, members[0].path}
        made.bytes += group.base.bytes
        for index, member in enumerate(members):
            replace(model, member.path, GroupMember(group, index, member.module))
            made.places[member.path] = (key, kind.layers, index)
        kind.layers += 1
        done += count
        progress(done / max(1, total))
    return made


def replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
