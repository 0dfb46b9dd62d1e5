"""An adapter's training folder while it is deleted: held open from the first look to the end.

Whatever its path leads to meanwhile, it is this folder that goes, or none: see `places.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType

from django.conf import settings
from django.utils.translation import gettext_noop

from adapters.failures import Refused
from adapters.formats.files import inside
from adapters.places import Elsewhere, OtherMount, Place, innermost, names_below, open_root
from adapters.training.layout import CONFIG, PICKLE, WEIGHTS, Walk

from . import leftovers, removal
from .removal import Step


class TrainingFolder:
    """The folder `path` of the adapter `owner`, below one of the resolved `roots`; a context manager.

    Every step raises Refused: files_missing, outside_root where a link is on the way or the folder was moved,
    undeletable.
    """

    def __init__(self, path: str, owner: int, roots: tuple[str, ...]) -> None:
        self.path, self.owner, self.roots = path, owner, roots
        self.name = os.path.basename(path)
        self.folder: Place | None = None  # None where an interrupted deletion has moved it aside already

    def __enter__(self) -> TrainingFolder:
        root = innermost(self.path, self.roots)
        if root is None:
            raise Refused("files_missing", file=self.name)
        way = names_below(self.path, root)
        if not way:  # a root itself
            raise Refused("outside_root", file=self.name)
        with self._refusing(), ExitStack() as opened:
            self._open(opened, root, way)
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def _open(self, opened: ExitStack, root: str, way: tuple[str, ...]) -> None:
        missing = (FileNotFoundError, NotADirectoryError)
        folder: Place | None = None
        try:
            top = opened.enter_context(open_root(root))
            self.parent = opened.enter_context(top.below(*way[:-1]))
        except missing:
            raise Refused("files_missing", file=self.name) from None
        with suppress(*missing):
            folder = opened.enter_context(self.parent.below(way[-1]))
        if folder is not None and (_is_adapter(folder) or self._interrupted(folder)):
            self.folder = folder
        elif not self._interrupted(self.parent):
            raise Refused("files_missing", file=self.name)

    def _interrupted(self, place: Place) -> bool:
        return any(leftovers.owner_of(name) == self.owner for name in leftovers.remaining(place))

    def rehearse(self) -> None:
        """Look for what would stop the deletion half-way."""
        if self.folder is not None:
            with self._refusing():
                removal.rehearse(self.folder, self._kept(self.folder))

    def delete(self, step: Step) -> None:
        """Move the folder aside under a hidden name that scans pass over, then delete it; `step` before each entry.

        Folders in it that hold other adapters stay where they are, and it with them.
        """
        with self._refusing():
            leftovers.clear(self.parent, self.owner, step)
            if self.folder is None:
                return
            leftovers.clear(self.folder, self.owner, step)
            kept = self._kept(self.folder)
            hidden = leftovers.new_name(self.owner)
            aside = _move_into(self.folder, hidden, kept) if kept else self.folder.renamed(hidden)
            with aside:
                removal.remove(aside, step)

    def _kept(self, folder: Place) -> set[str]:
        """Names of the folders in it that hold other adapters, or a folder that is configured, or are being deleted."""
        below = [candidate.path for candidate in Walk(self.roots).below(folder, self.path)]
        for path in (*self.roots, str(settings.STORE_DIR), str(settings.BASE_MODELS_DIR)):
            real = os.path.realpath(path)
            if real != self.path and inside(real, (self.path,)):
                below.append(real)
        busy = {name for name in leftovers.remaining(folder) if leftovers.owner_of(name) != self.owner}
        return busy | {names_below(path, self.path)[0] for path in below}

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Errors of the file system as refusals."""
        try:
            yield
        except Elsewhere as error:
            raise Refused("outside_root", file=self.name) from error
        except FileNotFoundError as error:  # somebody else was faster
            raise Refused("files_missing", file=self.name) from error
        except OtherMount as error:
            raise Refused("undeletable", reason=gettext_noop("another file system is mounted there")) from error
        except OSError as error:
            raise Refused("undeletable", reason=os.strerror(error.errno or 0)) from error


def _is_adapter(folder: Place) -> bool:
    return any(name in {CONFIG, WEIGHTS, PICKLE} and not is_folder for name, is_folder in folder.entries())


def _move_into(folder: Place, hidden: str, kept: set[str]) -> Place:
    """Move all but `kept` into a new folder in it, which is returned; all back again where that fails."""
    aside = folder.make(hidden, 0o700)
    moved: list[str] = []
    try:
        for name, _ in folder.entries():
            if name not in kept and name != hidden:
                with suppress(FileNotFoundError):
                    folder.rename(name, aside, name)
                    moved.append(name)
    except BaseException:
        with aside, suppress(OSError):
            for name in moved:
                aside.rename(name, folder, name)
            folder.rmdir(hidden)
        raise
    return aside
