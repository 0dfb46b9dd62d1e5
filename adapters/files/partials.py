"""Unfinished folders in the store, each owned by a living process, and the removal of those whose owner is gone.

Who fills such a folder holds a lock on a file in it, which the kernel frees with the process, however that ends. Two
processes, also in two containers, may share a store: neither takes away what the other still writes. A lock may mean
nothing to another machine (network file systems differ), so a folder that another machine or an earlier boot has begun
goes only after an hour in which nobody wrote to it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import BinaryIO

from adapters import processes
from adapters.places import Place

from . import removal

PREFIX = ".partial-"
QUIET = 3600.0  # seconds without a write, after which what another machine has begun is given up
ATTEMPTS = 8


def machine() -> str:
    """Short name of this boot of this machine: within it the kernel's locks say who lives."""
    return hashlib.sha256((processes.boot() or socket.gethostname()).encode()).hexdigest()[:12]


def new_name() -> str:
    return f"{PREFIX}{machine()}-{secrets.token_hex(8)}"


@contextmanager
def partial(shelf: Place, locked: str) -> Iterator[tuple[Place, BinaryIO]]:
    """A new folder here and the empty file `locked` in it, open for writing and locked.

    Removed at the end with all that is in it, unless it was renamed. Raises OSError.
    """
    for _ in range(ATTEMPTS):
        with _begun(shelf, locked) as begun:
            if begun is not None:
                yield begun
                return
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), locked)


@contextmanager
def _begun(shelf: Place, locked: str) -> Iterator[tuple[Place, BinaryIO] | None]:
    """One attempt; None where somebody who cleans took the folder before it was locked."""
    with ExitStack() as held:
        begun = None
        with suppress(FileNotFoundError):
            place = held.enter_context(shelf.make(new_name(), 0o700))
            held.callback(_discard, shelf, place)
            file = held.enter_context(place.create(locked))
            with suppress(OSError):  # a file system without locks: age decides there
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:
                begun = place, file
        yield begun


def _discard(shelf: Place, place: Place) -> None:
    with suppress(OSError):  # cleaning comes by later
        if shelf.stat(place.name) is not None:
            removal.remove(place)


def sweep(shelf: Place) -> list[str]:
    """Remove the unfinished folders here that nobody fills any more; returns their names. What resists stays.

    Raises OSError where the shelf itself cannot be read.
    """
    removed = []
    for name in sorted(name for name, is_folder in shelf.entries() if is_folder and name.startswith(PREFIX)):
        with suppress(OSError), shelf.below(name) as folder:
            if _remove_abandoned(folder):
                removed.append(name)
    return removed


def is_abandoned(shelf: Place, name: str) -> bool:
    """Whether nobody fills this unfinished folder any more. A moment later it is still so, or the folder is gone.

    Raises OSError.
    """
    with shelf.below(name) as folder, _without_owner(folder) as (free, _):
        return free


def _remove_abandoned(folder: Place) -> bool:
    """Remove an unfinished folder unless somebody fills it; true where it was removed. Raises OSError."""
    with _without_owner(folder) as (free, names):
        if free and names:  # the locks are ours meanwhile: nobody takes it up while it goes
            removal.remove(folder)
        elif free:  # its owner may make and lock a file right now, with which it stays
            with folder.parent() as parent:
                parent.rmdir(folder.name)
        return free


@contextmanager
def _without_owner(folder: Place) -> Iterator[tuple[bool, list[str]]]:
    """Holds the locks of the folder's files where they are free.

    Says whether the folder has no owner, and the names of what lies in it.
    """
    with ExitStack() as held:
        names: list[str] = []
        try:
            quiet, known = _quiet(folder), True
            for name, _ in folder.entries():
                names.append(name)
                known = _lock(folder, name, held) and known
            free = known and folder.name.startswith(f"{PREFIX}{machine()}-") or quiet
        except (BlockingIOError, FileNotFoundError):  # owned; or finished or removed at this moment
            free = False
        yield free, names


def _lock(folder: Place, name: str, held: ExitStack) -> bool:
    """Lock a file until the end of `held`. False where locks say nothing here. Raises BlockingIOError: it is owned."""
    status = folder.stat(name)
    if status is None or not stat.S_ISREG(status.st_mode):
        return True
    descriptor = folder.open(name)
    held.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # (an exclusive one asks for a writable file on NFS)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _quiet(folder: Place) -> bool:
    """Whether nobody has written to it for an hour."""
    times = [os.fstat(folder.descriptor).st_mtime]
    times += [status.st_mtime for name, _ in folder.entries() if (status := folder.stat(name)) is not None]
    return time.time() - max(times) > QUIET
