"""The repaired file without the writing of it: its bytes are put together from the source's files as they are read."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from typing import BinaryIO

from adapters.failures import Refused
from adapters.formats.files import read_exactly

from .plan import ITEM_SIZES, Made, Plan


class RepairedFile(io.RawIOBase):
    """Reads like the file that `plan` describes. Holds one matrix that is turned round, and else nothing.

    Raises Refused changed_meanwhile where the source's files are not as long any more as they were.
    """

    def __init__(self, plan: Plan, files: Sequence[BinaryIO]) -> None:
        super().__init__()
        self.head, self.header = plan.layout
        self.made, self.files = plan.tensors, files
        self.sizes = [os.fstat(file.fileno()).st_size for file in files]
        self.starts = [0, len(self.head)]  # of head and each tensor, and the end
        for one in self.made:
            self.starts.append(self.starts[-1] + one.size)
        self.position = 0
        self.held: tuple[int, bytes] = (-1, b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            for file, size in zip(self.files, self.sizes, strict=True):
                if os.fstat(file.fileno()).st_size != size:
                    raise Refused("changed_meanwhile")
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.header.file_size}[whence]
        self.position = max(0, start + offset)
        return self.position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = min(len(buffer), self.header.file_size - self.position)
        if size <= 0:
            return 0
        part = bisect_right(self.starts, self.position) - 1  # of parts without numbers the one after them
        offset = self.position - self.starts[part]
        size = min(size, self.starts[part + 1] - self.position)
        data = self.head[offset : offset + size] if part == 0 else self._of(part - 1, offset, size)
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

    def _of(self, index: int, offset: int, size: int) -> bytes:
        one = self.made[index]
        if not one.is_reordered:
            return _read(self.files[one.file], one.data_start + one.tensor.start + offset, size)
        if self.held[0] != index:
            self.held = (index, _turned(one, self.files[one.file]))
        return self.held[1][offset : offset + size]


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    data = read_exactly(file, size)
    if len(data) < size:
        raise Refused("changed_meanwhile")
    return data


def _turned(one: Made, file: BinaryIO) -> bytes:
    import numpy as np

    data = _read(file, one.data_start + one.tensor.start, one.tensor.end - one.tensor.start)
    # Only moved, never computed with: whole numbers of the same size keep every bit.
    matrix = np.frombuffer(data, f"<u{ITEM_SIZES[one.tensor.dtype]}").reshape(one.tensor.shape)
    if one.rows is not None:
        matrix = matrix[one.rows.indices()]
    return np.ascontiguousarray(matrix.T if one.transposed else matrix).tobytes()
