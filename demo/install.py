"""Install the demo adapters, and broken ones beside them, into a directory that is scanned for adapters.

Run: ``python -m demo.install [--adapters-dir var/adapters] [--restore]``. Safe to repeat: a folder that is in
place stays untouched, a changed file is never overwritten, and a folder that was deleted since stays deleted
unless ``--restore`` asks for it. What was written is recorded in ``.loraportal-demo.json`` beside them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import stat
import sys
import time
from contextlib import ExitStack, suppress
from io import BufferedWriter
from pathlib import Path

from adapters.files.removal import remove
from adapters.places import Elsewhere, Place, open_root
from demo.broken import Files, broken_adapters

SOURCE = Path(__file__).parent / "adapters"
GOOD_FOR_BROKEN = "pirate"
RECORD = ".loraportal-demo.json"
# Files that were written a moment ago may still be growing, so a scan waits for them; these are finished.
AGE_SECONDS = 3600
Record = dict[str, dict[str, str]]


class DemoInstallError(Exception):
    """The demo adapters cannot be installed; the text says why and what to do."""


def say(text: str) -> None:
    """Print one line of progress."""
    sys.stdout.write(text + "\n")


def digest(data: bytes) -> str:
    """Return the SHA-256 of ``data`` as hex."""
    return hashlib.sha256(data).hexdigest()


def committed_adapters(source: Path) -> dict[str, Files]:
    """Return folder name → files of the committed training output."""
    folders = sorted(path for path in source.iterdir() if path.is_dir()) if source.is_dir() else []
    adapters = {
        folder.name: {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        for folder in folders
    }
    if GOOD_FOR_BROKEN not in adapters:
        raise DemoInstallError(
            f"The trained adapter {GOOD_FOR_BROKEN} is missing from {source}: restore it from the repository"
            " or run `python -m demo.train`."
        )
    return adapters


def read_record(path: Path) -> Record:
    """Return what earlier installations wrote: folder → file → SHA-256; empty where nothing is known."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def make_old(folder: Place) -> None:
    """Set the times of a folder and all it holds to an hour ago, of links their own."""
    then = time.time() - AGE_SECONDS
    for name, is_folder in folder.entries():
        if is_folder:
            with folder.below(name) as inner:
                make_old(inner)
        else:
            os.utime(name, (then, then), dir_fd=folder.descriptor, follow_symlinks=False)
    os.utime(folder.descriptor, (then, then))


def write_file(folder: Place, name: str, data: bytes) -> None:
    """Write or replace a file, whose name may hold folders; it appears only when it is whole. Raises OSError."""
    *above, last = name.split("/")
    with ExitStack() as opened:
        for part in above:
            missing = folder.stat(part) is None
            folder = opened.enter_context(folder.make(part) if missing else folder.below(part))
        partial = f".{last}.{secrets.token_hex(6)}.partial"
        with BufferedWriter(folder.create(partial)) as file:  # type: ignore[arg-type]
            file.write(data)
        folder.rename(partial, folder, last)


def found_digest(folder: Place, name: str) -> str | None:
    """The SHA-256 of a file; None where there is nothing, "" where there is a link or something else."""
    *above, last = name.split("/")
    try:
        with folder.below(*above) as place:
            info = place.stat(last)
            if info is None or not stat.S_ISREG(info.st_mode):
                return None if info is None else ""
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            with open(os.open(last, flags, dir_fd=place.descriptor), "rb") as file:
                return digest(file.read())
    except FileNotFoundError:
        return None
    except (Elsewhere, NotADirectoryError):
        return ""


def write_new_folder(top: Place, name: str, files: Files) -> None:
    """Write ``files`` as the folder ``name``, which appears only when it is whole."""
    with top.make(f".{name}-{secrets.token_hex(6)}", 0o700) as partial:
        try:
            for file, data in files.items():
                write_file(partial, file, data)
            make_old(partial)
            os.fchmod(partial.descriptor, 0o755)
            partial.renamed(name).close()
        except BaseException:
            with suppress(OSError):
                remove(partial)
            raise


def update_folder(target: Place, files: Files, written: dict[str, str]) -> tuple[int, list[str]]:
    """Bring an existing folder up to date; return how many files were written and which were left alone.

    A file is replaced only where it still is what an earlier installation wrote (``written``).
    """
    changed = 0
    kept: list[str] = []
    for name, data in files.items():
        found = found_digest(target, name)
        if found == digest(data):
            continue
        if found is not None and found != written.get(name):
            kept.append(name)
            continue
        write_file(target, name, data)
        changed += 1
    if changed:
        make_old(target)
    return changed, kept


def install_folder(top: Place, name: str, files: Files, written: dict[str, str] | None, restore: bool) -> str:
    """Install one adapter folder and return what was done, as a sentence's end."""
    info = top.stat(name)
    if info is None:
        if written is not None and not restore:
            return "was deleted, stays deleted (--restore brings it back)"
        write_new_folder(top, name, files)
        return "installed"
    if not stat.S_ISDIR(info.st_mode):
        return "left alone: the name is taken by something else"
    with top.below(name) as target:
        changed, kept = update_folder(target, files, written or {})
    parts = [f"{changed} file(s) updated"] if changed else []
    if kept:
        parts.append(f"left alone where it was changed: {', '.join(kept)}")
    return "; ".join(parts) or "already in place"


def install(adapters_dir: Path, source: Path = SOURCE, restore: bool = False) -> dict[str, str]:
    """Install all demo adapters into ``adapters_dir``; return folder name → what was done.

    Raises DemoInstallError where the committed adapters are missing or not whole, or the disk refuses.
    """
    adapters = committed_adapters(source)
    try:
        adapters |= broken_adapters(source / GOOD_FOR_BROKEN)
    except (ValueError, KeyError, OSError) as error:
        raise DemoInstallError(
            f"The trained adapter {GOOD_FOR_BROKEN} in {source} is damaged: restore it from the repository."
        ) from error
    outcome: dict[str, str] = {}
    try:
        adapters_dir.mkdir(parents=True, exist_ok=True)
        record = read_record(adapters_dir / RECORD)
        with open_root(os.path.realpath(adapters_dir)) as top:
            for name, files in adapters.items():
                outcome[name] = install_folder(top, name, files, record.get(name), restore)
                record[name] = {file: digest(data) for file, data in files.items()}
            write_file(top, RECORD, json.dumps(record, indent=1, sort_keys=True).encode())
    except OSError as error:
        raise DemoInstallError(
            f"{adapters_dir} cannot be written ({error.strerror or error}): free some space or choose another folder."
        ) from error
    return outcome


def main(argv: list[str] | None = None) -> int:
    """Command line entry; returns the exit status."""
    parser = argparse.ArgumentParser(description="Install the demo adapters into an adapter directory.")
    parser.add_argument("--adapters-dir", type=Path, default=Path("var/adapters"))
    parser.add_argument("--restore", action="store_true", help="bring back demo folders that were deleted")
    arguments = parser.parse_args(argv)
    try:
        outcome = install(arguments.adapters_dir, restore=arguments.restore)
    except DemoInstallError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for name, text in outcome.items():
        say(f"{arguments.adapters_dir / name}: {text}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
