"""The content-addressed store of what is served: `STORE_DIR/<digest>/` with config and weights, never changed.

The digest is the sha256 of the two lines that `sha256sum adapter_config.json adapter_model.safetensors` prints, so
an entry can be checked by hand. An entry appears by one rename, when it is whole and on disk.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from django.conf import settings
from django.utils.translation import gettext_noop

from adapters.files import partials, store_folder
from adapters.formats.config import LIMIT
from adapters.formats.files import open_below, read_exactly
from adapters.formats.safetensors import Header, Tensor, read_header
from adapters.training.layout import CONFIG, WEIGHTS

from .failures import Refused
from .files.store_folder import PARTIAL as PARTIAL
from .places import Place

Progress = Callable[[float], None]
CHUNK = 4 * 2**20
DIGEST = re.compile(r"[0-9a-f]{64}\Z")
# (numpy type of the raw bits, mask of the exponent, mask without the sign)
BITS: dict[str, tuple[np.dtype[Any], int, int]] = {
    "F32": (np.dtype("<u4"), 0x7F800000, 0x7FFFFFFF),
    "F16": (np.dtype("<u2"), 0x7C00, 0x7FFF),
    "BF16": (np.dtype("<u2"), 0x7F80, 0x7FFF),
}


def entry(digest: str) -> Path:
    """Folder of a digest. Raises ValueError for anything that is not one: it must never become another path."""
    if not DIGEST.match(digest):
        raise ValueError("not a digest")
    return Path(settings.STORE_DIR) / digest


def has(digest: str) -> bool:
    """Whether an entry is there as this code makes it: a folder with two files, none of them a link. Reads nothing."""
    return state(digest) is not None


def state(digest: str) -> str | None:
    """What the file system says of an entry without reading it: changes with anything that is written to it. None where
    it is not a folder with two ordinary files."""
    if not DIGEST.match(digest):
        return None
    folder = entry(digest)
    try:
        states = [os.lstat(folder), *(os.lstat(folder / name) for name in (CONFIG, WEIGHTS))]
    except OSError:
        return None
    if not stat.S_ISDIR(states[0].st_mode) or not all(stat.S_ISREG(state.st_mode) for state in states[1:]):
        return None
    return " ".join(f"{s.st_ino}:{s.st_size}:{s.st_mtime_ns}:{s.st_ctime_ns}" for s in states[1:])


def combine(config_hash: str, weights_hash: str) -> str:
    return hashlib.sha256(f"{config_hash}  {CONFIG}\n{weights_hash}  {WEIGHTS}\n".encode()).hexdigest()


class Fault(NamedTuple):
    """What is wrong with an entry: a code of `failures.py` and a reason to be translated when it is shown."""

    code: str
    reason: str


GONE = Fault("store_lost", gettext_noop("it is gone"))
OURS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # this process's own trouble, which says nothing about an entry


def fault(digest: str, tell: Callable[[int], None] | None = None) -> Fault | None:
    """Read an entry again; None where its content still has its name. Takes about 0.1 s and no memory for 100 MB.

    `tell` hears the bytes of each piece that was read. Raises OSError where this process has no means to read it.
    """
    if not DIGEST.match(digest):
        return GONE
    try:
        place = os.open(entry(digest), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return GONE
    except OSError as error:
        return _unreadable(error)
    try:
        hashes = [_hash(place, name, tell) for name in (CONFIG, WEIGHTS)]
    except FileNotFoundError:
        return Fault("store_damaged", gettext_noop("a file is missing"))
    except _BadError as error:
        return Fault("store_damaged", str(error))
    except OSError as error:
        return _unreadable(error)
    finally:
        os.close(place)
    return None if combine(*hashes) == digest else Fault("store_damaged", gettext_noop("its content has changed"))


def _unreadable(error: OSError) -> Fault:
    if error.errno in OURS:
        raise error
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return Fault("store_damaged", gettext_noop("a link or a file is in its place"))
    return Fault("store_damaged", os.strerror(error.errno or 0))


def _hash(place: int, name: str, tell: Callable[[int], None] | None) -> str:
    # O_NONBLOCK: a pipe in the file's place must not hold the server up.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(name, "rb", buffering=0, opener=lambda path, _: os.open(path, flags, dir_fd=place)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise _BadError(gettext_noop("a file is not an ordinary one"))
        _check_size(file, name, found.st_size)
        hasher = hashlib.sha256()
        left = found.st_size
        while left > 0 and (data := file.read(min(CHUNK, left))):
            hasher.update(data)
            left -= len(data)
            if tell is not None:
                tell(len(data))
        return hasher.hexdigest()


def _check_size(file: BinaryIO, name: str, size: int) -> None:
    """A file that cannot be whole need not be read: it may have been made as large as the disk."""
    try:
        if name == WEIGHTS:
            read_header(file, size)
            file.seek(0)
        elif size > LIMIT:
            raise _BadError(gettext_noop("its content has changed"))
    except Refused as refused:
        short = refused.code == "weights_truncated"
        raise _BadError(gettext_noop("it is cut short") if short else gettext_noop("its content has changed")) from None


class _BadError(Exception):
    """Why an entry need not be read to its end."""


def verify(digest: str) -> bool:
    """Read an entry again: True where its content still has its name."""
    return fault(digest) is None


def digest_of(roots: tuple[str, ...], folder: str) -> str:
    """The digest that the files in `folder` would have in the store."""
    hashes = []
    for name in (CONFIG, WEIGHTS):
        with open_below(roots, folder, name) as file:
            hashes.append(hashlib.file_digest(file, "sha256").hexdigest())  # type: ignore[arg-type]
    return combine(*hashes)


class Inspection:
    """Looks at every value as it passes: finite, and which matrices are all zero."""

    def __init__(self, header: Header) -> None:
        self.tensors = list(header.tensors.items())  # in the order of their data
        self.position = 0
        self.index = 0
        self.rest = b""
        self.nonzero: set[str] = set()

    def feed(self, data: bytes) -> None:
        """The next bytes of the tensors' data. Raises Refused weights_nonfinite."""
        view = memoryview(self.rest + data if self.rest else data)
        self.rest = b""
        offset = 0
        while self.index < len(self.tensors):
            name, tensor = self.tensors[self.index]
            bits, _, _ = BITS[tensor.dtype]
            available = min(len(view) - offset, tensor.end - self.position)
            usable = available - available % bits.itemsize
            if usable:
                self._look(name, tensor, view[offset : offset + usable])
                offset += usable
                self.position += usable
            if self.position < tensor.end:
                self.rest = bytes(view[offset:])
                return
            self.index += 1

    def _look(self, name: str, tensor: Tensor, data: memoryview) -> None:
        bits, exponent, magnitude = BITS[tensor.dtype]
        values = np.frombuffer(data, dtype=bits) & bits.type(magnitude)
        largest = int(values.max())
        if largest >= exponent:  # an exponent of all ones: NaN or infinity, and only those are this large
            raise Refused("weights_nonfinite", tensor=name)
        if largest:
            self.nonzero.add(name)

    def check_effect(self) -> None:
        """Raises Refused no_effect where every pair has a zero A or a zero B."""
        b_zero = all(not name.endswith(".lora_B.weight") or name not in self.nonzero for name, _ in self.tensors)
        for name, _ in self.tensors:
            module, mark, _ = name.rpartition(".lora_A.weight")
            if mark and name in self.nonzero and f"{module}.lora_B.weight" in self.nonzero:
                return
        raise Refused("no_effect", reason="lora_B = 0" if b_zero else "lora_A = 0")


def put(config: bytes, weights: BinaryIO, header: Header, progress: Progress | None = None, expected: str = "") -> str:
    """Copy an adapter into the store and return its digest; a sound copy that is there already is kept, a bad one is
    replaced.

    One pass over `weights` (positioned anywhere) copies, hashes and inspects. `expected`: keep nothing that has another
    digest. Raises Refused: weights_nonfinite, no_effect, weights_truncated, changed_meanwhile, store_full,
    store_unwritable.
    """
    if len(config) > LIMIT:
        raise Refused("config_too_large", file=CONFIG, limit=LIMIT)
    with refusing_where_full(), store_folder.opened() as shelf:
        partials.sweep(Path(settings.STORE_DIR))  # what killed ones left may be the very space that this one needs
        with store_folder.partial(shelf, WEIGHTS) as (partial, copy):
            digest = _fill(partial, copy, config, weights, header, progress)
            if expected and digest != expected:
                raise Refused("changed_meanwhile")
            _publish(partial, digest)
    return digest


def workspace(locked: str) -> AbstractContextManager[tuple[Path, BinaryIO]]:
    """A folder in the store for unfinished work, see `partials.partial`. Raises OSError."""
    root = Path(settings.STORE_DIR)
    root.mkdir(parents=True, exist_ok=True)
    partials.sweep(root)
    return partials.partial(root, locked)


@contextmanager
def refusing_where_full() -> Iterator[None]:
    """Raises Refused store_full, store_unwritable in place of an OSError."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = os.strerror(error.errno or 0)
        raise Refused("store_full" if full else "store_unwritable", reason=reason) from error


def _fill(
    partial: Place, copy: BinaryIO, config: bytes, weights: BinaryIO, header: Header, progress: Progress | None
) -> str:
    """`copy` becomes the weights; it stays open, as its lock says that somebody fills the folder."""
    inspection = Inspection(header)
    hasher = hashlib.sha256()
    done = 0
    weights.seek(0)
    if header.file_size:
        os.posix_fallocate(copy.fileno(), 0, header.file_size)
    while done < header.file_size:
        wanted = header.data_start if done < header.data_start else CHUNK
        data = read_exactly(weights, min(wanted, header.file_size - done))
        if not data:
            raise Refused("weights_truncated", size=done, expected=header.file_size)
        hasher.update(data)
        _write(copy, data)
        if done >= header.data_start:
            inspection.feed(data)
        done += len(data)
        if progress is not None:
            progress(done / header.file_size)
    os.fsync(copy.fileno())
    if weights.read(1):
        raise Refused("changed_meanwhile")
    inspection.check_effect()
    with partial.create(CONFIG) as file:
        _write(file, config)
        os.fsync(file.fileno())
    return combine(hashlib.sha256(config).hexdigest(), hasher.hexdigest())


def _write(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _publish(partial: Place, digest: str) -> None:
    """Make the finished folder visible under its digest; what is there already stays only where it is sound."""
    for name in (CONFIG, WEIGHTS):
        partial.chmod(name, 0o444)
    os.fchmod(partial.descriptor, 0o755)  # (the engine may run as another user)
    _sync_folder(partial)
    for last in (False, False, True):  # another process may put the same content there in between
        if store_folder.publish(partial, digest):
            break
        if last:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        if verify(digest):
            return
        store_folder.discard(digest)
    _sync_folder(partial.root)


def _sync_folder(place: Place) -> None:
    os.fsync(place.descriptor)
