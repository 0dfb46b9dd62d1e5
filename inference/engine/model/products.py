"""Products with a base's own weights: y (rows, out) = x (rows, in) Wᵀ + bias, in whatever form serves fastest.

On a CPU in fp32 the native kernel keeps weights in two bytes where that loses nothing (`native/products.c`); without a
compiler oneDNN's packed form serves, on a card the plain matrices, and quantised layers keep their own kernels.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from inference.engine.lora.bank import LoraBank, Update
from inference.engine.native.library import Native
from inference.engine.native.onednn import ONEDNN, linear_pointwise

PACK_ROWS = 16  # the batch size that oneDNN lays weights out for; measured flat from 1 to 64
HUGE_PAGE = 2 * 2**20
NO_UPDATE = (None, None, 0, None)


class BaseProduct(Protocol):
    """x (rows, in) -> y (rows, out), always a fresh tensor; `bytes` is what its weights take."""

    bytes: int
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor: ...

    def times(self, x: Tensor) -> Tensor:
        """x Wᵀ without the bias, for any thread."""
        ...

    @property
    def squares(self) -> Tensor:
        """The squared length of each row of W, (out,) in fp64."""
        ...

    def adding(self, x: Tensor, bank: LoraBank, kind: str, layer: int) -> Tensor:
        """The product with the update of the bank's adapters."""
        ...


def joined_bias(modules: list[Any], outputs: list[int]) -> Tensor | None:
    """The biases of sibling layers side by side, zeros for one that has none; None where none has."""
    first = next((m.bias for m in modules if m.bias is not None), None)
    if first is None:
        return None
    return torch.cat(
        [first.new_zeros(out) if m.bias is None else m.bias.detach() for m, out in zip(modules, outputs, strict=True)]
    )


class Separate:
    """The update is added to the finished product."""

    def __call__(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def adding(self, x: Tensor, bank: LoraBank, kind: str, layer: int) -> Tensor:
        return bank.apply(kind, layer, x, self(x))


def base_product(modules: list[Any], native: Native | None) -> BaseProduct:
    """The product of sibling layers as one, outputs side by side. The originals may be dropped."""
    if not all(type(module) in (nn.Linear, Conv1D) for module in modules):
        return QuantisedProduct(modules)
    weights = [m.weight.detach().t() if isinstance(m, Conv1D) else m.weight.detach() for m in modules]
    weight = (weights[0] if len(weights) == 1 else torch.cat(weights)).contiguous()
    bias = joined_bias(modules, [w.shape[0] for w in weights])
    if weight.device.type == "cpu" and weight.dtype == torch.float32:
        if native is not None:
            return NativeProduct(weight, bias, native)
        if ONEDNN:
            return OneDnnProduct(weight, bias)
    return PlainProduct(weight, bias)


class QuantisedProduct(Separate):
    """Layers of bitsandbytes and others that bring their own kernels."""

    def __init__(self, layers: list[Any]) -> None:
        self.layers = list(layers)
        self.bytes = sum(layer.weight.nbytes for layer in layers)
        self.bias = joined_bias(
            layers, [layer.nf if isinstance(layer, Conv1D) else layer.out_features for layer in layers]
        )

    def __call__(self, x: Tensor) -> Tensor:
        parts = [layer(x) for layer in self.layers]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def times(self, x: Tensor) -> Tensor:
        return torch.cat([nn.functional.linear(x, dequantised(layer).to(x.dtype)) for layer in self.layers], dim=-1)

    @functools.cached_property
    def squares(self) -> Tensor:
        return torch.cat([row_squares(dequantised(layer)) for layer in self.layers])


class PlainProduct(Separate):
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias
        self.bytes = weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)

    def times(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype))

    @functools.cached_property
    def squares(self) -> Tensor:
        return row_squares(self.weight)


class OneDnnProduct(Separate):
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, PACK_ROWS)
        self.bias = bias
        self.squares = row_squares(weight)  # now: the packed form is no matrix any more
        self.bytes = weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return y

    def times(self, x: Tensor) -> Tensor:
        y: Tensor = linear_pointwise(x, self.packed, None, "none", [], "")
        return y


class NativeProduct:
    """See `native/products.c`. Rows do not depend on each other, to the last bit."""

    def __init__(self, weight: Tensor, bias: Tensor | None, native: Native) -> None:
        self.outputs, self.inputs = weight.shape
        self.bias = bias
        self.native = native
        self.threads = torch.get_num_threads()
        self.format: int = native.weights_format(weight.data_ptr(), weight.numel(), self.threads)
        self.bytes: int = native.packed_bytes(self.format, self.outputs, self.inputs)
        self.packed = pages(self.bytes)
        self.squares = row_squares(weight)  # now: the packed form is no matrix any more
        native.pack_weights(
            weight.data_ptr(), self.format, self.outputs, self.inputs, self.packed.data_ptr(), self.threads
        )

    def __call__(self, x: Tensor, update: Update | None = None) -> Tensor:
        """With `update` (see `LoraBank.update`) the adapters' share is added in the same pass."""
        rows = x.shape[0]
        y = x.new_empty(rows, self.outputs)
        if rows == 0:
            return y
        if x.stride(1) != 1:
            x = x.contiguous()
        self.native.base_product(
            self.packed.data_ptr(), self.format, self.outputs, self.inputs,
            None if self.bias is None else self.bias.data_ptr(), x.data_ptr(), x.stride(0), rows, y.data_ptr(),
            self.native.scratch(rows * self.inputs), *(update or NO_UPDATE), self.threads,
        )  # fmt: skip
        return y

    def times(self, x: Tensor) -> Tensor:
        x = x.float().contiguous()
        y = x.new_empty(x.shape[0], self.outputs)
        scratch = x.new_empty(x.numel())  # that of `native` is the engine's thread's
        self.native.product_beside(
            self.packed.data_ptr(), self.format, self.outputs, self.inputs, None, x.data_ptr(), x.stride(0),
            x.shape[0], y.data_ptr(), scratch.data_ptr(), *NO_UPDATE, self.threads,
        )  # fmt: skip
        return y

    def adding(self, x: Tensor, bank: LoraBank, kind: str, layer: int) -> Tensor:
        update = bank.update(kind, layer)
        y = self(x, update)
        return y if update is not None else bank.apply(kind, layer, x, y)


def row_squares(weight: Tensor) -> Tensor:
    """The squared length of each row, (rows,) in fp64."""
    return torch.linalg.vector_norm(weight, dim=1, dtype=torch.float32).double().square()


def dequantised(layer: Any) -> Tensor:
    """A layer's weight (out, in) as numbers, as PEFT takes it."""
    weight = layer.weight
    kind = type(weight).__name__
    if kind == "Params4bit":
        from bitsandbytes.functional import dequantize_4bit

        made: Tensor = dequantize_4bit(weight.data, weight.quant_state)
        return made
    if kind == "Int8Params":
        from bitsandbytes.functional import int8_vectorwise_dequant

        scales = weight.SCB if layer.state.SCB is None else layer.state.SCB
        return torch.as_tensor(int8_vectorwise_dequant(weight.data, scales.to(weight.device)))
    matrix: Tensor = weight.detach()
    return matrix.t() if isinstance(layer, Conv1D) else matrix


def pages(size: int) -> Tensor:
    """`size` bytes straight from the system, in huge pages where it offers them: weights are read from end to end in
    every step, and each page costs a look-up. They go back to the system when the tensor goes."""
    memory = mmap.mmap(-1, max(1, size))
    if size >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)
