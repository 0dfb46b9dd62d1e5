"""Reading safetensors headers without torch. Format: https://huggingface.co/docs/safetensors/index

The file is 8 bytes (header length N, little endian), N bytes of JSON, then the tensors without gaps.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from django.utils.translation import gettext_noop

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
A, B = ".lora_A.weight", ".lora_B.weight"  # how the names of LoRA's matrices end, as PEFT writes them
# How the names of all tensors end that are an adapter's alone, and what each is to its module.
PARTS = {
    A: "A", B: "B", ".lora_B.bias": "pair_bias", ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude", ".lora_embedding_A": "embedding_A",
    ".lora_embedding_B": "embedding_B", ".token_adapter.trainable_tokens_delta": "tokens",
}  # fmt: skip
ENDS = tuple(PARTS)
CHUNK = 4 * 2**20  # bytes that are read at once


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

    @property
    def others(self) -> dict[str, Tensor]:
        """The tensors that the base has too: saved layers, embeddings, biases."""
        return {name: tensor for name, tensor in self.tensors.items() if not name.endswith(ENDS)}

    def without_others(self, kept: Collection[str] = ()) -> tuple[bytes, Header]:
        """(head, header) of the file that holds this one's tensors without `others` that are not `kept`, in the same
        order."""
        tensors, position = {}, 0
        entries: dict[str, Any] = {"__metadata__": self.metadata} if self.metadata else {}
        for name, tensor in self.tensors.items():
            if name.endswith(ENDS) or name in kept:
                end = position + tensor.end - tensor.start
                entries[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [position, end]}
                tensors[name] = replace(tensor, start=position, end=end)
                position = end
        raw = json.dumps(entries, separators=(",", ":")).encode()
        raw += b" " * (-len(raw) % 8)
        head = struct.pack("<Q", len(raw)) + raw
        return head, Header(tensors, self.metadata, len(head), len(head) + position)


def lora_part(file: BinaryIO, header: Header, kept: Collection[str] = ()) -> tuple[Header, Iterator[bytes]]:
    """What is served of an adapter's file: (its header, its bytes, of which the first piece is the head).

    That is the file itself, unless it holds `others` that are not `kept`, since they equal the base's own. The iterator
    raises Refused weights_truncated.
    """
    if header.others.keys() <= set(kept):
        return header, _pieces(file, [(0, header.data_start), (header.data_start, header.file_size)])
    head, served = header.without_others(kept)
    lora = [header.tensors[name] for name in served.tensors]
    ranges = [(header.data_start + tensor.start, header.data_start + tensor.end) for tensor in lora]

    def pieces() -> Iterator[bytes]:
        yield head
        yield from _pieces(file, ranges)

    return served, pieces()


def _pieces(file: BinaryIO, ranges: list[tuple[int, int]]) -> Iterator[bytes]:
    for start, stop in ranges:
        file.seek(start)
        while start < stop:
            data = read_exactly(file, stop - start if start == 0 else min(CHUNK, stop - start))
            if not data:
                raise Refused("weights_truncated", size=start, expected=stop)
            yield data
            start += len(data)


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
        raise _malformed(gettext_noop("the header is empty"))
    raw = read_exactly(file, length)
    if len(raw) < length:
        raise Refused("weights_truncated", size=size, expected=f"{8 + length}+")
    if not raw.startswith(b"{"):
        raise _malformed(gettext_noop("the header is not a JSON object"))
    try:
        parsed = parse_json(raw, "adapter_model.safetensors")
    except Refused as refused:
        raise _malformed(**{key: value for key, value in refused.details.items() if key != "file"}) from None
    tensors = _tensors(parsed)
    end = 8 + length + (max((t.end for t in tensors.values()), default=0))
    if size < end:
        raise Refused("weights_truncated", size=size, expected=end)
    if size > end:
        raise _malformed(gettext_noop("there are bytes after the last tensor"))
    return Header(tensors, _metadata(parsed), 8 + length, size)


def _malformed(reason: str, **details: Any) -> Refused:
    return Refused("weights_malformed", reason=reason, **details)


def _metadata(parsed: dict[str, Any]) -> dict[str, str]:
    found = parsed.get("__metadata__")
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise _malformed(gettext_noop("__metadata__ is not a mapping of strings"))
    return found


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _tensors(parsed: dict[str, Any]) -> dict[str, Tensor]:
    found: list[tuple[str, Tensor]] = []
    for name, entry in parsed.items():
        if name == "__metadata__":
            continue
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise _malformed(gettext_noop("a tensor has an invalid name"))
        found.append((name, _tensor(name, entry)))
    found.sort(key=lambda item: (item[1].start, item[1].end))
    position = 0
    for name, tensor in found:
        if tensor.start != position:
            raise _malformed(gettext_noop("%(tensor)s does not start where the tensor before it ends"), tensor=name)
        position = tensor.end
    return dict(found)


def _tensor(name: str, entry: Any) -> Tensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _malformed(gettext_noop("the entry of %(tensor)s does not describe a tensor"), tensor=name)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_SIZES:
        raise _malformed(gettext_noop("%(tensor)s has an unknown data type"), tensor=name)
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(_is_size, shape)):
        raise _malformed(gettext_noop("%(tensor)s has an invalid shape"), tensor=name)
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise _malformed(gettext_noop("%(tensor)s has invalid offsets"), tensor=name)
    size = DTYPE_SIZES[dtype]
    for dimension in shape:
        size *= dimension
        if size >= 2**63:
            raise _malformed(gettext_noop("%(tensor)s has an impossible size"), tensor=name)
    if offsets[1] - offsets[0] != size:
        raise _malformed(gettext_noop("the shape of %(tensor)s does not match its size in bytes"), tensor=name)
    return Tensor(dtype, tuple(shape), offsets[0], offsets[1])
