"""Uploads under way, on disk alone: `UPLOADS_DIR/.arriving/<id>/` with `manifest.json` and a numbered file for each
announced one. The length of a numbered file is what has arrived of it, so an upload goes on after a lost connection, a
closed page or a restart, and at any of several portals that share the folder.

An upload's id is the hash of who sends what: whoever announces the same files again goes on where it ended.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from django.conf import settings

from adapters.files import removal
from adapters.places import Elsewhere, Place, open_root
from adapters.training.layout import ARRIVING

from . import refusals
from .naming import MAX_FILES

MANIFEST = "manifest.json"
MANIFEST_LIMIT = 2**20  # bytes
ID = re.compile(r"[0-9a-f]{32}\Z")
KEPT_SECONDS = 24 * 3600.0  # after the last piece
RESERVE = 256 * 2**20  # bytes of the disk that uploads leave free
MOST_COUNTED = 100_000  # files of one user's uploads that are added up


@dataclass(frozen=True)
class Announced:
    path: str
    size: int


@dataclass(frozen=True)
class Upload:
    """`name`: of the folder that it shall become; "" where the server chooses. `received`: bytes of each file.
    `fetched`: by the portal itself, from a hub; nobody else writes to it."""

    id: str
    user: int
    name: str
    files: tuple[Announced, ...]
    received: tuple[int, ...]
    fetched: bool = False

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def shelf() -> Place:
    """`UPLOADS_DIR`, made where it is missing. Raises OSError."""
    Path(settings.UPLOADS_DIR).mkdir(parents=True, exist_ok=True)
    return open_root(os.path.realpath(settings.UPLOADS_DIR))


def folder_in(parent: Place, name: str) -> Place:
    """A folder there, made where it is missing. Raises OSError."""
    with suppress(FileExistsError):
        parent.make(name).close()
    return parent.below(name)


def id_of(user: int, name: str, files: list[tuple[str, int, int]]) -> str:
    """`files`: path, size and time of change of each, as its sender knows them."""
    text = json.dumps([user, name, files], separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def begin(user: int, name: str, files: list[tuple[str, int, int]], fetched: bool = False) -> tuple[Upload, bool]:
    """The upload of these files, and whether it is new. Raises ApiError, OSError."""
    key = id_of(user, name, files)
    with shelf() as root, folder_in(root, ARRIVING) as arriving:
        sweep(arriving)
        with suppress(FileNotFoundError):
            found = _read(arriving, key)
            if found.fetched == fetched:
                return found, False
            raise refusals.busy()
        size = sum(size for _, size, _ in files)
        check_room(root, arriving, user, size)
        manifest: dict[str, Any] = {"user": user, "name": name, "files": [[path, size] for path, size, _ in files]}
        if fetched:
            manifest["fetched"] = True
        # Whole before it has its name: a manifest is never half there.
        temporary = f"new-{key}-{os.urandom(4).hex()}"
        with arriving.make(temporary, 0o700) as place:
            with place.create(MANIFEST) as file:
                file.write(json.dumps(manifest).encode())
            for index in range(len(files)):
                place.create(str(index)).close()
            try:
                place.renamed(key).close()
            except OSError as error:
                removal.remove(place)
                if isinstance(error, Elsewhere):
                    raise
        return _read(arriving, key), True


def check_room(root: Place, arriving: Place, user: int, size: int) -> None:
    """Raises ApiError where the user's share or the disk has no room for so many bytes more."""
    used = used_by(root, arriving, user)
    if used + size > settings.UPLOAD_QUOTA_BYTES:
        raise refusals.over_quota(used, settings.UPLOAD_QUOTA_BYTES)
    if size + RESERVE > shutil.disk_usage(settings.UPLOADS_DIR).free:
        raise refusals.no_space()


def used_by(root: Place, arriving: Place, user: int) -> int:
    """Bytes of a user's uploads, those under way counted whole."""
    under_way = sum(upload.size for upload in _all(arriving) if upload.user == user)
    try:
        with root.below(str(user)) as own:
            return under_way + _size(own)
    except (FileNotFoundError, Elsewhere):  # (a link there is refused when it is to be filled)
        return under_way


def _size(folder: Place) -> int:
    total = counted = 0
    stack: list[tuple[str, ...]] = [()]
    while stack and counted < MOST_COUNTED:
        way = stack.pop()
        with suppress(OSError), folder.below(*way) as place:
            for name, is_folder in place.entries():
                counted += 1
                found = place.stat(name)
                if is_folder:
                    stack.append((*way, name))
                elif found is not None:
                    total += found.st_size
    return total


def of_user(user: int) -> list[Upload]:
    """A user's uploads under way, by name."""
    with shelf() as root, folder_in(root, ARRIVING) as arriving:
        own = (upload for upload in _all(arriving) if upload.user == user and not upload.fetched)
        return sorted(own, key=lambda upload: upload.name)


def find(user: int, key: str) -> Upload:
    """Raises FileNotFoundError, also for another user's."""
    with held(user, key) as (_, upload):
        return upload


@contextmanager
def held(user: int, key: str, fetched: bool = False) -> Iterator[tuple[Place, Upload]]:
    """The folder of an upload under way. Raises FileNotFoundError, also for another user's."""
    if not ID.match(key):
        raise FileNotFoundError(key)
    with shelf() as root, folder_in(root, ARRIVING) as arriving:
        upload = _read(arriving, key)
        if upload.user != user:
            raise FileNotFoundError(key)
        if upload.fetched != fetched:
            raise FileNotFoundError(key)
        with arriving.below(key) as place:
            yield place, upload


def _all(arriving: Place) -> list[Upload]:
    found = []
    for name, is_folder in arriving.entries():
        if is_folder and ID.match(name):
            with suppress(OSError, ValueError):
                found.append(_read(arriving, name))
    return found


def _read(arriving: Place, key: str) -> Upload:
    """Raises FileNotFoundError, OSError."""
    with arriving.below(key) as place:
        with os.fdopen(place.open(MANIFEST), "rb") as file:
            data = json.loads(file.read(MANIFEST_LIMIT))
        files = tuple(Announced(path, size) for path, size in data["files"])
        received = tuple(_length(place, index) for index in range(len(files)))
        return Upload(key, data["user"], data["name"], files, received, bool(data.get("fetched")))


def again(place: Place, upload: Upload) -> Upload:
    """With what has arrived by now."""
    return replace(upload, received=tuple(_length(place, index) for index in range(len(upload.files))))


def _length(place: Place, index: int) -> int:
    found = place.stat(str(index))
    return found.st_size if found is not None and stat.S_ISREG(found.st_mode) else 0


@contextmanager
def alone(place: Place, name: str, flags: int = os.O_RDWR) -> Iterator[int]:
    """A descriptor of a file there that no other request has in this way. Raises ApiError, OSError."""
    descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise refusals.busy() from None
        yield descriptor
    finally:
        os.close(descriptor)


def write(user: int, key: str, index: int, offset: int, data: bytes) -> int:
    """The next piece of a file; returns how much has arrived of it. Raises FileNotFoundError, ApiError, OSError."""
    with held(user, key) as (place, upload):
        if not 0 <= index < len(upload.files):
            raise FileNotFoundError(key)
        with alone(place, str(index)) as descriptor:
            arrived = os.fstat(descriptor).st_size
            if offset != arrived:
                raise refusals.wrong_offset(arrived)
            if arrived + len(data) > upload.files[index].size:
                raise refusals.wrong_offset(arrived)
            view = memoryview(data)
            try:
                while view:
                    view = view[os.pwrite(descriptor, view, offset) :]
                    offset = arrived + len(data) - len(view)
            except OSError:
                os.ftruncate(descriptor, arrived)
                raise
        os.utime(place.descriptor)  # a sign of life
        return arrived + len(data)


def cancel(user: int, key: str, fetched: bool = False) -> None:
    """Raises FileNotFoundError, ApiError while it is being finished, OSError."""
    with held(user, key, fetched) as (place, _), alone(place, MANIFEST):
        removal.remove(place)


def sweep(arriving: Place) -> list[str]:
    """Remove what nobody has continued for a day; returns the names."""
    removed = []
    for name, is_folder in arriving.entries():
        with suppress(OSError):
            found = arriving.stat(name)
            if not is_folder or found is None or time.time() - found.st_mtime < KEPT_SECONDS:
                continue
            with arriving.below(name) as place:
                removal.remove(place)
            removed.append(name)
    return removed


def sweep_all() -> list[str]:
    """`sweep`, where anything has been uploaded. Raises OSError."""
    if not os.path.isdir(settings.UPLOADS_DIR):
        return []
    with shelf() as root, folder_in(root, ARRIVING) as arriving:
        return sweep(arriving)


def limits() -> dict[str, int]:
    return {
        "max_bytes": settings.UPLOAD_MAX_BYTES,
        "quota_bytes": settings.UPLOAD_QUOTA_BYTES,
        "max_files": MAX_FILES,
        "piece_bytes": min(2**20, settings.DATA_UPLOAD_MAX_MEMORY_SIZE),
    }
