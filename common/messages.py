"""Compile the translations. In Python, so that nobody needs the gettext tools to start the portal."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import polib


def compile_messages(folders: Iterable[Path]) -> list[Path]:
    """Compile every `.po` that is newer than its `.mo`; fuzzy entries are left out. Returns what was written.

    Raises OSError where the file is malformed (with its line) or cannot be written.
    """
    written: list[Path] = []
    for folder in folders:
        for source in sorted(Path(folder).glob("*/LC_MESSAGES/*.po")):
            target = source.with_suffix(".mo")
            if target.exists() and target.stat().st_mtime_ns == source.stat().st_mtime_ns:
                continue
            partial = target.with_name(f".{target.name}.{os.getpid()}")
            try:
                polib.pofile(str(source)).save_as_mofile(str(partial))
                # The same time as the source: an older checkout of it must be compiled again as well.
                os.utime(partial, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
            written.append(target)
    return written
