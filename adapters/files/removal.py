"""Removing a folder with all that is in it, by descriptors alone: see `places.py` for what that rules out.

Folders inside are not descended into. Each is emptied where it is one level down, and folders found in it are moved
up first, so that neither depth nor the limit of open files matters.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections import deque
from collections.abc import Callable, Collection, Iterator
from itertools import count

from adapters.places import Elsewhere, OtherMount, Place

Step = Callable[[], None]
FILLED = (errno.ENOTEMPTY, errno.EEXIST)
LATE = 1000  # entries that others may add meanwhile before it is given up
DEEPEST = 64  # levels that are looked at beforehand


def remove(place: Place, step: Step = lambda: None) -> None:
    """Remove the folder and all in it. Links are removed, never followed; no other mount than the root's is entered.

    `step` is called before each entry. What vanishes meanwhile is no error. Raises OtherMount, Elsewhere, OSError; part
    of it may be gone by then.
    """
    _Removal(place, step).run()


class _Removal:
    def __init__(self, place: Place, step: Step) -> None:
        self.place, self.step = place, step
        self.mount = place.root.mount
        if place.mount != self.mount:
            raise OtherMount(place.name)
        self.token, self.numbers = secrets.token_hex(8), count()
        self.late = 0

    def run(self) -> None:
        entries = self.place.entries()
        while entries or not self._removed():
            self._round(entries)
            entries = self.place.entries()
            for name, _ in entries:
                if not name.startswith(self.token):  # put there meanwhile, or it comes back
                    self._later(OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), name))

    def _removed(self) -> bool:
        try:
            with self.place.parent() as parent:
                os.rmdir(self.place.name, dir_fd=parent.descriptor)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._later(error)
            return False
        return True

    def _round(self, entries: list[tuple[str, bool]]) -> None:
        for name, is_folder in entries:
            self.step()
            if is_folder:
                self._folder(name)
            else:
                self._entry(self.place, name)

    def _folder(self, name: str) -> None:
        """Empty a folder in the first level and remove it, or what another one has put under its name."""
        try:
            child = self.place.below(name)
        except FileNotFoundError:
            return
        except (Elsewhere, NotADirectoryError):
            self._entry(self.place, name)
            return
        with child:
            if child.mount != self.mount:
                raise OtherMount(name)
            for entry, is_folder in child.entries():
                self.step()
                if is_folder:
                    self._lift(child, entry)
                else:
                    self._entry(child, entry)
        try:
            self.place.rmdir(name)
        except FileNotFoundError:
            return
        except OSError as error:
            self._later(error)

    def _entry(self, folder: Place, name: str) -> None:
        try:
            folder.unlink(name)
        except FileNotFoundError:
            return
        except IsADirectoryError as error:
            self._later(error)

    def _lift(self, folder: Place, name: str) -> None:
        """Remove an empty folder; move another up into the first level, for the next round."""
        try:
            try:
                folder.rmdir(name)
            except OSError as error:
                if error.errno not in FILLED:
                    raise
                folder.rename(name, self.place, f"{self.token}-{next(self.numbers)}")
        except FileNotFoundError:
            return
        except NotADirectoryError as error:
            self._later(error)

    def _later(self, error: OSError) -> None:
        """Somebody wrote there meanwhile: once more round, but not without end."""
        self.late += 1
        if self.late > LATE or error.errno not in (*FILLED, errno.EISDIR, errno.ENOTDIR):
            raise error


def folders(place: Place, without: Collection[str] = ()) -> Iterator[Place]:
    """The folder and those in it to a depth of 64, each open until the next; what vanishes is passed over.

    `without`: names in the first level that are left out. Raises OtherMount at a mounted folder, and OSError where one
    cannot be read.
    """
    mount = place.root.mount
    waiting: deque[tuple[str, ...]] = deque([()])
    while waiting:
        names = waiting.popleft()
        try:
            found = place.below(*names)
        except (FileNotFoundError, NotADirectoryError, Elsewhere):
            continue
        with found:
            if found.mount != mount:
                raise OtherMount(found.name)
            if len(names) < DEEPEST:
                inner = [name for name, is_folder in found.entries() if is_folder]
                waiting.extend((*names, name) for name in inner if names or name not in without)
            yield found


def rehearse(place: Place, kept: Collection[str] = ()) -> None:
    """Look for what would stop a removal half-way. Raises OtherMount, OSError.

    `kept`: names of the folders in it that will stay, and it with them, so that its own parent need not be writable.
    Not seen beforehand: files that the file system itself protects, and what lies deeper than 64 levels.
    """
    if not kept:
        with place.parent() as parent:
            _writable(parent)
    for folder in folders(place, kept):
        if folder.entries():
            _writable(folder)


def _writable(folder: Place) -> None:
    if not os.access(".", os.W_OK | os.X_OK, dir_fd=folder.descriptor, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def size(place: Place) -> int:
    """Bytes of the regular files in it, to a depth of 64 levels. Raises as `folders`."""
    total = 0
    for folder in folders(place):
        for name, is_folder in folder.entries():
            info = None if is_folder else folder.stat(name)
            if info is not None and stat.S_ISREG(info.st_mode):
                total += info.st_size
    return total
