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
from typing import Any, BinaryIO

import numpy as np
from django.conf import settings

from adapters.files import partials, store_folder
from adapters.formats.config import LIMIT
from adapters.formats.files import open_below, read_exactly
from adapters.formats.safetensors import Header, Tensor
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
    """True where both files are there; a link in the place of one, or of the folder, is not one of ours."""
    if not DIGEST.match(digest):
        return False
    folder = entry(digest)
    try:
        files = [os.lstat(folder / name).st_mode for name in (CONFIG, WEIGHTS)]
        return stat.S_ISDIR(os.lstat(folder).st_mode) and all(map(stat.S_ISREG, files))
    except (FileNotFoundError, NotADirectoryError):
        return False


def combine(config_hash: str, weights_hash: str) -> str:
    return hashlib.sha256(f"{config_hash}  {CONFIG}\n{weights_hash}  {WEIGHTS}\n".encode()).hexdigest()


def verify(digest: str) -> bool:
    """Read an entry again: True where its content still has its name."""
    hashes = []
    for name in (CONFIG, WEIGHTS):
        with open(entry(digest) / name, "rb") as file:
            hashes.append(hashlib.file_digest(file, "sha256").hexdigest())
    return combine(*hashes) == digest


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


def put(config: bytes, weights: BinaryIO, header: Header, progress: Progress | None = None) -> str:
    """Copy an adapter into the store and return its digest; a copy that is there already is kept.

    One pass over `weights` (positioned anywhere) copies, hashes and inspects. Raises Refused: weights_nonfinite,
    no_effect, weights_truncated, store_full, store_unwritable.
    """
    if len(config) > LIMIT:
        raise Refused("config_too_large", file=CONFIG, limit=LIMIT)
    with refusing_where_full(), store_folder.opened() as shelf:
        partials.sweep(Path(settings.STORE_DIR))  # what killed ones left may be the very space that this one needs
        with store_folder.partial(shelf, WEIGHTS) as (partial, copy):
            digest = _fill(partial, copy, config, weights, header, progress)
            if not has(digest):
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
    """Make the finished folder visible under its digest, whatever was there half-done before."""
    for name in (CONFIG, WEIGHTS):
        partial.chmod(name, 0o444)
    os.fchmod(partial.descriptor, 0o755)  # (the engine may run as another user)
    _sync_folder(partial)
    if not store_folder.publish(partial, digest) and not has(digest):
        store_folder.remove(digest)  # not made by this code, which never leaves half an entry
        if not store_folder.publish(partial, digest):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    _sync_folder(partial.root)


def _sync_folder(place: Place) -> None:
    os.fsync(place.descriptor)
