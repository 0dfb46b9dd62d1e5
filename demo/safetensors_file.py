"""Read and write small safetensors files with the standard library alone.

Format: 8 bytes little-endian header length N, N bytes of JSON, then the tensors' raw bytes; ``data_offsets``
count from the end of the header (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

HEADER_LIMIT = 1_000_000


@dataclass(frozen=True)
class Tensor:
    """One stored tensor: dtype as the format names it (``F32``), shape, and raw little-endian bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def parse(blob: bytes) -> dict[str, Tensor]:
    """Return the tensors in a file's bytes, in the order of their data.

    Raises ValueError where header and data do not fit together.
    """
    if len(blob) < 8:
        raise ValueError("no safetensors header")
    (length,) = struct.unpack_from("<Q", blob)
    if length > min(HEADER_LIMIT, len(blob) - 8):
        raise ValueError("safetensors header longer than allowed or than the file")
    header = json.loads(blob[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors: dict[str, Tensor] = {}
    position = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"][0]):
        begin, end = entry["data_offsets"]
        if begin != position or end < begin:
            raise ValueError(f"hole or overlap before tensor {name}")
        tensors[name] = Tensor(entry["dtype"], tuple(entry["shape"]), blob[8 + length + begin : 8 + length + end])
        position = end
    if 8 + length + position != len(blob):
        raise ValueError("file size differs from what the safetensors header says")
    return tensors


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of the file at ``path``; raises ValueError where it is not whole."""
    return parse(path.read_bytes())


def pack(tensors: dict[str, Tensor]) -> bytes:
    """Return the bytes of a safetensors file, header padded to 8 bytes as the format advises."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, tensor in tensors.items():
        end = position + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(tensor.data for tensor in tensors.values())
