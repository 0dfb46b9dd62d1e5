"""What a repair changes, and the file that comes of it."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from adapters.failures import Refused
from adapters.formats.safetensors import Header, Tensor
from adapters.training.layout import WEIGHTS

if TYPE_CHECKING:
    import numpy as np

PREFIX = "base_model.model."
LONGEST = 300  # characters of a value that is shown
MOST_REORDERED = 2**28  # bytes of a matrix that is turned round in memory
ITEM_SIZES = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}


# Of a tensor: renamed, transposed, reordered (its rows), split, dropped; of a file: joined; of a field: config.
CHANGES = ("renamed", "transposed", "reordered", "split", "dropped", "joined", "config")


@dataclass(frozen=True)
class Rows:
    """Which rows of a matrix, in which order: `count` blocks that begin `stride` rows apart, of each those from
    `offset` on, `size` of them. `halves`: within each of the rows' blocks the even ones first, then the odd ones."""

    count: int
    stride: int
    offset: int
    size: int
    halves: bool = False

    def indices(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        import numpy as np

        within = np.arange(self.size)
        if self.halves:
            within = np.concatenate([within[::2], within[1::2]])
        return (np.arange(self.count)[:, None] * self.stride + self.offset + within).reshape(-1)

    @property
    def length(self) -> int:
        return self.count * self.size


@dataclass(frozen=True)
class Made:
    """A tensor of the repaired file. `file`: which of the source's files, `tensor`: there; `name`, `shape`: here."""

    name: str
    source: str
    file: int
    tensor: Tensor
    data_start: int  # of the file: where the data of its tensors begins
    transposed: bool = False
    rows: Rows | None = None

    @cached_property
    def shape(self) -> tuple[int, ...]:
        shape = self.tensor.shape
        if self.rows is not None:
            shape = (self.rows.length, *shape[1:])
        return shape[::-1] if self.transposed else shape

    @property
    def is_reordered(self) -> bool:
        return self.transposed or self.rows is not None

    @cached_property
    def size(self) -> int:
        """Bytes."""
        count = 1
        for dimension in self.shape:
            count *= dimension
        return count * ITEM_SIZES[self.tensor.dtype] if self.is_reordered else self.tensor.end - self.tensor.start


@dataclass(frozen=True)
class Change:
    """`kind`: one of CHANGES."""

    kind: str
    old: str
    new: str


@dataclass(frozen=True)
class Plan:
    """`kinds`: codes of failures.py that say what was found; `config`: the bytes of the copy's adapter_config.json."""

    kinds: tuple[str, ...]
    config: bytes
    tensors: tuple[Made, ...]
    joined: tuple[str, ...] = ()  # files that become one
    dropped: tuple[str, ...] = ()  # tensors that are the base's own, if they are
    settings: tuple[Change, ...] = field(default=())  # of the config

    @cached_property
    def key(self) -> str:
        """Tells this plan from any other, for the same files or others."""
        digest = hashlib.sha256(self.config)
        for one in self.tensors:
            facts = (one.name, one.source, one.tensor.dtype, one.shape, one.transposed, one.rows)
            digest.update(repr(facts).encode("utf-8", "surrogatepass"))
        digest.update(repr((self.joined, self.dropped)).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    @property
    def changes(self) -> list[Change]:
        """Everything that the copy has otherwise than the files, fields first."""
        found = [*self.settings, *(Change("joined", name, WEIGHTS) for name in self.joined)]
        split = _repeated([one.source for one in self.tensors])
        for one in self.tensors:
            kind = "split" if one.source in split else "transposed" if one.transposed else "reordered"
            if one.is_reordered or one.source in split:
                found.append(Change(kind, one.source, one.name))
            elif one.name != one.source:
                found.append(Change("renamed", one.source, one.name))
        return found + [Change("dropped", name, "") for name in self.dropped]

    @cached_property
    def layout(self) -> tuple[bytes, Header]:
        """(head, header) of the repaired file. Raises Refused weights_malformed."""
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        tensors, position = {}, 0
        for one in self.tensors:
            if one.is_reordered and (one.tensor.dtype not in ITEM_SIZES or one.size > MOST_REORDERED):
                raise Refused("dtype_unsupported", tensor=one.source, dtype=one.tensor.dtype)
            end = position + one.size
            entries[one.name] = {"dtype": one.tensor.dtype, "shape": one.shape, "data_offsets": [position, end]}
            tensors[one.name] = Tensor(one.tensor.dtype, one.shape, position, end)
            position = end
        raw = json.dumps(entries, separators=(",", ":")).encode()
        raw += b" " * (-len(raw) % 8)
        head = struct.pack("<Q", len(raw)) + raw
        return head, Header(tensors, {"format": "pt"}, len(head), len(head) + position)


def _repeated(names: list[str]) -> set[str]:
    seen: set[str] = set()
    return {name for name in names if name in seen or seen.add(name)}  # type: ignore[func-returns-value]


def shown(value: object) -> str:
    """A value of a config as a page may show it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    short = text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
    return "".join(character if character.isprintable() else "\ufffd" for character in short)


def settings_changes(old: dict[str, object], new: dict[str, object]) -> Iterator[Change]:
    """The fields of two configs that differ, those of the new one first."""
    for key, value in new.items():
        if key not in old:
            yield Change("config", "", f"{shown(key)}: {shown(value)}")
        elif old[key] != value:
            yield Change("config", f"{shown(key)}: {shown(old[key])}", f"{shown(key)}: {shown(value)}")
    for key, value in old.items():
        if key not in new:
            yield Change("config", f"{shown(key)}: {shown(value)}", "")
