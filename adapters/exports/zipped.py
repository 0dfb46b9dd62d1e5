"""Zip archives without compression that are never built: where each byte comes from is known beforehand, so one can be
read from anywhere, and a broken download goes on where it ended.

Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, with the fields of Zip64 for every entry.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

CHUNK = 2**20
VERSION = 45  # that reads Zip64
UTF8 = 0x800
DATE = 0x21  # 1980-01-01, the first day that the format knows: the same content is the same archive
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF


@dataclass(frozen=True)
class Entry:
    """`crc`: CRC-32 of the content, which is `data`, or what the open `descriptor` has from its beginning."""

    name: str
    size: int
    crc: int
    data: bytes = b""
    descriptor: int = -1


Piece = bytes | Entry


def layout(entries: Sequence[Entry]) -> list[Piece]:
    """What the archive consists of, one after the other."""
    pieces: list[Piece] = []
    directory, position = b"", 0
    for entry in entries:
        name = entry.name.encode()
        common = struct.pack("<HHHHHLLLHH", VERSION, UTF8, 0, 0, DATE, entry.crc, FULL32, FULL32, len(name), 20)
        head = b"PK\x03\x04" + common + name + struct.pack("<HHQQ", 1, 16, entry.size, entry.size)
        pieces += [head, entry]
        common = struct.pack("<HHHHHLLLHH", VERSION, UTF8, 0, 0, DATE, entry.crc, FULL32, FULL32, len(name), 28)
        extra = struct.pack("<HHQQQ", 1, 24, entry.size, entry.size, position)
        mode = (0o100644 << 16) & FULL32
        directory += b"PK\x01\x02" + struct.pack("<H", (3 << 8) | VERSION) + common
        directory += struct.pack("<HHHLL", 0, 0, 0, mode, FULL32) + name + extra
        position += len(head) + entry.size
    count, at = len(entries), position + len(directory)
    end = b"PK\x06\x06" + struct.pack(
        "<QHHLLQQQQ", 44, (3 << 8) | VERSION, VERSION, 0, 0, count, count, len(directory), position
    )
    end += b"PK\x06\x07" + struct.pack("<LQL", 0, at, 1)
    end += b"PK\x05\x06" + struct.pack("<HHHHLLH", 0, 0, FULL16, FULL16, FULL32, FULL32, 0)
    return [*pieces, directory, end]


def length(pieces: Sequence[Piece]) -> int:
    return sum(len(piece) if isinstance(piece, bytes) else piece.size for piece in pieces)


def read(pieces: Sequence[Piece], start: int, stop: int) -> Iterator[bytes]:
    """The bytes from `start` to `stop` of what the pieces make together. Raises OSError, also where a file is shorter
    than it was said to be: whoever reads must not take the rest for the whole."""
    position = 0
    for piece in pieces:
        size = len(piece) if isinstance(piece, bytes) else piece.size
        first, last = max(start - position, 0), min(stop - position, size)
        position += size
        if first >= last:
            continue
        if isinstance(piece, bytes) or piece.descriptor < 0:
            yield (piece if isinstance(piece, bytes) else piece.data)[first:last]
            continue
        while first < last:
            data = os.pread(piece.descriptor, min(CHUNK, last - first), first)
            if not data:
                raise OSError(f"{piece.name} has become shorter")
            yield data
            first += len(data)
