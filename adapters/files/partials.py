"""Unfinished folders in the store, each owned by a living process, and the removal of those whose owner is gone.

Who fills such a folder holds a lock on a file in it, which the kernel frees with the process, however that ends. Two
processes, also in two containers, may share a store: neither takes away what the other still writes. A lock may mean
nothing to another machine (network file systems differ), so a folder that another machine or an earlier boot has begun
goes only after an hour in which nobody wrote to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from adapters import processes

PREFIX = ".partial-"
QUIET = 3600.0  # seconds without a write, after which what another machine has begun is given up
ATTEMPTS = 8


def machine() -> str:
    """Short name of this boot of this machine: within it the kernel's locks say who lives."""
    return hashlib.sha256((processes.boot() or socket.gethostname()).encode()).hexdigest()[:12]


def new_name() -> str:
    return f"{PREFIX}{machine()}-{secrets.token_hex(8)}"


def own(file: BinaryIO) -> None:
    """Say that this process fills the folder in which the file lies, for as long as the file is open."""
    with contextlib.suppress(OSError):  # a file system without locks: age decides there
        fcntl.flock(file, fcntl.LOCK_EX)


@contextlib.contextmanager
def partial(root: Path, locked: str) -> Iterator[tuple[Path, BinaryIO]]:
    """A new folder in `root` and the empty file `locked` in it, open for writing and locked.

    What is left of the folder at the end is removed; renamed away, it stays. Raises OSError.
    """
    folder, file = _begin(root, locked)
    try:
        with file:
            yield folder, file
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _begin(root: Path, locked: str) -> tuple[Path, BinaryIO]:
    for attempt in range(ATTEMPTS):
        folder = root / new_name()
        folder.mkdir(mode=0o700)
        try:
            file = open(folder / locked, "xb", buffering=0)
            own(file)
            if os.fstat(file.fileno()).st_nlink:
                return folder, file
            file.close()
        except FileNotFoundError:
            if attempt + 1 == ATTEMPTS:
                raise
        # Somebody who cleans came between: the folder was not locked yet.
    raise FileNotFoundError(str(root))


def sweep(root: Path) -> list[Path]:
    """Remove the unfinished folders in `root` that nobody fills any more; returns them. What resists stays."""
    try:
        with os.scandir(root) as entries:
            names = [e.name for e in entries if e.name.startswith(PREFIX) and e.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    removed = []
    for path in (root / name for name in sorted(names)):
        with contextlib.suppress(OSError):
            if remove_abandoned(path):
                removed.append(path)
    return removed


def is_abandoned(path: Path) -> bool:
    """Whether nobody fills this unfinished folder any more. A moment later it is still so, or the folder is gone."""
    with _without_owner(path) as free:
        return free


def remove_abandoned(path: Path) -> bool:
    """Remove an unfinished folder unless somebody fills it; true where it was removed. Raises OSError."""
    with _without_owner(path) as free:  # the locks are ours meanwhile: nobody takes it up while it goes
        if free:
            discard(path)
        return free


def aside(path: Path) -> Path:
    """Where to rename an entry that is to be removed: should that be cut off, a later sweep finishes it."""
    return path.with_name(f"{PREFIX}{machine()}-{path.name}")


def discard(path: Path) -> None:
    """Remove a folder that somebody else may be removing as well. Raises OSError."""

    def failed(_function: object, _path: str, error: tuple[type[BaseException], BaseException, object]) -> None:
        if not isinstance(error[1], FileNotFoundError):
            raise error[1]

    shutil.rmtree(path, onerror=failed)


@contextlib.contextmanager
def _without_owner(path: Path) -> Iterator[bool]:
    """Holds the locks of the folder's files where they are free; says whether the folder has no owner."""
    with contextlib.ExitStack() as held:
        try:
            quiet, known = _quiet(path), True
            for name in os.listdir(path):
                known = _lock(path / name, held) and known
        except BlockingIOError:
            yield False
            return
        except FileNotFoundError:  # finished, or removed, at this moment
            yield False
            return
        ours = path.name.startswith(f"{PREFIX}{machine()}-")
        yield ours and known or quiet


def _lock(path: Path, held: contextlib.ExitStack) -> bool:
    """Lock a file until the end of `held`. False where locks say nothing here. Raises BlockingIOError: it is owned."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        return True
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    held.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # (an exclusive one asks for a writable file on NFS)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _quiet(path: Path) -> bool:
    """Whether nobody has written to it for an hour. Raises FileNotFoundError, NotADirectoryError."""
    times = [path.lstat().st_mtime, *((path / name).lstat().st_mtime for name in os.listdir(path))]
    return time.time() - max(times) > QUIET
