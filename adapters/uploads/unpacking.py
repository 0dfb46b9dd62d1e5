"""Archives are read by a child process under limits of memory, time and size; it writes below one open folder."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from django.conf import settings

import launching
from adapters.places import Place

from . import refusals
from .naming import MAX_FILES

CHILD = Path(__file__).with_name("unpack_child.py")
TIMEOUT = 900.0  # seconds


@dataclass(frozen=True)
class Unpacked:
    """`left_out`: some of the paths that are of no kind that is kept."""

    files: int
    left_out: tuple[str, ...] = ()
    left_out_count: int = 0


def unpack(archive: BinaryIO, name: str, folder: Place) -> Unpacked:
    """Write the files of an archive below an empty folder. Raises ApiError, OSError."""
    words = [
        sys.executable, "-I", str(CHILD), str(folder.descriptor), name, str(settings.UPLOAD_MAX_BYTES),
        str(MAX_FILES), str(os.getpid()),
    ]  # fmt: skip
    environment = launching.of_these(PATH="/usr/bin:/bin", LANG="C.UTF-8", HOME="/")
    try:
        done = launching.run(words, environment, stdin=archive, timeout=TIMEOUT, descriptors=(folder.descriptor,))
    except launching.TookTooLongError:
        raise refusals.refused("too_long") from None
    said = _said(done.output) if done.status == 0 else None
    if said is None:  # the kernel ended it: at its limit of time, or of memory
        raise refusals.refused("too_long" if done.status < 0 else "damaged")
    if "refused" in said:
        if said["refused"] == "space":
            raise refusals.no_space()
        raise refusals.refused(said["refused"], str(said["path"]), MAX_FILES)
    return Unpacked(int(said["files"]), tuple(map(str, said["left_out"])), int(said["left_out_count"]))


def _said(output: bytes) -> dict[str, Any] | None:
    try:
        said = json.loads(output)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None
