"""Somebody who changes the tree of folders at a chosen moment: right before one call of the kernel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CALLS = ("open", "scandir", "stat", "mkdir", "rename", "unlink", "rmdir")
Act = Callable[[], None]


class Interference:
    """Counts the calls that are made relative to a folder's descriptor; acts once, before the one that `when` picks."""

    def __init__(self, act: Act, when: Callable[[int, str, tuple[Any, ...]], bool]) -> None:
        self.act, self.when = act, when
        self.count = 0
        self.done = False

    def before(self, name: str, arguments: tuple[Any, ...]) -> None:
        if self.done:
            return
        if self.when(self.count, name, arguments):
            self.done = True
            self.act()
        self.count += 1


@contextmanager
def interfering(act: Act, when: Callable[[int, str, tuple[Any, ...]], bool]) -> Iterator[Interference]:
    """`when(number, call, arguments)` is asked before each call, until it says yes once; `act` may raise."""
    made = Interference(act, when)

    def wrapped(name: str) -> Any:
        real = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            relative = {"dir_fd", "src_dir_fd"} & {key for key, value in options.items() if value is not None}
            if relative or (name == "scandir" and arguments and isinstance(arguments[0], int)):
                made.before(name, arguments)
            return real(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patched:
        for name in CALLS:
            patched.setattr(os, name, wrapped(name))
        yield made


def swap(path: Path, target: Path) -> None:
    """Put a link to `target` in the place of a folder, which is "moved" from then on."""
    path.rename(path.with_name("moved"))
    path.symlink_to(target)


def contents(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """path -> (mode, inode, bytes or target of a link) of all that lies below; links are not followed."""
    found: dict[str, tuple[int, int, bytes]] = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        data = os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(folder))] = (info.st_mode, info.st_ino, data)
    return found
