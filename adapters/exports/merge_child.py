"""Runs as `python -I merge_child.py FOLDER PARENT` with a plan as JSON on standard input; see `merging.py`. FOLDER is
an open descriptor, in which the files of the merged model's weights are written; what is read is open already.

Each file is written tensor by tensor, brought to the disk, read back from there and compared. Lines on standard output:
`{"done": BYTES}` now and then, and last `{"files": [{"name", "size", "sha256", "crc32"}]}` or `{"refused": CODE, ...}`.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import resource
import signal
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1  # of prctl(2)
MEMORY = 1536 << 20  # bytes of address space beyond what is in use, and what an adapter's parts take
CHUNK = 1 << 22
SAY_EVERY = 0.5  # seconds
NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def _arithmetic() -> Any:
    """It lies beside this file: the child has no package around it."""
    spec = importlib.util.spec_from_file_location("arithmetic", Path(__file__).with_name("arithmetic.py"))
    assert spec is not None and spec.loader is not None  # noqa: S101  (for the type checker)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class UnverifiedError(Exception):
    """What lies on the disk is not what was written."""


def end_with(parent: int) -> None:
    """The kernel ends this process with its parent: nobody is left to take the result. Linux only."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before it could be asked for
            sys.exit(1)


def confine(largest: int, parts: int, seconds: int) -> None:
    """`largest`: bytes of the largest file; `parts`: of an adapter's parts that are in memory at once."""
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    for limit, value in (
        (resource.RLIMIT_AS, used + MEMORY + parts), (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, largest), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NPROC, 0),
    ):  # fmt: skip
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    os.nice(10)  # answers come first


class Teller:
    """Says how far it is."""

    def __init__(self) -> None:
        self.done, self.said = 0, 0.0

    def __call__(self, count: int) -> None:
        self.done += count
        if time.monotonic() - self.said >= SAY_EVERY:
            self.said = time.monotonic()
            say({"done": self.done})


def say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def header_of(tensors: list[dict[str, Any]]) -> bytes:
    """The head of a safetensors file; `size` of each tensor is known."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        end = position + tensor["size"]
        entries[tensor["name"]] = {"dtype": tensor["dtype"], "shape": tensor["shape"], "data_offsets": [position, end]}
        position = end
    raw = json.dumps(entries, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw


def data_of(tensor: dict[str, Any], arithmetic: Any) -> Iterator[bytes]:
    """The bytes of a tensor of the result."""
    descriptor, start, dtype, shape = tensor["base"]
    if tensor["recipe"] is None and dtype == tensor["dtype"]:
        stop = start + tensor["size"]
        while start < stop:
            piece = arithmetic.read(descriptor, start, min(CHUNK, stop - start))
            yield piece
            start += len(piece)
        return
    base = arithmetic.Source(descriptor, start, dtype, shape)
    said = tensor["recipe"]
    if said is None:  # the base's own numbers in a wider type, whatever they are
        yield from (block.tobytes() for block in base.blocks())
        return
    parts = {role: arithmetic.Source(*part) for role, part in said["parts"].items()}
    for block in arithmetic.Recipe(base, parts, said).blocks():
        yield arithmetic.packed(block, tensor["dtype"])


def write(folder: int, file: dict[str, Any], arithmetic: Any, tell: Callable[[int], None]) -> dict[str, Any]:
    """Raises OSError, UnverifiedError, arithmetic.NotFiniteError with the tensor's name."""
    head = header_of(file["tensors"])
    size = len(head) + sum(tensor["size"] for tensor in file["tensors"])
    descriptor = os.open(file["name"], NEW_FILE, 0o644, dir_fd=folder)
    try:
        os.posix_fallocate(descriptor, 0, size)  # no room is found out now
        hasher = hashlib.sha256()
        with os.fdopen(os.dup(descriptor), "wb", buffering=0) as out:
            put(out, head, hasher)
            for tensor in file["tensors"]:
                try:
                    for data in data_of(tensor, arithmetic):
                        put(out, data, hasher)
                        tell(len(data))
                except arithmetic.NotFiniteError:
                    raise arithmetic.NotFiniteError(tensor["name"]) from None
            if out.tell() != size:
                raise UnverifiedError(file["name"])
        os.fsync(descriptor)
        return {"name": file["name"], "size": size, **read_back(descriptor, file, size, hasher.hexdigest(), tell)}
    finally:
        os.close(descriptor)


def put(out: Any, data: bytes, hasher: Any) -> None:
    hasher.update(data)
    view = memoryview(data)
    while view:
        view = view[out.write(view) :]


def read_back(
    descriptor: int, file: dict[str, Any], size: int, wanted: str, tell: Callable[[int], None]
) -> dict[str, Any]:  # fmt: skip
    """From the disk and not from memory, as far as the kernel can be told. Raises UnverifiedError."""
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    hasher, crc, position = hashlib.sha256(), 0, 0
    head = os.pread(descriptor, 8, 0)
    found = json.loads(os.pread(descriptor, int.from_bytes(head, "little"), 8))
    shapes = {tensor["name"]: (tensor["dtype"], tensor["shape"]) for tensor in file["tensors"]}
    found.pop("__metadata__", None)
    if {name: (entry["dtype"], entry["shape"]) for name, entry in found.items()} != shapes:
        raise UnverifiedError(file["name"])
    while data := os.pread(descriptor, CHUNK, position):
        hasher.update(data)
        crc = zlib.crc32(data, crc)
        position += len(data)
        tell(len(data))
    if position != size or hasher.hexdigest() != wanted:
        raise UnverifiedError(file["name"])
    return {"sha256": wanted, "crc32": crc}


def main(folder: int) -> dict[str, Any]:
    plan = json.load(sys.stdin)
    arithmetic = _arithmetic()
    confine(plan["largest"], plan["parts"], plan["seconds"])
    tell = Teller()
    try:
        return {"files": [write(folder, file, arithmetic, tell) for file in plan["files"]]}
    except arithmetic.NotFiniteError as error:
        return {"refused": "merge_overflow", "tensor": str(error)}
    except UnverifiedError as error:
        return {"refused": "merge_unverified", "file": str(error)}
    except MemoryError:
        return {"refused": "merge_failed", "reason": "memory"}
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = os.strerror(error.errno) if error.errno else str(error)
        return {"refused": "merge_no_space" if full else "merge_failed", "reason": reason}


if __name__ == "__main__":
    end_with(int(sys.argv[2]))
    say(main(int(sys.argv[1])))
