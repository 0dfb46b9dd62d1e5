"""Runs as `python -I unpack_child.py FOLDER NAME BYTES FILES PARENT` with the archive as standard input; see
`unpacking.py`. FOLDER is an open descriptor, below which files are written; NAME tells the archive's kind.

Limits of memory, time and size are set before a byte of the archive is read. One line of JSON says how it ended:
`{"refused": REASON, "path": PATH}` or `{"files": COUNT, "bytes": SUM, "left_out": [PATH...], "left_out_count": N}`.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import lzma
import os
import resource
import stat
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

MEMORY = 512 << 20  # bytes of address space beyond what is in use
SECONDS = 600  # of processor time
CHUNK = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)
SHOWN = 20  # names of files that were left out
ENTRIES = 100_000  # of an archive that are looked at
DIRECTORY = 32 << 20  # bytes of a zip's table of contents


def _naming() -> Any:
    """The rules of names, which lie beside this file: the child has no package around it."""
    spec = importlib.util.spec_from_file_location("naming", Path(__file__).with_name("naming.py"))
    assert spec is not None and spec.loader is not None  # noqa: S101  (for the type checker)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


naming = _naming()


class Rejected(Exception):  # noqa: N818
    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(reason)
        self.reason, self.path = reason, path


class Entry(NamedTuple):
    """`size` as the archive says; what is read is counted."""

    path: str
    size: int
    source: Any


def confine(most: int) -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def of_zip(archive: zipfile.ZipFile) -> Iterator[Entry]:
    for item in archive.infolist():
        if item.is_dir():
            continue
        mode = item.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise Rejected("link", item.filename)
        if item.flag_bits & 0x1:
            raise Rejected("encrypted")
        if item.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Rejected("compression", item.filename)
        yield Entry(item.filename, item.file_size, item)


def of_tar(archive: tarfile.TarFile) -> Iterator[Entry]:
    for item in archive:
        if item.isdir():
            continue
        if not item.isreg() or item.issparse():
            raise Rejected("link", item.name)
        yield Entry(item.name, item.size, item)


class Unpacking:
    def __init__(self, folder: int, most: int, files: int) -> None:
        self.folder, self.most, self.limit = folder, most, files
        self.seen: set[str] = set()
        self.bytes = 0
        self.left_out: list[str] = []
        self.left_out_count = 0

    def take(self, entry: Entry, opened: Any) -> None:
        """One file of the archive. Raises Rejected."""
        parts = naming.parts_of(entry.path.removeprefix("./"))
        if isinstance(parts, str):
            raise Rejected(parts, entry.path)
        if naming.is_clutter(parts):
            return
        if not naming.is_kept(parts[-1]):
            self.left_out_count += 1
            if len(self.left_out) < SHOWN:
                self.left_out.append("/".join(parts))
            return
        key = "/".join(parts).casefold()
        if key in self.seen:
            raise Rejected("twice", entry.path)
        self.seen.add(key)
        if len(self.seen) > self.limit:
            raise Rejected("too_many")
        if self.bytes + entry.size > self.most:
            raise Rejected("too_large")
        with opened(entry.source) as source:
            self.write(parts, source)

    def write(self, parts: tuple[str, ...], source: IO[bytes]) -> None:
        place = os.dup(self.folder)
        try:
            for name in parts[:-1]:
                try:
                    os.mkdir(name, 0o755, dir_fd=place)
                except FileExistsError:
                    pass
                deeper = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
                os.close(place)
                place = deeper
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with os.fdopen(os.open(parts[-1], flags, 0o644, dir_fd=place), "wb", buffering=0) as target:
                while data := source.read(CHUNK):
                    self.bytes += len(data)
                    if self.bytes > self.most:
                        raise Rejected("too_large")
                    target.write(data)
        except (FileExistsError, NotADirectoryError):  # a file where another path needs a folder
            raise Rejected("twice", "/".join(parts)) from None
        finally:
            os.close(place)


def check_directory(file: IO[bytes]) -> None:
    """A zip's table of contents is read whole by the library: it has to fit. Raises Rejected."""
    file.seek(0, os.SEEK_END)
    size = file.tell()
    file.seek(max(0, size - 65_557))  # the end record and its longest comment
    tail = file.read(65_557)
    position = tail.rfind(b"PK\x05\x06")
    if position < 0 or len(tail) < position + 22:
        raise Rejected("damaged")
    length = int.from_bytes(tail[position + 12 : position + 16], "little")
    if length != 0xFFFFFFFF and length > DIRECTORY:  # (of a zip64 the limit of memory is the bound)
        raise Rejected("too_many")
    file.seek(0)


def unpack(file: IO[bytes], name: str, work: Unpacking) -> None:
    if name.lower().endswith(".zip"):
        check_directory(file)
        with zipfile.ZipFile(file) as archive:
            for number, entry in enumerate(of_zip(archive)):
                if number >= ENTRIES:
                    raise Rejected("too_many")
                work.take(entry, archive.open)
        return
    with tarfile.open(fileobj=file, mode="r:*", errorlevel=2) as archive:
        for number, entry in enumerate(of_tar(archive)):
            if number >= ENTRIES:
                raise Rejected("too_many")
            work.take(entry, archive.extractfile)
            archive.members = []  # type: ignore[attr-defined]  # its list of all that it has seen


def main(folder: int, name: str, most: int, files: int) -> dict[str, Any]:
    confine(most)
    work = Unpacking(folder, most, files)
    try:
        with os.fdopen(os.dup(0), "rb") as file:
            unpack(file, name, work)
    except Rejected as rejected:
        return {"refused": rejected.reason, "path": rejected.path[:600]}
    except MemoryError:
        return {"refused": "too_large", "path": ""}
    except OSError as error:
        if isinstance(error, (tarfile.TarError, EOFError, zipfile.BadZipFile)) or error.errno is None:
            return {"refused": "damaged", "path": ""}
        return {
            "refused": "space" if error.errno in FULL else "too_large" if error.errno == errno.EFBIG else "damaged",
            "path": "",
        }
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError,
            NotImplementedError, KeyError, IndexError, OverflowError, UnicodeError, RecursionError):  # fmt: skip
        return {"refused": "damaged", "path": ""}
    return {
        "files": len(work.seen),
        "bytes": work.bytes,
        "left_out": work.left_out,
        "left_out_count": work.left_out_count,
    }


def end_with(parent: int) -> None:
    """The kernel ends this process with its parent. Linux only."""
    if sys.platform == "linux":
        import ctypes
        import signal

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            sys.exit(1)


if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails with EFBIG instead
    end_with(int(sys.argv[5]))
    sys.stdout.write(json.dumps(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
