"""The content-addressed store of what is served: `STORE_DIR/<digest>/` with config and weights, never changed; where
training left a chat template, end tokens or defaults of generation beside them, `prompting.json` holds those.

The digest is the sha256 of the lines that `sha256sum adapter_config.json adapter_model.safetensors [prompting.json]`
prints, so an entry can be checked by hand. An entry appears by one rename, when it is whole and on disk.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from django.conf import settings
from django.utils.translation import gettext_noop

from adapters.files import partials, store_folder
from adapters.formats.added_tokens import Location
from adapters.formats.config import LIMIT
from adapters.formats.files import open_below
from adapters.formats.safetensors import CHUNK, A, B, Header, Tensor, lora_part, read_header
from adapters.training import prompting
from adapters.training.layout import CONFIG, WEIGHTS

from .failures import Refused
from .files.store_folder import PARTIAL as PARTIAL
from .places import Place, set_mode

Progress = Callable[[float], None]
PROMPTING = prompting.FILE
PROMPTING_LIMIT = prompting.STORED_LIMIT
DIGEST = re.compile(r"[0-9a-f]{64}\Z")
# (numpy type of the raw bits, their bytes, mask of the exponent, mask without the sign)
BITS: dict[str, tuple[str, int, int, int]] = {
    "F32": ("<u4", 4, 0x7F800000, 0x7FFFFFFF),
    "F16": ("<u2", 2, 0x7C00, 0x7FFF),
    "BF16": ("<u2", 2, 0x7F80, 0x7FFF),
}


def entry(digest: str) -> Path:
    """Location of a digest. Raises ValueError for anything that is not one: it must never become another path."""
    if not DIGEST.match(digest):
        raise ValueError("not a digest")
    return Path(settings.STORE_DIR) / digest


def has(digest: str) -> bool:
    """Whether an entry is there as this code makes it: a folder with its files, none of them a link. Reads nothing."""
    return state(digest) is not None


def state(digest: str) -> str | None:
    """What the file system says of an entry without reading it: changes with anything that is written to it. None where
    it is not a folder with ordinary files."""
    if not DIGEST.match(digest):
        return None
    folder = entry(digest)
    try:
        states = [os.lstat(folder), *(os.lstat(folder / name) for name in (CONFIG, WEIGHTS))]
        with suppress(FileNotFoundError):
            states.append(os.lstat(folder / PROMPTING))
    except OSError:
        return None
    if not stat.S_ISDIR(states[0].st_mode) or not all(stat.S_ISREG(state.st_mode) for state in states[1:]):
        return None
    return " ".join(f"{s.st_ino}:{s.st_size}:{s.st_mtime_ns}:{s.st_ctime_ns}" for s in states[1:])


def combine(config_hash: str, weights_hash: str, prompting_hash: str = "") -> str:
    lines = f"{config_hash}  {CONFIG}\n{weights_hash}  {WEIGHTS}\n"
    lines += f"{prompting_hash}  {PROMPTING}\n" if prompting_hash else ""
    return hashlib.sha256(lines.encode()).hexdigest()


class Fault(NamedTuple):
    """What is wrong with an entry: a code of `failures.py` and a reason to be translated when it is shown."""

    code: str
    reason: str


GONE = Fault("store_lost", gettext_noop("the copy is missing"))
OURS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # this process's own trouble, which says nothing about an entry


def fault(digest: str, tell: Callable[[int], None] | None = None) -> Fault | None:
    """Read an entry again; None where its content still has its name. Takes about 0.1 s and no memory for 100 MB.

    `tell` hears the bytes of each piece that was read. Raises OSError where this process has no means to read it.
    """
    if not DIGEST.match(digest):
        return GONE
    try:
        with store_folder.opened() as shelf, shelf.below(digest) as place:
            try:
                hashes = [_hash(place, name, tell) for name in (CONFIG, WEIGHTS)]
                with suppress(FileNotFoundError):
                    hashes.append(_hash(place, PROMPTING, tell))
            except FileNotFoundError:
                return Fault("store_damaged", gettext_noop("a file is missing"))
    except FileNotFoundError:
        return GONE
    except _BadError as error:
        return Fault("store_damaged", str(error))
    except OSError as error:
        return _unreadable(error)
    return None if combine(*hashes) == digest else Fault("store_damaged", gettext_noop("its content has changed"))


def _unreadable(error: OSError) -> Fault:
    if error.errno in OURS:
        raise error
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return Fault("store_damaged", gettext_noop("a link or file has taken its place"))
    return Fault("store_damaged", os.strerror(error.errno or 0))


def _hash(place: Place, name: str, tell: Callable[[int], None] | None) -> str:
    with open(name, "rb", buffering=0, opener=lambda path, _: place.open(path)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise _BadError(gettext_noop("a file is not a regular file"))
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
        elif size > (LIMIT if name == CONFIG else PROMPTING_LIMIT):
            raise _BadError(gettext_noop("its content has changed"))
    except Refused as refused:
        short = refused.code == "weights_truncated"
        raise _BadError(
            gettext_noop("a file is truncated") if short else gettext_noop("its content has changed")
        ) from None


class _BadError(Exception):
    """Why an entry need not be read to its end."""


def names(digest: str) -> frozenset[str]:
    """The names of the tensors in an entry. Raises Refused, OSError."""
    root = os.path.realpath(settings.STORE_DIR)
    with open_below((root,), os.path.join(root, entry(digest).name), WEIGHTS) as file:
        return frozenset(read_header(file, os.fstat(file.fileno()).st_size).tensors)


def verify(digest: str) -> bool:
    """Read an entry again: True where its content still has its name."""
    return fault(digest) is None


def digest_of(
    roots: tuple[str, ...], folder: str, kept: Collection[str] = (), base: Location | None = None
) -> str:  # fmt: skip
    """The digest that the files in `folder` would have in the store; `kept` as for `put`, `base` as for
    `read_prompting`. Raises Refused."""
    with open_below(roots, folder, CONFIG) as file:
        config = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    with open_below(roots, folder, WEIGHTS) as file:
        hasher = hashlib.sha256()
        for piece in lora_part(file, read_header(file, os.fstat(file.fileno()).st_size), kept)[1]:
            hasher.update(piece)
    said = prompting.read_prompting(roots, folder, os.listdir(folder), base)
    return combine(config, hasher.hexdigest(), prompting.digest_of(said))


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
            itemsize = BITS[tensor.dtype][1]
            available = min(len(view) - offset, tensor.end - self.position)
            usable = available - available % itemsize
            if usable:
                self._look(name, tensor, view[offset : offset + usable])
                offset += usable
                self.position += usable
            if self.position < tensor.end:
                self.rest = bytes(view[offset:])
                return
            self.index += 1

    def _look(self, name: str, tensor: Tensor, data: memoryview) -> None:
        import numpy as np  # takes a while and much memory, and only who copies an adapter needs it

        bits, _, exponent, magnitude = BITS[tensor.dtype]
        values = np.frombuffer(data, dtype=bits) & np.dtype(bits).type(magnitude)
        largest = int(values.max())
        if largest >= exponent:  # an exponent of all ones: NaN or infinity, and only those are this large
            raise Refused("weights_nonfinite", tensor=name)
        if largest:
            self.nonzero.add(name)

    def check_effect(self) -> None:
        """Raises Refused no_effect where every pair has a zero A or a zero B, and there is nothing but pairs."""
        if any(not name.endswith((A, B)) for name, _ in self.tensors):
            return  # what a magnitude, a bias or a saved layer changes shows when it is first run
        b_zero = all(not name.endswith(B) or name not in self.nonzero for name, _ in self.tensors)
        for name, _ in self.tensors:
            module, mark, _ = name.rpartition(A)
            if mark and name in self.nonzero and f"{module}{B}" in self.nonzero:
                return
        raise Refused("no_effect", reason="lora_B = 0" if b_zero else "lora_A = 0")


def put(
    config: bytes, weights: BinaryIO, header: Header, progress: Progress | None = None, expected: str = "",
    said: bytes = b"", kept: Collection[str] = (),
) -> str:  # fmt: skip
    """Copy an adapter into the store and return its digest; a sound copy that is there already is kept, a bad one is
    replaced.

    One pass over `weights` (positioned anywhere) copies, hashes and inspects; tensors that the base has too stay behind
    unless they are `kept` (`validation/copies.py` has seen that they change nothing). `expected`: keep nothing that has
    another digest. `said`: what `prompting.read_prompting` found. Raises Refused: weights_nonfinite, no_effect,
    weights_truncated, changed_meanwhile, store_full, store_unwritable.
    """
    if len(config) > LIMIT:
        raise Refused("config_too_large", file=CONFIG, limit=LIMIT)
    with refusing_where_full(), workspace(WEIGHTS) as (partial, copy):
        digest = _fill(partial, copy, config, weights, header, progress, said, kept)
        if expected and digest != expected:
            raise Refused("changed_meanwhile")
        _publish(partial, digest)
    return digest


@contextmanager
def workspace(locked: str) -> Iterator[tuple[Place, BinaryIO]]:
    """A folder in the store for unfinished work, see `partials.partial`. Raises OSError."""
    with store_folder.made() as shelf:
        partials.sweep(shelf)  # what killed ones left may be the very space that this one needs
        with partials.partial(shelf, locked) as begun:
            yield begun


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
    partial: Place, copy: BinaryIO, config: bytes, weights: BinaryIO, header: Header, progress: Progress | None,
    said: bytes, chosen: Collection[str],
) -> str:  # fmt: skip
    """`copy` becomes the weights; it stays open, as its lock says that somebody fills the folder."""
    kept, pieces = lora_part(weights, header, chosen)
    inspection = Inspection(kept)
    hasher = hashlib.sha256()
    done = 0
    if kept.file_size:
        os.posix_fallocate(copy.fileno(), 0, kept.file_size)
    for data in pieces:
        hasher.update(data)
        _write(copy, data)
        if done >= kept.data_start:
            inspection.feed(data)
        done += len(data)
        if progress is not None:
            progress(done / kept.file_size)
    os.fsync(copy.fileno())
    if weights.seek(0, os.SEEK_END) != header.file_size:
        raise Refused("changed_meanwhile")
    inspection.check_effect()
    for name, data in ((CONFIG, config), (PROMPTING, said)):
        if data:
            with partial.create(name) as file:
                _write(file, data)
                os.fsync(file.fileno())
    return combine(hashlib.sha256(config).hexdigest(), hasher.hexdigest(), prompting.digest_of(said))


def _write(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _publish(partial: Place, digest: str) -> None:
    """Make the finished folder visible under its digest; what is there already stays only where it is sound."""
    for name in (CONFIG, WEIGHTS, PROMPTING):
        if name != PROMPTING or partial.stat(name) is not None:
            set_mode(partial, name, 0o444)
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
