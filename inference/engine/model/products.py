"""Products with a base's own weights: y (rows, out) = x (rows, in) Wᵀ + bias, in whatever form serves fastest.

On a CPU in fp32 the native kernel keeps weights in two bytes where that loses nothing (`native/products.c`); without a
compiler oneDNN's packed form serves, on a card the plain matrices, and quantised layers keep their own kernels.
"""

from __future__ import annotations

import contextlib
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

    def __call__(self, x: Tensor) -> Tensor: ...

    def adding(self, x: Tensor, bank: LoraBank, kind: str, layer: int) -> Tensor:
        """The product with the update of the bank's adapters."""
        ...


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
    bias = None
    if any(m.bias is not None for m in modules):
        biases = [
            m.bias.detach() if m.bias is not None else w.new_zeros(w.shape[0])
            for m, w in zip(modules, weights, strict=True)
        ]
        bias = torch.cat(biases)
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

    def __call__(self, x: Tensor) -> Tensor:
        parts = [layer(x) for layer in self.layers]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class PlainProduct(Separate):
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias
        self.bytes = weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class OneDnnProduct(Separate):
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, PACK_ROWS)
        self.bias = bias
        self.bytes = weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = linear_pointwise(x, self.packed, self.bias, "none", [], "")
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

    def adding(self, x: Tensor, bank: LoraBank, kind: str, layer: int) -> Tensor:
        update = bank.update(kind, layer)
        y = self(x, update)
        return y if update is not None else bank.apply(kind, layer, x, y)


def pages(size: int) -> Tensor:
    """`size` bytes straight from the system, in huge pages where it offers them: weights are read from end to end in
    every step, and each page costs a look-up. They go back to the system when the tensor goes."""
    memory = mmap.mmap(-1, max(1, size))
    if size >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)
