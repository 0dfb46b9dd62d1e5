"""The store's folder, worked in by descriptors: a link that somebody put there is never followed.

`STORE_DIR` itself may be a link, to a larger disk for example.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from django.conf import settings

from adapters.places import Elsewhere, Place, open_root

from . import partials, removal

PARTIAL = partials.PREFIX
TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


@contextmanager
def opened() -> Iterator[Place]:
    """The store's folder, made where it is missing. Raises OSError."""
    path = Path(settings.STORE_DIR)
    path.mkdir(parents=True, exist_ok=True)
    with open_root(os.path.realpath(path)) as place:
        yield place


@contextmanager
def partial(shelf: Place, locked: str) -> Iterator[tuple[Place, BinaryIO]]:
    """A new folder for an entry that is being written, and the empty file `locked` in it, open for writing and locked.

    The lock says that somebody fills the folder (`partials.py`). Removed at the end, unless published. Raises OSError.
    """
    name = partials.new_name()
    with shelf.make(name, 0o700) as place:
        try:
            with place.create(locked) as file:
                partials.own(file)
                yield place, file
        finally:
            if shelf.stat(name) is not None:  # not published
                with suppress(OSError):  # cleaning comes by later
                    removal.remove(place)


def publish(place: Place, name: str) -> bool:
    """Give a finished folder its name; False where something is in the way.

    Raises OSError, and Elsewhere where another folder was put in its place at the last moment.
    """
    try:
        place.renamed(name).close()
    except OSError as error:
        if isinstance(error, Elsewhere) or error.errno not in TAKEN:
            raise
        return False
    return True


def remove(name: str) -> None:
    """Remove an entry with all that is in it, or the link or file that lies in its place; nothing is no error.

    It goes out of the way by one rename first, so that no half of an entry is ever seen. Raises OSError.
    """
    with opened() as shelf, _aside(shelf, name) as aside:
        if aside is not None:
            removal.remove(aside)


def discard(name: str) -> None:
    """As `remove`, but for the place alone: what cannot be removed is out of the way, and cleaning comes by later.

    Raises OSError where it stays in the way.
    """
    with opened() as shelf, _aside(shelf, name) as aside:
        if aside is not None:
            with suppress(OSError):
                removal.remove(aside)


@contextmanager
def _aside(shelf: Place, name: str) -> Iterator[Place | None]:
    """The folder `name` under another name; None where there was none, or a link or file, which is removed."""
    try:
        place = shelf.below(name)
    except FileNotFoundError:
        yield None
        return
    except (Elsewhere, NotADirectoryError):
        with suppress(FileNotFoundError):
            shelf.unlink(name)
        yield None
        return
    with place:
        if name.startswith(PARTIAL):
            yield place
            return
        try:
            aside = place.renamed(f"{partials.new_name()}-{name}")
        except FileNotFoundError:  # somebody else has removed it meanwhile
            yield None
            return
        with aside:
            yield aside


def size(name: str) -> int:
    """Bytes of the files in an entry; 0 for a link. Raises OSError."""
    with opened() as shelf:
        try:
            place = shelf.below(name)
        except (FileNotFoundError, NotADirectoryError, Elsewhere):
            return 0
        with place:
            return removal.size(place)
