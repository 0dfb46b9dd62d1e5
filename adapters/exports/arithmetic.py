"""The merged tensors, in blocks of rows, so that memory stays bounded whatever the size of a model.

Definitions: Hu et al. 2021 (W + s B A); Liu et al. 2024 (DoRA: each output's weights get the length of the magnitude);
PEFT 0.21 (`tuners/lora`, `tuners/trainable_tokens`). What the engine computes beside the base is in
`inference/engine/lora/own.py`; here the same goes into the weights. Used by `merge_child.py` alone; knows nothing of
the project.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

BLOCK = 2**22  # numbers that are computed at once
TYPES = {"F32": ("<f4", 4), "F16": ("<f2", 2), "BF16": ("<u2", 2)}  # numpy's names, bytes
Array = np.ndarray[Any, Any]


class NotFiniteError(Exception):
    """A merged number that the type of the result cannot hold, or that is none."""


class Source:
    """A tensor in an open file: (descriptor, where it starts, type, shape)."""

    def __init__(self, descriptor: int, start: int, dtype: str, shape: list[int]) -> None:
        self.descriptor, self.start, self.dtype, self.shape = descriptor, start, dtype, tuple(shape)
        self.kind, self.itemsize = TYPES[dtype]
        self.width = int(np.prod(self.shape[1:], dtype=np.int64))

    def rows(self, first: int, stop: int) -> Array:
        """Rows as fp32, (stop - first, width). Raises OSError where the file is too short."""
        size = (stop - first) * self.width * self.itemsize
        data = read(self.descriptor, self.start + first * self.width * self.itemsize, size)
        numbers = np.frombuffer(data, self.kind).reshape(stop - first, self.width)
        if self.dtype == "BF16":
            return (numbers.astype("<u4") << 16).view("<f4")
        return numbers.astype("<f4")

    @property
    def count(self) -> int:
        """Rows; a number alone is one."""
        return self.shape[0] if self.shape else 1

    def step(self, most: int) -> int:
        """Rows that are read at once."""
        return max(1, most // max(1, self.width))

    def blocks(self, most: int = BLOCK) -> Iterator[Array]:
        step = self.step(most)
        for first in range(0, self.count, step):
            yield self.rows(first, min(first + step, self.count))

    def whole(self) -> Array:
        return self.rows(0, self.count).reshape(self.shape)


def read(descriptor: int, start: int, size: int) -> bytes:
    """Raises OSError where there are fewer bytes."""
    pieces = []
    while size > 0:
        piece = os.pread(descriptor, min(size, 2**24), start)
        if not piece:
            raise OSError("a file has become shorter")
        pieces.append(piece)
        start, size = start + len(piece), size - len(piece)
    return b"".join(pieces)


def packed(numbers: Array, dtype: str) -> bytes:
    """In the type of the result, to the nearest. Raises NotFiniteError."""
    if not np.isfinite(numbers).all():
        raise NotFiniteError
    if dtype == "BF16":
        bits = np.ascontiguousarray(numbers, "<f4").view("<u4")
        made = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
        if ((made & 0x7F80) == 0x7F80).any():
            raise NotFiniteError
        return made.tobytes()
    with np.errstate(over="ignore"):
        made = numbers.astype(TYPES[dtype][0])
    if not np.isfinite(made).all():
        raise NotFiniteError
    return made.tobytes()


class Recipe:
    """How one tensor is made, see `planning.Recipe`: the sources of its parts, already open."""

    def __init__(self, base: Source, parts: dict[str, Source], said: dict[str, Any]) -> None:
        self.base = parts.get("whole", base)
        self.across = bool(said["across"])
        self.scale = float(said["scale"])
        self.bias_scale = float(said["bias_scale"])
        self.bias = parts.get("bias")
        self.tokens = dict(zip(said["tokens"], parts["tokens"].whole(), strict=True)) if "tokens" in parts else {}
        self.a = parts["a"].whole() if "a" in parts else None
        self.b = parts["b"].whole() if "b" in parts else None
        self.magnitude = parts["magnitude"].whole().astype("<f8") if "magnitude" in parts else None

    def blocks(self, most: int = BLOCK) -> Iterator[Array]:
        """The tensor, rows by rows, in fp32."""
        count, step = self.base.count, self.base.step(most)
        factor = self._lengths(count, step) if self.magnitude is not None and self.across else None
        for first in range(0, count, step):
            stop = min(first + step, count)
            rows = self._rows(first, stop)
            if factor is not None:
                rows = (rows * factor).astype("<f4")
            elif self.magnitude is not None:
                length = np.sqrt(np.square(rows.astype("<f8")).sum(axis=1))
                rows = (rows * (self.magnitude[first:stop] / length)[:, None]).astype("<f4")
            yield rows

    def _rows(self, first: int, stop: int) -> Array:
        """W + s B A. `across`: the tensor is stored with its inputs (or tokens) as rows."""
        rows = self.base.rows(first, stop)
        for token, own in self.tokens.items():
            if first <= token < stop:
                rows[token - first] = own
        if self.a is not None and self.b is not None:
            added = self.a[:, first:stop].T @ self.b.T if self.across else self.b[first:stop] @ self.a
            rows = rows + np.float32(self.scale) * added
        if self.bias is not None:
            rows = rows + np.float32(self.bias_scale) * self.bias.rows(first, stop)
        return rows

    def _lengths(self, count: int, step: int) -> Array:
        """What each column is multiplied by: its magnitude over its length, which takes a pass of its own."""
        squares: Any = np.zeros(self.base.width, "<f8")
        for first in range(0, count, step):
            squares += np.square(self._rows(first, min(first + step, count)).astype("<f8")).sum(axis=0)
        assert self.magnitude is not None  # noqa: S101  (for the type checker)
        made: Array = self.magnitude / np.sqrt(squares)
        return made
