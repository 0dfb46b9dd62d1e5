"""What was seen of a stored copy when it was last read to its end: `RUN_DIR/checked/<digest>`, and of what is published
of it elsewhere: `RUN_DIR/published/<digest>`.

A note only saves work. Where there is none, the copy is read again in its turn. One that cannot be written is kept in
this process: without it one copy alone would be read, again and again.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from django.conf import settings

from adapters import store

logger = logging.getLogger(__name__)

STORED, PUBLISHED = "checked", "published"
LONGEST = 1000  # characters


class Note(NamedTuple):
    """`state` as `store.state` gave it before the copy was read; `when` in seconds since the epoch."""

    state: str
    when: float


NOTHING = Note("", 0.0)
_unwritten: dict[str, Note] = {}  # by the paths where they should lie
MOST_UNWRITTEN = 10_000


def _folder(kind: str) -> Path:
    return Path(settings.RUN_DIR) / kind


def read(digest: str, kind: str = STORED) -> Note:
    """The note on a copy; `NOTHING` where there is none."""
    if not store.DIGEST.match(digest):
        return NOTHING
    path = str(_folder(kind) / digest)
    here = _unwritten.get(path, NOTHING)
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            written = Note(file.read(LONGEST), os.fstat(file.fileno()).st_mtime)
    except OSError:
        return here
    return max(written, here, key=lambda note: note.when)


def write(digest: str, state: str | None, kind: str = STORED) -> None:
    """Note that the copy was sound, read after it had looked like `state`."""
    if not state:
        return
    folder = _folder(kind)
    path = str(folder / digest)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".", encoding="ascii", delete=False) as file:
            file.write(state)
        os.replace(file.name, path)
        _unwritten.pop(path, None)
    except OSError as error:
        _unwritten.pop(path, None)
        while len(_unwritten) >= MOST_UNWRITTEN:
            _unwritten.pop(next(iter(_unwritten)), None)
        _unwritten[path] = Note(state, time.time())
        logger.warning("it cannot be noted which stored copies were read: %s", error)


def keep(digests: Iterable[str], kind: str = STORED) -> None:
    """Drop the notes on all other copies."""
    kept, folder = set(digests), _folder(kind)
    for path in list(_unwritten):
        if os.path.dirname(path) == str(folder) and os.path.basename(path) not in kept:
            _unwritten.pop(path, None)
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        if name not in kept and store.DIGEST.match(name):
            try:
                (folder / name).unlink(missing_ok=True)
            except OSError as error:  # one note too many does no harm
                logger.warning("the note on the stored copy %s stays: %s", name, error)
