"""What was seen of a stored copy when it was last read to its end: `RUN_DIR/checked/<digest>`.

A note only saves work. Where there is none, or it can neither be read nor written, the copy is read again in its turn.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from django.conf import settings

from adapters import store

logger = logging.getLogger(__name__)

FOLDER = "checked"
LONGEST = 1000  # characters


class Note(NamedTuple):
    """`state` as `store.state` gave it before the copy was read; `when` in seconds since the epoch."""

    state: str
    when: float


NOTHING = Note("", 0.0)


def _folder() -> Path:
    return Path(settings.RUN_DIR) / FOLDER


def read(digest: str) -> Note:
    """The note on a copy; `NOTHING` where there is none."""
    if not store.DIGEST.match(digest):
        return NOTHING
    try:
        with open(_folder() / digest, encoding="ascii", errors="replace") as file:
            return Note(file.read(LONGEST), os.fstat(file.fileno()).st_mtime)
    except OSError:
        return NOTHING


def write(digest: str, state: str | None) -> None:
    """Note that the copy was sound, read after it had looked like `state`."""
    if not state:
        return
    folder = _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".", encoding="ascii", delete=False) as file:
            file.write(state)
        os.replace(file.name, folder / digest)
    except OSError as error:
        logger.warning("it cannot be noted which stored copies were read: %s", error)


def keep(digests: Iterable[str]) -> None:
    """Drop the notes on all other copies."""
    kept = set(digests)
    try:
        names = os.listdir(_folder())
    except OSError:
        return
    for name in names:
        if name not in kept and store.DIGEST.match(name):
            (_folder() / name).unlink(missing_ok=True)
