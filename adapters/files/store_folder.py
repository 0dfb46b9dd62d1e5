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
    """Remove an entry with all that is in it, or the link that lies in its place; nothing is no error.

    It goes out of the way by one rename first, so that no half of an entry is ever seen. Raises OSError.
    """
    with opened() as shelf:
        try:
            place = shelf.below(name)
        except FileNotFoundError:
            return
        except (Elsewhere, NotADirectoryError):
            shelf.unlink(name)
            return
        with place:
            if name.startswith(PARTIAL):
                removal.remove(place)
                return
            with place.renamed(f"{partials.new_name()}-{name}") as aside:
                removal.remove(aside)


def size(name: str) -> int:
    """Bytes of the files in an entry; 0 for a link. Raises OSError."""
    with opened() as shelf:
        try:
            place = shelf.below(name)
        except (FileNotFoundError, NotADirectoryError, Elsewhere):
            return 0
        with place:
            return removal.size(place)
