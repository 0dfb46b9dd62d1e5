"""What has arrived whole goes to `UPLOADS_DIR/<user's id>/<name>/` by one rename; a scan then finds it."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

from django.conf import settings

from adapters.files import removal
from adapters.places import Elsewhere, Place
from adapters.training.layout import CONFIG

from . import naming, refusals
from .arriving import MANIFEST, Upload, alone, folder_in, held, shelf
from .unpacking import Unpacked, unpack

UNPACKED = "unpacked"
ATTEMPTS = 1000  # names that are tried where one is taken


@dataclass(frozen=True)
class Finished:
    """`folder`: its path from `UPLOADS_DIR` on."""

    folder: str
    files: int
    left_out: tuple[str, ...]
    left_out_count: int


def finish(user: int, key: str) -> Finished:
    """Raises FileNotFoundError, ApiError, OSError. A refused upload stays, so that the sender may look; it ends by
    `cancel` or by age."""
    with held(user, key) as (place, upload), alone(place, MANIFEST):
        return finish_held(place, upload)


def finish_held(place: Place, upload: Upload) -> Finished:
    """`finish`, for whoever holds the upload's lock. Raises ApiError, OSError."""
    for file, received in zip(upload.files, upload.received, strict=True):
        if received != file.size:
            raise refusals.incomplete(file.path)
    with _emptied(place) as ready:
        contents = _fill(place, ready, upload)
        _check(ready)
        folder = _publish(ready, upload.user, _name(upload, ready))
    with suppress(OSError):  # swept later
        removal.remove(place)
    return Finished(folder, contents.files, contents.left_out, contents.left_out_count)


def path_of(folder: str) -> str:
    """Where a finished upload lies."""
    return f"{os.path.realpath(settings.UPLOADS_DIR)}/{folder}"


def _emptied(place: Place) -> Place:
    """The folder to fill; what an attempt that was cut off left in it goes."""
    with suppress(FileNotFoundError), place.below(UNPACKED) as old:
        removal.remove(old)
    return place.make(UNPACKED, 0o755)


def _fill(place: Place, ready: Place, upload: Upload) -> Unpacked:
    if len(upload.files) == 1 and naming.is_archive(upload.files[0].path):
        with os.fdopen(place.open("0"), "rb", buffering=0) as archive:
            return unpack(archive, upload.files[0].path, ready)  # type: ignore[arg-type]
    for index, file in enumerate(upload.files):
        parts = naming.parts_of(file.path)
        if isinstance(parts, str):  # judged when it was announced
            raise refusals.refused(parts, file.path)
        _link(place, str(index), ready, parts)
    return Unpacked(len(upload.files))


def _link(place: Place, name: str, ready: Place, parts: tuple[str, ...]) -> None:
    """Give a file that has arrived its own name, too: nothing is copied, and it stays should this be cut off."""
    target = ready.below()
    try:
        for part in parts[:-1]:
            deeper = folder_in(target, part)
            target.close()
            target = deeper
        os.link(name, parts[-1], src_dir_fd=place.descriptor, dst_dir_fd=target.descriptor, follow_symlinks=False)
    except (FileExistsError, NotADirectoryError):
        raise refusals.refused("twice", "/".join(parts)) from None
    finally:
        target.close()


def _names(folder: Place) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    stack: list[tuple[str, ...]] = [()]
    while stack:
        way = stack.pop()
        with folder.below(*way) as place:
            for name, is_folder in place.entries():
                (stack if is_folder else found).append((*way, name))
    return found


def _check(ready: Place) -> None:
    if not any(parts[-1] == CONFIG for parts in _names(ready)):
        raise refusals.refused("no_adapter")


def _name(upload: Upload, ready: Place) -> str:
    """What the sender called it, else the archive's name, else the one folder that everything lies in."""
    if upload.name:
        return naming.folder_name(upload.name)
    if len(upload.files) == 1 and naming.is_archive(upload.files[0].path):
        return naming.folder_name(naming.stem(upload.files[0].path.rpartition("/")[2]))
    tops = {name for name, _ in ready.entries()}
    return naming.folder_name(tops.pop() if len(tops) == 1 else "adapter")


def _publish(ready: Place, user: int, name: str) -> str:
    """Move the filled folder to the user's own; without the one folder around everything. Returns its path."""
    entries = ready.entries()
    if len(entries) == 1 and entries[0][1]:
        with ready.below(entries[0][0]) as inner:
            return publish(inner, user, name)
    return publish(ready, user, name)


def publish(folder: Place, user: int, name: str) -> str:
    """Move a folder to the user's own, under this name or one made of it; returns its path from `UPLOADS_DIR` on.

    Raises OSError.
    """
    with shelf() as root, folder_in(root, str(user)) as own:
        for number in range(1, ATTEMPTS):
            free = name if number == 1 else f"{name}-{number}"
            if own.stat(free) is None:
                with folder.parent() as parent:
                    parent.rename(folder.name, own, free)
                return f"{user}/{free}"
    raise Elsewhere(name)
