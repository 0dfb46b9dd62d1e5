"""FLEET_DIR: each active adapter as `<FLEET_DIR>/<digest>/`, where a replica finds it when it is asked for that name.

A folder appears by one rename, when it is whole and on disk, and its content is proven to be what its name says. So a
replica that starts late or again needs nobody, and a stale adapter under an old name cannot be. Unfinished folders
belong to a living process as those in the store do (`adapters/files/partials.py`), so several portals may share it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.utils.translation import gettext_noop

from adapters.files import entries, partials, removal
from adapters.places import Elsewhere, Place, open_root, set_mode
from inference.engine import content
from inference.engine.errors import EngineError

DIGEST = re.compile(r"[0-9a-f]{64}\Z")
LARGEST = 2**34  # bytes of weights
FILES = (content.CONFIG, content.WEIGHTS)
KEPT = {  # of an adapter's config: what decides its numbers, and nothing that only training needs
    "peft_type", "task_type", "r", "lora_alpha", "target_modules", "bias", "use_rslora", "fan_in_fan_out",
    "rank_pattern", "alpha_pattern",
}  # fmt: skip

CHANGED = gettext_noop("its content has changed")
State = tuple[int, int]


class Shelf:
    """Any thread may call; several portals may share one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: dict[str, tuple[str, str]] = {}  # digest -> root, what its files looked like

    def opened(self) -> Place:
        """Raises OSError."""
        return open_root(os.path.realpath(self.folder))

    def has(self, digest: str, root: str) -> bool:
        """Whether it is there for the base that the fleet calls `root`, with files that nobody has touched since this
        was first asked. Reads no weights."""
        look = self.look(digest)
        if look is None:
            self._seen.pop(digest, None)
            return False
        if self._seen.get(digest) != (root, look):
            if digest in self._seen or published_root(self.folder / digest) != root:
                return False
            self._note(digest, root, look)
        return True

    def _note(self, digest: str, root: str, look: str) -> None:
        while len(self._seen) >= 10_000:
            self._seen.pop(next(iter(self._seen)))
        self._seen[digest] = root, look

    def look(self, digest: str) -> str | None:
        """What the file system says of it without reading: changes with anything that is written to it. None where it
        is no folder with ordinary files."""
        folder = self.folder / check(digest)
        with suppress(OSError):
            states = [os.lstat(folder), *(os.lstat(folder / name) for name in FILES)]
            if stat.S_ISDIR(states[0].st_mode) and all(stat.S_ISREG(one.st_mode) for one in states[1:]):
                return " ".join(f"{s.st_ino}:{s.st_size}:{s.st_mtime_ns}:{s.st_ctime_ns}" for s in states[1:])
        return None

    def publish(self, digest: str, source: Path, name: str, root: str) -> None:
        """Copy a stored adapter there; a sound one that is there already is marked as wanted again, another is
        replaced.

        Raises EngineError `store_damaged` where the stored copy is not what its digest says, and OSError.
        """
        if self.published(digest, source, root):
            try:
                os.utime(self.folder / digest)
                return
            except FileNotFoundError:  # withdrawn at this moment, before that could be seen
                pass
            except OSError:  # another portal's, as another user
                return
        config, weights = content.read_copy(source, digest, name, LARGEST)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.opened() as shelf:
            partials.sweep(shelf)  # what killed ones left may be the very space that this one needs
            with partials.partial(shelf, content.WEIGHTS) as (partial, file):
                write(file, weights)
                with partial.create(content.CONFIG) as said:
                    write(said, json.dumps(config_for(json.loads(config), root), indent=2).encode())
                for each in FILES:
                    set_mode(partial, each, 0o444)
                os.fchmod(partial.descriptor, 0o755)  # (replicas may run as another user)
                os.fsync(partial.descriptor)
                self._place(partial, digest, source, root)
            os.fsync(shelf.descriptor)

    def published(self, digest: str, source: Path, root: str) -> bool:
        """Whether it is there, sound to its last byte, for the base that the fleet calls `root`. Raises OSError."""
        look = self.look(digest)
        if look is None or published_root(self.folder / digest) != root or self.fault(digest, source):
            self._seen.pop(digest, None)
            return False
        self._note(digest, root, look)
        return True

    def fault(self, digest: str, source: Path, tell: Callable[[int], None] = lambda count: None) -> str:
        """What is wrong with what is published, to be translated when it is shown; "" where it is what its name says.

        Reads the weights, and of the stored copy at `source` only the small files: together they have to make the
        digest. `tell` hears the bytes of each piece. Raises OSError where the stored copy cannot be read.
        """
        try:
            with open(self.folder / check(digest) / content.CONFIG, "rb", opener=unlinked) as file:
                config = json.loads(file.read(content.CONFIG_LIMIT))
            weights = hash_of(self.folder / digest / content.WEIGHTS, tell)
        except (OSError, ValueError, RecursionError):
            return gettext_noop("a file is missing")
        stored = (source / content.CONFIG).read_bytes()
        prompting = source / content.PROMPTING
        said = hashlib.sha256(prompting.read_bytes()).hexdigest() if prompting.exists() else ""
        if content.combine(hashlib.sha256(stored).hexdigest(), weights, said) != digest:
            return CHANGED
        root = config.get("base_model_name_or_path") if isinstance(config, dict) else None
        return "" if isinstance(root, str) and config == config_for(json.loads(stored), root) else CHANGED

    def _place(self, partial: Place, digest: str, source: Path, root: str) -> None:
        """One rename. Where somebody else was first, theirs stays: a replica may be reading it. The files of a folder
        that is damaged, or for another base, are replaced; whatever else lies in the way goes."""
        for last in (False, False, True):
            if entries.publish(partial, digest):
                look = self.look(digest)
                if look is not None:
                    self._note(digest, root, look)
                return
            if last:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            if self.published(digest, source, root):
                return
            try:
                with partial.root.below(digest) as target:  # file by file: there is no moment without them
                    for each in (content.WEIGHTS, content.CONFIG):
                        partial.rename(each, target, each)
                    os.fsync(target.descriptor)
                return
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError, Elsewhere):
                self.withdraw(digest)

    def state(self, digest: str) -> State | None:
        """Changes when somebody publishes it again; None where it is not there."""
        with suppress(OSError):
            return state_of(os.lstat(self.folder / check(digest)))
        return None

    def withdraw(self, digest: str, state: State | None = None, wanted: Callable[[], bool] = lambda: False) -> bool:
        """Take it away; false where it was not there, or stays: `state` is given and it has another, or `wanted` says
        so once it is out of the way, when it gets its name back.

        Raises OSError.
        """

        def again(found: State | None) -> bool:
            return state is not None and found != state

        if again(self.state(digest)):
            return False
        self._seen.pop(digest, None)
        with suppress(FileNotFoundError), self.opened() as shelf, entries.aside(shelf, digest) as aside:
            if aside is None:
                return False
            if (again(state_of(os.fstat(aside.descriptor))) or wanted()) and entries.publish(aside, digest):
                return False
            with suppress(OSError):  # out of the way: cleaning comes by later
                removal.remove(aside)
            return True
        return False

    def names(self) -> list[str]:
        """Digests of what lies there, whatever it is. Raises OSError."""
        try:
            with self.opened() as shelf:
                return sorted(name for name, _ in shelf.entries() if DIGEST.match(name))
        except FileNotFoundError:
            return []


def state_of(found: os.stat_result) -> State:
    return found.st_ino, found.st_mtime_ns


def check(digest: str) -> str:
    """Raises ValueError for anything that is no digest: it must never become another path."""
    if not DIGEST.match(digest):
        raise ValueError("not a digest")
    return digest


def config_for(config: Mapping[str, Any], root: str) -> dict[str, Any]:
    """The `adapter_config.json` that a replica reads. What is published are LoRA matrices alone (`lint.py`), so that
    whole layers which the registry has found equal to the base's (`modules_to_save`) are not named either."""
    found = {"r": 8, "lora_alpha": 8, "bias": "none"}  # PEFT's own defaults, without which vLLM does not read it
    found |= {key: config[key] for key in sorted(KEPT) if config.get(key)}
    return found | {"peft_type": "LORA", "base_model_name_or_path": root, "inference_mode": True}


def published_root(folder: Path) -> str:
    """As whose adapter a folder is published; "" where it cannot be read."""
    try:
        with open(folder / content.CONFIG, "rb", opener=unlinked) as file:
            found = json.loads(file.read(content.CONFIG_LIMIT))
    except (OSError, ValueError, RecursionError):
        return ""
    root = found.get("base_model_name_or_path") if isinstance(found, dict) else None
    return root if isinstance(root, str) else ""


def unlinked(path: str, flags: int) -> int:
    """Opens no link, and waits for no pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def hash_of(path: Path, tell: Callable[[int], None]) -> str:
    """sha256 of a regular file, in constant memory. Raises OSError, ValueError for anything else than a file."""
    with open(path, "rb", buffering=0, opener=unlinked) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("no regular file")
        hasher = hashlib.sha256()
        while data := file.read(content.CHUNK):
            hasher.update(data)
            tell(len(data))
        return hasher.hexdigest()


def write(file: Any, data: bytes | memoryview) -> None:
    """All of it, and onto the disk."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
    os.fsync(file.fileno())


def published(shelf: Shelf, digest: str, source: Path, name: str, root: str) -> None:
    """`publish` for a request. Raises EngineError."""
    try:
        shelf.publish(digest, source, name, root)
    except OSError as error:
        raise EngineError(
            "adapter_load_failed", "The adapter could not be put where the fleet finds it.", name=name,
            reason=os.strerror(error.errno or 0),
        ) from error  # fmt: skip
