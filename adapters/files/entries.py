"""Entries of a folder that appear and go by one rename: `<digest>/` in the store, and where a fleet finds adapters.

Worked in by descriptors: a link that somebody put there is never followed.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from adapters.places import Elsewhere, Place

from . import partials, removal

TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


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


@contextmanager
def aside(shelf: Place, name: str) -> Iterator[Place | None]:
    """The folder `name` under another name; None where there was none, or a link or file, which is removed.

    An unfinished folder keeps its name. Raises OSError.
    """
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
        if name.startswith(partials.PREFIX):
            yield place
            return
        try:
            moved = place.renamed(f"{partials.new_name()}-{name}")
        except FileNotFoundError:  # somebody else has removed it meanwhile
            yield None
            return
        with moved:
            yield moved


def size(shelf: Place, name: str) -> int:
    """Bytes of the files in an entry; 0 for a link, a file or nothing. Raises OSError."""
    try:
        with shelf.below(name) as place:
            return removal.size(place)
    except (FileNotFoundError, NotADirectoryError, Elsewhere):
        return 0
