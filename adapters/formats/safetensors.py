"""Reading safetensors headers without torch. Format: https://huggingface.co/docs/safetensors/index

The file is 8 bytes (header length N, little endian), N bytes of JSON, then the tensors without gaps.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

from django.utils.translation import gettext_noop as _n

from adapters.failures import Refused

from .files import parse_json, read_exactly

ADAPTER_HEADER_LIMIT = 2**20
BASE_HEADER_LIMIT = 16 * 2**20  # base models with many experts have long headers
DTYPE_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
MAX_DIMENSIONS = 8
MAX_NAME = 512


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies: `start` and `end` count from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    tensors: dict[str, Tensor]  # in the order of their data
    metadata: dict[str, str]
    data_start: int  # bytes from the start of the file
    file_size: int


def read_header(file: BinaryIO, size: int, limit: int = ADAPTER_HEADER_LIMIT) -> Header:
    """The checked header of a safetensors file of `size` bytes.

    Guarantees: at most `limit` header bytes were read, every shape agrees with its byte range, ranges cover the
    data without gap or overlap, and 8 + N + the last end equals `size`.
    Raises Refused: weights_truncated, weights_malformed, header_too_large.
    """
    start = read_exactly(file, 8)
    if len(start) < 8:
        raise Refused("weights_truncated", size=size, expected="8+")
    (length,) = struct.unpack("<Q", start)
    if length > limit:
        raise Refused("header_too_large", size=length, limit=limit)
    if length < 2:
        raise _malformed(_n("the header is empty"))
    raw = read_exactly(file, length)
    if len(raw) < length:
        raise Refused("weights_truncated", size=size, expected=f"{8 + length}+")
    if not raw.startswith(b"{"):
        raise _malformed(_n("the header is not a JSON object"))
    try:
        parsed = parse_json(raw, "adapter_model.safetensors")
    except Refused as refused:
        raise _malformed(str(refused.details.get("reason"))) from None
    tensors = _tensors(parsed)
    end = 8 + length + (max((t.end for t in tensors.values()), default=0))
    if size < end:
        raise Refused("weights_truncated", size=size, expected=end)
    if size > end:
        raise _malformed(_n("there are bytes after the last tensor"))
    return Header(tensors, _metadata(parsed), 8 + length, size)


def _malformed(reason: str) -> Refused:
    return Refused("weights_malformed", reason=reason)


def _metadata(parsed: dict[str, Any]) -> dict[str, str]:
    found = parsed.get("__metadata__")
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise _malformed(_n("__metadata__ is not a table of texts"))
    return found


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _tensors(parsed: dict[str, Any]) -> dict[str, Tensor]:
    found: list[tuple[str, Tensor]] = []
    for name, entry in parsed.items():
        if name == "__metadata__":
            continue
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise _malformed(_n("a tensor's name is not a name"))
        found.append((name, _tensor(name, entry)))
    found.sort(key=lambda item: (item[1].start, item[1].end))
    position = 0
    for name, tensor in found:
        if tensor.start != position:
            raise _malformed(f"{name} does not follow the tensor before it")
        position = tensor.end
    return dict(found)


def _tensor(name: str, entry: Any) -> Tensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _malformed(f"{name} is not described as a tensor")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_SIZES:
        raise _malformed(f"{name} has an unknown data type")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(_is_size, shape)):
        raise _malformed(f"{name} has a shape that is not one")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise _malformed(f"{name} has offsets that are not such")
    size = DTYPE_SIZES[dtype]
    for dimension in shape:
        size *= dimension
        if size >= 2**63:
            raise _malformed(f"{name} is too large to be true")
    if offsets[1] - offsets[0] != size:
        raise _malformed(f"{name} has a shape that its bytes do not hold")
    return Tensor(dtype, tuple(shape), offsets[0], offsets[1])
