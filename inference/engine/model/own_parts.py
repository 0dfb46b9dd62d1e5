"""What an adapter has beside LoRA's pairs, brought into the form of `lora/own.py`: by the base's own layers.

The definitions are PEFT 0.21's (`peft/tuners/lora/dora.py`, `layer.py`, `tuners/trainable_tokens/layer.py`,
`utils/other.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from inference.engine.errors import EngineError
from inference.engine.lora.bank import AdapterFile, Kind, Own, Pair, nonfinite
from inference.engine.lora.own import Outputs, OwnParts, StandIn, widened
from inference.engine.lora.stacked_bank import finite
from inference.engine.native.library import Native

from .linear import Group, is_linear, output_layer
from .norms import FusedNorm
from .products import BaseProduct, base_product

AT_ONCE = 4096  # rows of an embedding that are compared at once
OF_PAIRS = (("use_dora", "magnitude"), ("lora_bias", "pair_bias"))  # keys of the config, roles of tensors
# What no weight scales: roles of tensors, and what people know them by.
NOT_LINEAR = {"magnitude": "DoRA", "pair_bias": "lora_bias", "bias": "bias", "tokens": "trainable_token_indices"}
SPARSE = 0.5  # of an embedding's rows: where fewer differ, only those are kept


@dataclass
class Parts:
    """What of a base an adapter may have its own. `others`: modules beside the linear layers, by path; `embedding` and
    `head` are paths, "" where the engine cannot stand in for them. `tied`: they share their weights. `logits`: of a
    position; `one_lookup`: nothing but the embedding is given token ids; `largest`: of the proof's token ids."""

    places: Mapping[str, tuple[str, int, int]]
    kinds: Mapping[str, Kind]
    groups: Mapping[tuple[str, int], Group]
    others: Mapping[str, nn.Module]
    embedding: str
    head: str
    tied: bool
    native: Native | None
    device: torch.device
    dtype: torch.dtype
    logits: int
    one_lookup: bool
    largest: int

    @property
    def rows(self) -> int:
        """Of the embedding; 0 where the engine cannot stand in for it."""
        if not self.embedding:
            return 0
        weight: Any = self.others[self.embedding].weight
        return len(weight)


@dataclass
class Watched:
    """What a run over `rows` tokens shows of the modules that are no linear layers: those with weights of their own
    that were called once, with the step's rows and nothing else; and which were given whole numbers that are no
    positions."""

    rows: int
    calls: dict[str, int] = field(default_factory=dict)
    odd: set[str] = field(default_factory=set)
    of_ids: set[str] = field(default_factory=set)

    @property
    def paths(self) -> list[str]:
        return [path for path, count in self.calls.items() if count == 1 and path not in self.odd]


@contextmanager
def watching(model: nn.Module, rows: int) -> Iterator[Watched]:
    """Around a run of the model over `rows` tokens."""
    seen = Watched(rows)

    def hook(path: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            seen.calls[path] = seen.calls.get(path, 0) + 1
            plain = len(args) == 1 and not named and isinstance(args[0], Tensor) and isinstance(output, Tensor)
            if not plain or args[0].shape[:2] != (1, rows) or output.shape[:2] != (1, rows):
                seen.odd.add(path)
            if any(of_ids(each) for each in args):
                seen.of_ids.add(path)

        return note

    handles = [
        module.register_forward_hook(hook(path), with_kwargs=True)
        for path, module in model.named_modules()
        if path and not is_linear(module) and not any(True for _ in module.children())
        and any(True for _ in module.parameters())
    ]  # fmt: skip
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def of_ids(given: Any) -> bool:
    """Whether a module's argument may be token ids: whole numbers that do not go up one by one, as positions do."""
    if not isinstance(given, Tensor) or given.is_floating_point() or given.dtype == torch.bool or given.numel() < 2:
        return False
    return bool((given.flatten().diff() != 1).any())


def tied(model: Any) -> bool:
    """Whether the output layer's weights are the embedding's."""
    head, embedding = output_layer(model), model.get_input_embeddings()
    return head is not None and getattr(head, "weight", None) is embedding.weight


def path_of(model: nn.Module, wanted: nn.Module | None) -> str:
    return next((path for path, module in model.named_modules() if module is wanted), "")


def build(read: AdapterFile, base: Parts) -> OwnParts | None:
    """The adapter's own parts; None where it has none. What they take over leaves `read`. Touches no shared state, and
    keeps no view of the file, whose memory would stay.

    Raises EngineError `adapter_incompatible`, `weights_nonfinite`.
    """
    if not read.own and not any(read.config.get(key) for key, _ in OF_PAIRS):
        return None
    pairs = _paths(read, base)
    _check_pairs(read, pairs)
    own = _with_tokens(_with_ties(read, base), read, base)
    made = OwnParts(vocabulary=_vocabulary(own, base))
    for path, roles in sorted(own.items()):
        for tensor in roles.values():
            if not finite(tensor.float() if tensor.dtype.itemsize < 4 else tensor):
                raise nonfinite()
        if path in base.places and not {"weight", "tokens"} & set(roles):
            _outputs(made, path, roles, pairs.get(path), base)
        else:
            stand_in = _stand_in(path, roles, pairs.get(path), read, base, made.vocabulary)
            if stand_in is not None:
                made.modules[path] = stand_in
    if not all(finite(part) for each in made.outputs.values() for part in (each.shift, each.scale) if part is not None):
        raise nonfinite()
    return made if made.outputs or made.modules or made.vocabulary else None


def check_linear(read: AdapterFile, base: Parts) -> None:
    """Whether the adapter may be a part of a blend: what it has must be linear in the adapter's weight, as LoRA's pairs
    are, also those of embeddings. Saved layers that are the base's own change nothing.

    Raises EngineError `blend_unsupported`, or as `build` does.
    """
    found = {role for roles in read.own.values() for role in roles} | {
        role for key, role in OF_PAIRS if read.config.get(key)
    }
    for role, what in NOT_LINEAR.items():
        if role in found:
            raise unblendable(what)
    saved = {path: {"weight": roles["weight"]} for path, roles in read.own.items() if "weight" in roles}
    if saved and build(replace(read, own=saved), base) is not None:
        raise unblendable("modules_to_save")


def unblendable(what: str) -> EngineError:
    return EngineError("blend_unsupported", f"An adapter with {what} cannot be part of a blend.", what=what)


def misfit(path: str) -> EngineError:
    return EngineError("adapter_incompatible", f"{path} has other shapes than the base.", tensor=path, count=1)


def odd(path: str, why: str) -> EngineError:
    return EngineError("adapter_incompatible", f"{path} {why}.", tensor=path, count=1)


def _paths(read: AdapterFile, base: Parts) -> dict[str, Pair]:
    names = {place: path for path, place in base.places.items()}
    return {
        names[kind, pair.layer, pair.member]: pair for kind, found in read.kinds.items() for pair in found.pairs
    }  # fmt: skip


def _check_pairs(read: AdapterFile, pairs: Collection[str]) -> None:
    """What the config says of all pairs must be true of each: PEFT would go on with what it has at random."""
    for key, role in OF_PAIRS:
        having = {path for path, roles in read.own.items() if role in roles}
        wanted = {*pairs, *(path for path, roles in read.own.items() if "embedding_A" in roles)}
        for path in sorted(having ^ wanted if read.config.get(key) else having):
            raise odd(path, f"and {key} of its config do not fit together")


def _vocabulary(own: Own, base: Parts) -> int:
    """Rows of an embedding and an output layer of another size than the base's; 0 where they have the base's.

    Both must be in the file, or be one: rows that PEFT would make up are nobody's. Raises EngineError
    `adapter_incompatible`.
    """
    embedding, head = (own.get(path, {}).get("weight") for path in (base.embedding, base.head))
    if embedding is not None and embedding.ndim != 2 or head is not None and head.ndim != 2:
        raise misfit(base.embedding)
    rows = len(embedding) if embedding is not None else base.rows
    logits = len(head) if head is not None else base.logits
    if (rows, logits) == (base.rows, base.logits):
        return 0
    if not base.embedding or not base.head:
        raise odd(base.embedding or base.head, "has another size than the base's, which cannot be changed")
    if embedding is None or head is None or rows != logits:
        raise odd(base.embedding, f"has {rows} rows and {base.head} {logits}; both must be saved with as many")
    if rows > base.rows and not base.one_lookup:
        raise odd(base.embedding, "is not the only place where this base looks token ids up")
    if rows <= base.largest:
        raise odd(base.embedding, f"has {rows} rows, fewer than the base's tokenizer has tokens")
    return rows


# Outputs of linear layers


def _outputs(made: OwnParts, path: str, roles: dict[str, Tensor], pair: Pair | None, base: Parts) -> None:
    """scale = m / ‖W + s B A‖ and shift = new bias - scale · old bias + s · bias of lora_B, for one layer."""
    kind_key, layer, member = base.places[path]
    kind = base.kinds[kind_key]
    columns = kind.columns[member]
    if any(tensor.shape != (kind.outs[member],) for tensor in roles.values()):
        raise misfit(path)
    product = base.groups[kind_key, layer].base
    # The default type is the whole process's, and changes while a base loads: types are explicit here.
    plain = torch.zeros(kind.outs[member], dtype=torch.float32)
    bias = product.bias[columns].float().cpu() if product.bias is not None else plain
    new = roles["bias"].float() if "bias" in roles else bias
    if "bias" in roles and product.bias is None:
        raise odd(path, "has no bias in the base")
    scale = torch.ones(kind.outs[member], dtype=torch.float32)
    if "magnitude" in roles:
        if pair is None:
            raise odd(path, "has a magnitude and no matrices")
        scale = (roles["magnitude"].double() / _lengths(product, columns, pair)).float()
    shift = new - scale * bias
    if "pair_bias" in roles:
        if pair is None:
            raise odd(path, "has a bias of lora_B and no matrices")
        shift = shift + roles["pair_bias"].float() * pair.scale
    outputs = made.outputs.get(kind_key)
    device = product.squares.device
    if outputs is None:
        shifts = torch.zeros(kind.layers, kind.outputs, device=device, dtype=torch.float32)
        outputs = made.outputs[kind_key] = Outputs(shifts)
    outputs.shift[layer, columns] = shift.to(device)
    if "magnitude" in roles:
        if outputs.scale is None:
            outputs.scale = torch.ones(kind.layers, kind.outputs, device=device, dtype=torch.float32)
        outputs.scale[layer, columns] = scale.to(device)


def _lengths(product: BaseProduct, columns: slice, pair: Pair) -> Tensor:
    """‖W + s B A‖ of each row, (out,) in fp64 on the CPU, without W itself, which may be packed or quantised:
    ‖w‖² + 2 s b·(A w) + s² b·(A Aᵀ) b for the rows w of W and b of B."""
    device, a, b = product.squares.device, pair.a.double(), pair.b.double()
    across = product.times(pair.a.to(device, torch.float32))[:, columns].double().cpu()  # (rank, out)
    squares = product.squares[columns].cpu()
    squares = squares + 2 * pair.scale * (b * across.t()).sum(dim=1)
    squares = squares + pair.scale**2 * ((b @ (a @ a.t())) * b).sum(dim=1)
    return squares.clamp_min(0.0).sqrt()


# Whole modules


def _with_ties(read: AdapterFile, base: Parts) -> dict[str, dict[str, Tensor]]:
    """What the file says, and what follows from it where embedding and output layer share their weights.

    A layer of `modules_to_save` is trained as a copy, which unties it; what was saved along otherwise (PEFT does that
    for an embedding that is a target or was resized) went into the shared weights themselves.
    """
    own = {path: dict(roles) for path, roles in read.own.items()}
    if not base.tied or not base.head:
        return own
    copies = tuple(str(name) for name in read.config.get("modules_to_save") or ())
    for one, other in ((base.embedding, base.head), (base.head, base.embedding)):
        roles = read.own.get(one, {})
        if "weight" in roles and not one.endswith(copies) and "weight" not in read.own.get(other, {}):
            if not other.endswith(copies):
                own.setdefault(other, {})["weight"] = roles["weight"]
    tokens = read.own.get(base.embedding, {}).get("tokens")
    if tokens is not None and "tokens" not in own.get(base.head, {}):
        own.setdefault(base.head, {})["tokens"] = tokens
    return own


def _with_tokens(own: Own, read: AdapterFile, base: Parts) -> Own:
    """Trained rows, put into the weights that were saved with them."""
    for path, roles in own.items():
        if "tokens" in roles and "weight" in roles:
            weight, tokens = roles["weight"], roles.pop("tokens")
            if weight.ndim != 2 or tokens.ndim != 2 or tokens.shape[1] != weight.shape[1]:
                raise misfit(path)
            places = _indices(path, read, base, tokens, len(weight)).cpu()
            roles["weight"] = weight.index_copy(0, places, tokens.to(weight.dtype))
    return own


def _stand_in(
    path: str, roles: dict[str, Tensor], pair: Pair | None, read: AdapterFile, base: Parts, vocabulary: int
) -> StandIn | None:  # fmt: skip
    if path == base.embedding:
        return _embedding(path, roles, read, base, vocabulary)
    if path in base.places:
        return _layer(path, roles, pair, read, base, vocabulary if path == base.head else 0)
    if set(roles) - {"weight", "bias"}:
        raise odd(path, "is no layer that could have these tensors")
    return OwnModule(_with_weights(path, base.others[path], roles, base.dtype))


def _with_weights(path: str, module: nn.Module, roles: dict[str, Tensor], dtype: torch.dtype) -> nn.Module:
    """The base's module with weights of the adapter's own in the place of some or all; it shares the rest."""
    if isinstance(module, FusedNorm):
        if set(roles) != {"weight"} or roles["weight"].shape != module.weight.shape:  # type: ignore[union-attr]
            raise misfit(path)
        return FusedNorm(roles["weight"].to(dtype), module.eps, module.native, module.offset)
    made = copy.copy(module)
    made._parameters = dict(module._parameters)
    made._forward_hooks = type(module._forward_hooks)()  # those that put this copy into its place
    for name, tensor in roles.items():
        before = made._parameters.get(name)
        if before is None or before.shape != tensor.shape:
            raise misfit(path)
        made._parameters[name] = nn.Parameter(tensor.to(before.device, before.dtype, copy=True), requires_grad=False)
    return made


@dataclass
class OwnModule:
    """A norm, or whatever else is small."""

    module: nn.Module

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in [*self.module.parameters(), *self.module.buffers()])

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        made: Tensor = self.module(x)
        return made


@dataclass
class OwnLayer:
    """A whole linear layer; with LoRA's matrices on it, a (rank, in) and b (rank, out) with the scaling in it."""

    product: BaseProduct
    a: Tensor | None = None
    b: Tensor | None = None

    @property
    def bytes(self) -> int:
        return self.product.bytes + sum(part.nbytes for part in (self.a, self.b) if part is not None)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        made = self.product(flat)
        if self.a is not None and self.b is not None:
            made = made + (flat @ self.a.t()) @ self.b
        return made.view(*x.shape[:-1], -1)


@dataclass
class OwnColumns:
    """Some outputs of a linear layer: the rows of `places` of its weights. `width`: how many outputs it has, where that
    is not as many as the base's; those beyond the base's are all among `places`."""

    product: BaseProduct
    places: Tensor
    width: int = 0

    @property
    def bytes(self) -> int:
        return self.product.bytes + self.places.nbytes

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        own = self.product(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)
        if self.width:
            y = widened(y, self.width)[..., : self.width]
        return y.index_copy(-1, self.places, own.to(y.dtype))


def _layer(
    path: str, roles: dict[str, Tensor], pair: Pair | None, read: AdapterFile, base: Parts, vocabulary: int
) -> StandIn | None:  # fmt: skip
    """`vocabulary`: of the output layer, where it has another number of outputs than the base's."""
    kind_key, layer, member = base.places[path]
    kind = base.kinds[kind_key]
    bias = base.groups[kind_key, layer].base.bias
    bias = bias[kind.columns[member]] if bias is not None else None
    if "tokens" in roles:
        places = _indices(path, read, base, roles["tokens"], kind.outs[member])
        if roles["tokens"].shape[1] != kind.inputs or set(roles) != {"tokens"} or pair is not None:
            raise misfit(path)
        some = linear_layer(roles["tokens"], bias[places] if bias is not None else None, base)
        return OwnColumns(base_product([some], base.native), places)
    weight = roles["weight"]
    if base.groups[kind_key, layer].transposed:
        weight = weight.t()
    count = vocabulary or kind.outs[member]
    if weight.shape != (count, kind.inputs) or {"magnitude", "pair_bias"} & set(roles):
        raise misfit(path)
    if pair is not None and len(pair.b) != count:
        raise misfit(path)
    if "bias" in roles:
        if bias is None or roles["bias"].shape != (count,):
            raise misfit(path)
        bias = roles["bias"].to(bias.device, bias.dtype)
    elif bias is not None and count > len(bias):
        raise odd(path, "has more outputs than the base and no bias for them")
    elif bias is not None:
        bias = bias[:count]
    shared: Any = base.others.get(base.embedding) if base.tied and path == base.head else None
    if shared is not None:  # the base's weights lie open there
        places = different(weight, shared.weight)
        if len(places) == 0 and "bias" not in roles and (pair is None or not vocabulary):
            return None
        if len(places) < SPARSE * len(weight) and "bias" not in roles and pair is None:
            some = linear_layer(weight[places.cpu()], bias[places] if bias is not None else None, base)
            return OwnColumns(base_product([some], base.native), places, vocabulary)
    made = OwnLayer(base_product([linear_layer(weight, bias, base)], base.native))
    if pair is not None:  # it acts on this layer, and no longer on the base's
        read.kinds[kind_key].pairs = [other for other in read.kinds[kind_key].pairs if other is not pair]
        if not read.kinds[kind_key].pairs:
            del read.kinds[kind_key]
        made.a = pair.a.to(base.device, base.dtype, copy=True)
        made.b = (pair.b.float().t() * pair.scale).contiguous().to(base.device, base.dtype)
        if not finite(made.a) or not finite(made.b):
            raise nonfinite()
    return made


def linear_layer(weight: Tensor, bias: Tensor | None, base: Parts) -> nn.Linear:
    made = nn.Linear(1, 1, bias=False, device="meta")
    made.weight = nn.Parameter(weight.to(base.device, base.dtype, copy=True), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.to(base.device, base.dtype, copy=True), requires_grad=False)
    return made


# Embeddings


@dataclass
class OwnEmbedding:
    """An embedding with rows of its own (all, or those that `position` has a place for, else -1), and with LoRA's
    matrices: a (vocabulary, rank) and b (rank, width) with the scaling in it, `scale` (width,) of DoRA."""

    module: nn.Module
    weight: Tensor | None = None
    position: Tensor | None = None  # (vocabulary,)
    a: Tensor | None = None
    b: Tensor | None = None
    scale: Tensor | None = None

    @property
    def bytes(self) -> int:
        parts = (self.weight, self.position, self.a, self.b, self.scale)
        return sum(part.nbytes for part in parts if part is not None)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        if self.weight is not None:
            places = x if self.position is None else self.position[x]
            own = self._by_module(self.weight[places.clamp_min(0)], y)
            y = own if self.position is None else torch.where((places >= 0)[..., None], own, y)
        if self.a is not None and self.b is not None:
            update = nn.functional.embedding(x, self.a).to(y.dtype) @ self.b
            factor = getattr(self.module, "embed_scale", None)
            update = update if factor is None else update * torch.as_tensor(factor).to(update.dtype)
            y = y + update if self.scale is None else self.scale * (y + update)
        return y

    def _by_module(self, rows: Tensor, y: Tensor) -> Tensor:
        """What the base's embedding makes of these rows of weights: some classes scale them."""
        flat = rows.reshape(-1, rows.shape[-1]).to(y.dtype)
        made: Any = copy.copy(self.module)
        made._forward_hooks = type(self.module._forward_hooks)()
        made._parameters = {"weight": nn.Parameter(flat, requires_grad=False)}
        made.padding_idx = None  # of training
        result: Tensor = made(torch.arange(len(flat), device=flat.device))
        return result.view(*rows.shape)


def _embedding(
    path: str, roles: dict[str, Tensor], read: AdapterFile, base: Parts, vocabulary: int
) -> StandIn | None:  # fmt: skip
    """`vocabulary`: rows of the adapter's own, where they are not as many as the base's."""
    module: Any = base.others[path]
    weight: Tensor = module.weight
    made = OwnEmbedding(module)
    if "bias" in roles:
        raise odd(path, "has no bias in the base")
    if "tokens" in roles:
        places = _indices(path, read, base, roles["tokens"], weight.shape[0])
        if roles["tokens"].shape[1] != weight.shape[1]:
            raise misfit(path)
        made.weight, made.position = roles["tokens"].to(weight.device, copy=True), _positions(places, weight, 0)
    elif "weight" in roles:
        own = roles["weight"]
        if own.shape != (vocabulary or len(weight), weight.shape[1]):
            raise misfit(path)
        places = different(own, weight)
        if len(places) < SPARSE * len(own):
            made.weight, made.position = own[places.cpu()].to(weight.device), _positions(places, weight, len(own))
        else:
            made.weight = own.to(weight.device, copy=True)
        if len(places) == 0:
            made.weight = made.position = None
    if {"embedding_A", "embedding_B", "magnitude"} & set(roles):
        _embedding_pair(made, path, roles, read, weight, vocabulary or len(weight))
    return made if made.weight is not None or made.a is not None else None


def _embedding_pair(
    made: OwnEmbedding, path: str, roles: dict[str, Tensor], read: AdapterFile, weight: Tensor, rows: int
) -> None:  # fmt: skip
    a, b = roles.get("embedding_A"), roles.get("embedding_B")
    if a is None or b is None:
        raise odd(path, "has only one of its two matrices")
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != rows or b.shape != (weight.shape[1], a.shape[0]):
        raise misfit(path)
    scaling = read.scales[path]
    made.a = a.t().to(weight.device, weight.dtype, copy=True, memory_format=torch.contiguous_format)
    made.b = (b.float().t() * scaling).contiguous().to(weight.device, weight.dtype)
    if "magnitude" in roles:
        if roles["magnitude"].shape != (weight.shape[1],) or made.weight is not None:
            raise misfit(path)
        squares = torch.zeros(weight.shape[1], dtype=torch.float64, device=weight.device)
        for start in range(0, len(weight), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            squares += (weight[part].float() + made.a[part].float() @ made.b.float()).double().square().sum(dim=0)
        made.scale = (roles["magnitude"].double().to(weight.device) / squares.sqrt()).to(weight.dtype)
    if not all(finite(part) for part in (made.a, made.b, made.scale) if part is not None):
        raise nonfinite()


def different(own: Tensor, weight: Tensor) -> Tensor:
    """Rows of `own` that are other numbers than the base's, once they have its type, or that the base does not have."""
    found = []
    common = min(len(own), len(weight))
    for start in range(0, common, AT_ONCE):
        stop = min(start + AT_ONCE, common)
        mine = own[start:stop].to(weight.device, weight.dtype)
        apart = (mine != weight[start:stop]).any(dim=1)
        found.append(apart.nonzero()[:, 0] + start)
    return torch.cat([*found, torch.arange(common, len(own), device=weight.device)])


def _positions(places: Tensor, weight: Tensor, rows: int) -> Tensor:
    """Of each token id its place among `places`, or -1; the ids are those of the base, or of `rows`, if there are
    more."""
    position = torch.full((max(rows, len(weight)),), -1, dtype=torch.int32, device=weight.device)
    position[places] = torch.arange(len(places), dtype=torch.int32, device=weight.device)
    return position


def _indices(path: str, read: AdapterFile, base: Parts, tokens: Tensor, rows: int) -> Tensor:
    """The token ids that `trainable_token_indices` gives to a layer, in the order of the rows of `tokens`."""
    said = read.config.get("trainable_token_indices")
    if isinstance(said, dict):
        named = [ids for name, ids in said.items() if path.endswith(str(name))]
        if not named and path == base.head:  # tied to the embedding, which has them
            named = [ids for name, ids in said.items() if base.embedding.endswith(str(name))]
        said = named[0] if named else None
    if not isinstance(said, list) or tokens.ndim != 2 or len(said) != len(tokens):
        raise odd(path, "and trainable_token_indices of its config do not fit together")
    if not all(type(index) is int and 0 <= index < rows for index in said) or len(set(said)) != len(said):
        raise odd(path, "has token ids in its config that the base does not have")
    return torch.tensor(said, device=base.device)
