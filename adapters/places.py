"""Folders below a root, held by descriptors: what is done in one stays in it, wherever its path leads meanwhile.

The kernel looks a path up anew at every call, so whoever may write in a folder on the way can swap that folder for a
link between two calls. Here the way is walked name by name from the root's descriptor, no link on it is followed, and
all work is done relative to the descriptor of the folder that was found.

The root itself may be a link, or lie behind links: that is the operator's choice, resolved before it is opened. Who
may change the folders above a root decides what the root is.

A held folder can still be moved out of the root. `check` walks again and refuses that; it is called right before each
change. Between that walk and the change remains a moment which no call of the kernel closes: a folder that is moved
exactly then loses one entry of its own at its new place. Nothing that was never in the folder can be touched.

Knows neither Django nor the rest of the project.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from types import TracebackType
from typing import BinaryIO

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OLD_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # (a pipe must not hold the server up)
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Elsewhere(OSError):  # noqa: N818
    """The way holds a link or "..", or does not lead to the folder any more that it led to."""


class OtherMount(OSError):  # noqa: N818
    """Another file system, or another part of the same one, is mounted there."""

    def __init__(self, name: str) -> None:
        super().__init__(errno.EXDEV, os.strerror(errno.EXDEV), name)


def _step(name: str, parent: int) -> int:
    """A descriptor of the folder `name` in `parent`. Raises OSError, Elsewhere for a link."""
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise Elsewhere(errno.EXDEV, os.strerror(errno.EXDEV), name)
    try:
        return os.open(name, FOLDER, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        # Linux says ENOTDIR for a link as for a file.
        if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise Elsewhere(errno.ELOOP, os.strerror(errno.ELOOP), name) from None
        raise


def _walk(start: int, names: tuple[str, ...]) -> int:
    """A descriptor of the folder that `names` lead to from `start`, which stays open. Raises OSError, Elsewhere."""
    if not names:
        return os.dup(start)
    found = _step(names[0], start)
    for name in names[1:]:
        try:
            deeper = _step(name, found)
        finally:
            os.close(found)
        found = deeper
    return found


def identity(info: os.stat_result) -> tuple[int, int]:
    return (info.st_dev, info.st_ino)


def mount_of(descriptor: int) -> tuple[int, str]:
    """Device and, where the kernel tells it, mount: a folder that is mounted within its own file system differs."""
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
            lines = [line.split() for line in file]
    except OSError:
        lines = []
    mount = next((words[1] for words in lines if words and words[0] == "mnt_id:"), "")
    return (os.fstat(descriptor).st_dev, mount)


class Place:
    """An open folder and its way from the root; a context manager that closes it. The root's way is empty.

    The root must stay open as long as places below it are used.
    """

    def __init__(self, descriptor: int, names: tuple[str, ...] = (), root: Place | None = None) -> None:
        self.descriptor = descriptor
        self.names = names
        self.root = root or self

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self.descriptor)

    @property
    def name(self) -> str:
        return self.names[-1]

    @cached_property
    def _identity(self) -> tuple[int, int]:
        return identity(os.fstat(self.descriptor))

    @property
    def mount(self) -> tuple[int, str]:
        return mount_of(self.descriptor)

    def below(self, *names: str) -> Place:
        """The folder that `names` lead to from here. Raises OSError, Elsewhere for a link or ".." on the way."""
        return Place(_walk(self.descriptor, names), (*self.names, *names), self.root)

    @contextmanager
    def parent(self) -> Iterator[Place]:
        """The folder that holds this one, walked to from the root just now.

        Raises Elsewhere where the way leads to another folder, or to none although this one still exists, and
        FileNotFoundError where this one was removed.
        """
        *above, name = self.names
        try:
            found = self.root.below(*above)
        except (FileNotFoundError, NotADirectoryError):
            raise self._lost() from None
        with found:
            try:
                here = os.stat(name, dir_fd=found.descriptor, follow_symlinks=False)
            except FileNotFoundError:
                raise self._lost() from None
            if identity(here) != self._identity:
                raise Elsewhere(errno.ESTALE, os.strerror(errno.ESTALE), name)
            yield found

    def _lost(self) -> OSError:
        code = errno.ESTALE if os.fstat(self.descriptor).st_nlink else errno.ENOENT
        kind = Elsewhere if code == errno.ESTALE else FileNotFoundError
        return kind(code, os.strerror(code), self.name)

    def check(self) -> None:
        """Raises as `parent` where the way from the root does not lead here any more."""
        if self.names:
            with self.parent():
                pass

    def renamed(self, new: str) -> Place:
        """Rename the folder within its parent and return it under its new name, as a further open place.

        Raises OSError, and Elsewhere where the way does not lead here, or another folder was put in its place at the
        last moment; that one gets its name back.
        """
        with self.parent() as parent:
            os.rename(self.name, new, src_dir_fd=parent.descriptor, dst_dir_fd=parent.descriptor)
            moved = parent.stat(new)
            if moved is None or identity(moved) != self._identity:
                if moved is not None and parent.stat(self.name) is None:
                    os.rename(new, self.name, src_dir_fd=parent.descriptor, dst_dir_fd=parent.descriptor)
                raise Elsewhere(errno.ESTALE, os.strerror(errno.ESTALE), self.name)
            return Place(os.dup(self.descriptor), (*parent.names, new), self.root)

    def entries(self) -> list[tuple[str, bool]]:
        """(name, whether it is a folder) of all that lies here; a link to a folder is none. Raises OSError."""
        with os.scandir(self.descriptor) as found:
            return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]

    def stat(self, name: str) -> os.stat_result | None:
        """What lies here under `name`, a link as itself; None for nothing."""
        try:
            return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def open(self, name: str) -> int:
        """A descriptor of what lies here under `name`, for reading. Raises OSError, with ELOOP for a link."""
        return os.open(name, OLD_FILE, dir_fd=self.descriptor)

    def make(self, name: str, mode: int = 0o777) -> Place:
        """A new folder here. Raises FileExistsError, also for a link of that name, OSError, Elsewhere."""
        self.check()
        os.mkdir(name, mode, dir_fd=self.descriptor)
        return self.below(name)

    def create(self, name: str, mode: int = 0o666) -> BinaryIO:
        """A new file here, unbuffered. Raises FileExistsError, also for a link of that name, OSError, Elsewhere."""
        self.check()
        return os.fdopen(os.open(name, NEW_FILE, mode, dir_fd=self.descriptor), "wb", buffering=0)  # type: ignore[return-value]

    def unlink(self, name: str) -> None:
        """Remove a file or link here. Raises OSError, Elsewhere."""
        self.check()
        os.unlink(name, dir_fd=self.descriptor)

    def rmdir(self, name: str) -> None:
        """Remove an empty folder here. Raises OSError, Elsewhere."""
        self.check()
        os.rmdir(name, dir_fd=self.descriptor)

    def rename(self, name: str, to: Place, new: str) -> None:
        """Move an entry from here to another place below the same root. Raises OSError, Elsewhere."""
        self.check()
        if to is not self:
            to.check()
        os.rename(name, new, src_dir_fd=self.descriptor, dst_dir_fd=to.descriptor)


def set_mode(place: Place, name: str, mode: int) -> None:
    """Of a file there, never of what a link leads to. Raises OSError."""
    descriptor = place.open(name)
    try:
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def open_root(path: str) -> Place:
    """The folder of an absolute path that was resolved before; a link that came in since is refused.

    Raises OSError, Elsewhere.
    """
    start = os.open("/", FOLDER)
    try:
        return Place(_walk(start, tuple(name for name in path.split("/") if name)))
    finally:
        os.close(start)


def names_below(path: str, root: str) -> tuple[str, ...]:
    """The way from `root` to `path`, which lies in it or is it."""
    return tuple(name for name in path.removeprefix(root).split("/") if name)


def innermost(path: str, roots: tuple[str, ...]) -> str | None:
    """The deepest of the `roots` that is `path` or above it; None for none."""
    above = [root for root in roots if path == root or path.startswith(root.rstrip("/") + "/")]
    return max(above, key=len, default=None)
