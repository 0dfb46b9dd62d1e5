"""What is loaded is what was asked for: an adapter's stored copy by its digest, a base by the state of its folder.

The registry states both formulas too (`adapters/store.py`, `adapters/bases/identity.py`), since neither side imports
the other; a test compares them.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import EngineError
from .protocol import BaseSpec

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TEMPLATES = "additional_chat_templates"  # a folder within a base's that Transformers reads too
PROMPTING = "prompting.json"  # what training left beside the weights; not every copy has it
CONFIG_LIMIT = 2**20  # bytes, as in the registry
PROMPTING_LIMIT = 2**21
CHUNK = 4 * 2**20  # bytes that are read and hashed in turn


def combine(config_hash: str, weights_hash: str, prompting_hash: str = "") -> str:
    """The digest of a stored copy: sha256 over what `sha256sum` prints for its files."""
    lines = f"{config_hash}  {CONFIG}\n{weights_hash}  {WEIGHTS}\n"
    lines += f"{prompting_hash}  {PROMPTING}\n" if prompting_hash else ""
    return hashlib.sha256(lines.encode()).hexdigest()


def digest_of(folder: Path) -> str:
    """The digest that a folder's files have; for benchmarks and tests, which load folders outside of a store."""
    names = [CONFIG, WEIGHTS, *([PROMPTING] if (folder / PROMPTING).exists() else [])]
    return combine(*(hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names))


def read_copy(folder: Path, digest: str, name: str, limit: int) -> tuple[bytes, memoryview]:
    """The bytes of config and weights of a stored copy, proven to be what `digest` names.

    The bytes that are hashed are the bytes that are returned: they lie in memory of this process, so that a file that
    is written to or cut short afterwards changes nothing and cannot end the process. Neither the folder nor its files
    may be links. `name` is for messages. Hashing costs about 0.1 s for 100 MB and runs without the interpreter's lock.

    Raises EngineError `store_damaged`, `out_of_memory` where the weights are more than `limit` bytes.
    """
    try:
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            config, config_hash = _read(place, CONFIG, CONFIG_LIMIT)
            weights, weights_hash = _read(place, WEIGHTS, limit)
            prompting_hash = _read(place, PROMPTING, PROMPTING_LIMIT)[1] if _exists(place, PROMPTING) else ""
        finally:
            os.close(place)
        if combine(config_hash, weights_hash, prompting_hash) != digest:
            raise DamageError("its content has changed")
        return bytes(config), weights
    except FileNotFoundError as error:
        raise damaged(name, digest, "a file is missing") from error
    except OSError as error:
        raise damaged(name, digest, os.strerror(error.errno or 0)) from error
    except DamageError as error:
        raise damaged(name, digest, str(error)) from error
    except TooLargeError as error:
        if error.file != WEIGHTS:
            raise damaged(name, digest, f"{error.file} is too large") from error
        message = f"The weights of {name} take {error.size // 2**20} MiB, which the bank or this machine does not have."
        raise EngineError("out_of_memory", message, name=name, needed=error.size) from error


def read_prompting(folder: Path, digest: str, name: str, expected: str) -> bytes:
    """The file `PROMPTING` of a stored copy, whose sha256 is `expected`. Raises EngineError `store_damaged`."""
    try:
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            data, found = _read(place, PROMPTING, PROMPTING_LIMIT)
        finally:
            os.close(place)
    except OSError as error:
        raise damaged(name, digest, os.strerror(error.errno or 0)) from error
    except (DamageError, TooLargeError) as error:
        raise damaged(name, digest, str(error)) from error
    if found != expected:
        raise damaged(name, digest, "its content has changed")
    return bytes(data)


def _exists(place: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=place, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


class DamageError(Exception):
    """What was found is not what a stored copy consists of."""


class TooLargeError(Exception):
    """There is no room for `file` of `size` bytes."""

    def __init__(self, file: str, size: int) -> None:
        super().__init__(f"{file} has {size} bytes")
        self.file, self.size = file, size


def damaged(name: str, digest: str, reason: str) -> EngineError:
    message = f"The stored copy of {name} is damaged: {reason}."
    return EngineError("store_damaged", message, name=name, digest=digest, reason=reason)


def _read(place: int, name: str, limit: int) -> tuple[memoryview, str]:
    """A regular file's bytes and their sha256. Raises OSError, DamageError, TooLargeError."""
    # O_NONBLOCK: a pipe in the file's place must not hold the reader up.
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise DamageError(f"{name} is not an ordinary file")
        if found.st_size > limit:
            raise TooLargeError(name, found.st_size)
        data = _pages(found.st_size, name)
        hasher = hashlib.sha256()
        done = 0
        while done < len(data):
            part = data[done : done + CHUNK]
            count = os.readv(file, [part])
            if count == 0:
                raise DamageError(f"{name} is cut short")
            hasher.update(part[:count])
            done += count
        return data, hasher.hexdigest()
    finally:
        os.close(file)


def _pages(size: int, name: str) -> memoryview:
    """Memory straight from the system, which goes back to it as soon as nobody looks at it."""
    try:
        return memoryview(mmap.mmap(-1, max(1, size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))[:size]
    except (OSError, MemoryError):
        raise TooLargeError(name, size) from None


def folder_signature(folder: str) -> str:
    """Changes with any file of a model's folder: names, inodes, sizes, times. Reads no file. Raises OSError."""
    return hashlib.sha256("\0".join(_states(folder)).encode("utf-8", "surrogateescape")).hexdigest()


def _states(folder: str, deeper: str = TEMPLATES) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            try:
                info = entry.stat()
            except OSError:
                yield f"{entry.name} gone"
                continue
            yield f"{entry.name} {info.st_ino} {info.st_size} {info.st_mtime_ns} {info.st_ctime_ns}"
            if entry.name == deeper and entry.is_dir():
                yield from _states(entry.path, "")


@contextmanager
def unchanged(spec: BaseSpec) -> Iterator[None]:
    """Around whatever reads a base's folder: before and afterwards its state must be what the registry saw when it made
    out the base's identity, so that what was read is what has that identity.

    Raises EngineError `base_changed`, also instead of whatever error the change has led to.
    """
    check_base(spec)
    try:
        yield
    except Exception:
        check_base(spec)
        raise
    check_base(spec)


def check_base(spec: BaseSpec) -> None:
    """Raises EngineError `base_changed` where the folder is not as the registry saw it; a spec may leave that open."""
    expected = spec.get("signature")
    if not expected:
        return
    try:
        same = folder_signature(spec["path"]) == expected
    except OSError:
        same = False
    if not same:
        message = f"The files of {spec['name']} have changed since the registry looked at them."
        raise EngineError("base_changed", message, base=spec["name"], key=spec["key"], path=spec["path"])
