"""Keys and values by layer and slot."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor


@dataclass
class LayerShape:
    heads: int
    key: int
    value: int


class KVCache:
    """Per layer keys (slots, length, kv heads, key size) and values alike, zeroed once and lazily backed on a CPU."""

    def __init__(
        self, shapes: dict[int, LayerShape], slots: int, length: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.slots = slots
        self.length = length
        self.keys = {i: lazy_zeros((slots, length, s.heads, s.key), device, dtype) for i, s in shapes.items()}
        self.values = {i: lazy_zeros((slots, length, s.heads, s.value), device, dtype) for i, s in shapes.items()}

    def scrub(self, slot: int) -> None:
        """Zeros instead of what a failed sequence may have left: a masked NaN is still a NaN."""
        for tensor in (*self.keys.values(), *self.values.values()):
            tensor[slot] = 0

    @staticmethod
    def bytes_per_token(shapes: dict[int, LayerShape], dtype: torch.dtype) -> int:
        return sum(s.heads * (s.key + s.value) for s in shapes.values()) * dtype.itemsize


def lazy_zeros(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Zeros whose pages a CPU backs only once they are written: torch.zeros would touch every byte."""
    if device.type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    size = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(numpy.zeros(size, dtype=numpy.uint8)).view(dtype).view(shape)
