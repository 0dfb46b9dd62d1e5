"""Weights that a library left in the mapped file they were read from, brought into memory of our own.

safetensors hands out views of the mapped file, and Transformers keeps them where neither type nor device changes: what
is written to such a file later would be answered with, and cutting it short would end the process.
"""

from __future__ import annotations

import bisect

import torch
from torch import nn


def mapped_ranges() -> list[tuple[int, int]] | None:
    """Address ranges of this process that show files, in order; None where the system does not tell."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
            shown = [line.split(maxsplit=5) for line in lines]  # range, rights, offset, device, inode, path
    except OSError:
        return None
    ranges = []
    for words in shown:
        if words[4] != "0":
            start, _, stop = words[0].partition("-")
            ranges.append((int(start, 16), int(stop, 16)))
    return sorted(ranges)


@torch.no_grad()
def detach(model: nn.Module) -> int:
    """Copy each parameter and buffer that lies in a mapped file. Returns the bytes copied."""
    ranges = mapped_ranges()
    copied = 0
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.device.type == "cpu" and (ranges is None or _inside(tensor.data_ptr(), ranges)):
            tensor.data = tensor.data.clone()
            copied += tensor.nbytes
    return copied


def _inside(address: int, ranges: list[tuple[int, int]]) -> bool:
    index = bisect.bisect_right(ranges, (address, 2**63)) - 1
    return index >= 0 and address < ranges[index][1]
