"""The store's folder, worked in by descriptors: a link that somebody put there is never followed.

`STORE_DIR` itself may be a link, to a larger disk for example.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from django.conf import settings

from adapters.places import Place, open_root

from . import entries, partials, removal

PARTIAL = partials.PREFIX
publish = entries.publish


def opened() -> Place:
    """The store's folder. Raises OSError."""
    return open_root(os.path.realpath(settings.STORE_DIR))


def made() -> Place:
    """The store's folder, made where it is missing. Raises OSError."""
    Path(settings.STORE_DIR).mkdir(parents=True, exist_ok=True)
    return opened()


def remove(name: str) -> None:
    """Remove an entry with all that is in it, or the link or file that lies in its place; nothing is no error.

    It goes out of the way by one rename first, so that no half of an entry is ever seen. Raises OSError.
    """
    with suppress(FileNotFoundError), opened() as shelf, entries.aside(shelf, name) as aside:
        if aside is not None:
            removal.remove(aside)


def discard(name: str) -> None:
    """As `remove`, but for the place alone: what cannot be removed is out of the way, and cleaning comes by later.

    Raises OSError where it stays in the way.
    """
    with suppress(FileNotFoundError), opened() as shelf, entries.aside(shelf, name) as aside:
        if aside is not None:
            with suppress(OSError):
                removal.remove(aside)


def size(name: str) -> int:
    """Bytes of the files in an entry; 0 for a link. Raises OSError."""
    try:
        with opened() as shelf:
            return entries.size(shelf, name)
    except FileNotFoundError:
        return 0
