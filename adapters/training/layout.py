"""Walking the roots: which folders are adapters, and which checkpoints belong to which run.

Knows the trees of HF Trainer, LLaMA-Factory, axolotl, Unsloth and ms-swift. Reads directory entries and file
attributes only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from adapters.formats.files import inside
from adapters.identifiers import text_hash
from adapters.places import Place, names_below, open_root

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
FACT_FILES = ("trainer_state.json", "trainer_log.jsonl", "args.json", "README.md", "config.json")
KEY_FILES = frozenset((CONFIG, WEIGHTS, PICKLE, *FACT_FILES))
CHECKPOINT = re.compile(r"checkpoint-(\d{1,9})\Z")
DELETED = re.compile(r"\.deleted-(?:(\d{1,18})-)?[0-9a-f]{12}\Z")  # (adapter's id)
SKIPPED = {"__pycache__", "node_modules", "wandb", "runs", "pissa_init", "pissa_backup", "site-packages"}
MAX_DEPTH = 12
MAX_ENTRIES = 200_000  # of one folder
MAX_PATH = 1000


@dataclass(slots=True)
class AdapterFolder:
    """A folder that holds an adapter, or a part of one."""

    root: str
    path: str
    stats: dict[str, tuple[int, int, int]]  # name -> (inode, size, mtime in ns), of the files that matter
    remarks: frozenset[str]  # "contains_code", "own_tokenizer", "own_chat_template"
    checkpoint: int | None = None
    run: str = ""  # path of the run's folder
    has_checkpoints: bool = False  # below this folder

    @property
    def path_hash(self) -> str:
        return text_hash(self.path)

    @property
    def signature(self) -> str:
        """Changes with any file that validation depends on."""
        return text_hash(repr(sorted(self.stats.items())), repr(sorted(self.remarks)), str(self.has_checkpoints))

    @property
    def core_signature(self) -> str:
        """Changes with config or weights alone."""
        return text_hash(repr([(name, self.stats.get(name)) for name in (CONFIG, WEIGHTS, PICKLE)]))

    @property
    def weights(self) -> str:
        """Name of the weights file, "" for none; safetensors go first."""
        return next((name for name in (WEIGHTS, PICKLE) if name in self.stats), "")

    @property
    def newest(self) -> int:
        """The latest change of config or weights, ns since the epoch."""
        return max((self.stats[n][2] for n in (CONFIG, WEIGHTS, PICKLE) if n in self.stats), default=0)

    @property
    def size(self) -> int:
        return sum(self.stats[name][1] for name in (CONFIG, self.weights) if name in self.stats)


@dataclass(slots=True)
class Listing:
    """What lies in one folder."""

    names: set[str] = field(default_factory=set)  # of all but folders
    stats: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # as a candidate's
    folders: list[str] = field(default_factory=list)  # those that a scan goes into

    @property
    def is_adapter(self) -> bool:
        """True for a part of an adapter as well."""
        return not self.names.isdisjoint((CONFIG, WEIGHTS, PICKLE))


@dataclass
class Walk:
    """What a walk passed over: [(code, label)]."""

    roots: tuple[str, ...]
    notes: list[tuple[str, str]] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)  # paths of what interrupted deletions left

    def note(self, code: str, path: str) -> None:
        if len(self.notes) < 200:
            self.notes.append((code, path))

    def candidates(self, root: str) -> Iterator[AdapterFolder]:
        """Every adapter folder below the resolved `root`, parents before children, in a stable order."""
        try:
            held = open_root(root)
        except OSError:
            self.note("unreadable", root)
            return
        with held:
            yield from self.below(held, root)

    def below(self, held: Place, root: str) -> Iterator[AdapterFolder]:
        """Every adapter folder below an open folder, whose path is `root`."""
        stack: list[tuple[str, ...]] = [()]
        while stack:
            way = stack.pop()
            path = "/".join((root.rstrip("/"), *way))
            listing = self.listing(held, way, path)
            if listing is None:
                continue
            if listing.is_adapter and way:
                yield self.candidate(root, path, listing)
            if len(way) >= MAX_DEPTH:
                if listing.folders:
                    self.note("too_deep", path)
                continue
            stack.extend((*way, name) for name in sorted(listing.folders, key=_order, reverse=True))

    def listing(self, held: Place, way: tuple[str, ...], path: str) -> Listing | None:
        """What lies in the folder that `way` leads to from `held`; no link on it is followed. None: unreadable."""
        found = Listing()
        try:
            with held.below(*way) as folder, os.scandir(folder.descriptor) as entries:
                for number, entry in enumerate(entries):
                    if number >= MAX_ENTRIES:
                        self.note("too_many_entries", path)
                        break
                    if self._is_folder(entry, path):
                        if DELETED.match(entry.name):
                            self.leftovers.append(os.path.join(path, entry.name))
                        if not entry.name.startswith(".") and entry.name not in SKIPPED:
                            found.folders.append(entry.name)
                    else:
                        found.names.add(entry.name)
                        if entry.name in KEY_FILES:
                            found.stats[entry.name] = _stat(entry)
        except OSError:
            self.note("unreadable", path)
            return None
        return found

    def _is_folder(self, entry: os.DirEntry[str], folder: str) -> bool:
        """Links to folders are not followed: below a root their target is found anyway."""
        if entry.is_dir(follow_symlinks=False):
            path = f"{folder}/{entry.name}"
            if len(path) > MAX_PATH or not entry.name.isprintable():
                self.note("bad_name", path)
                return False
            return True
        if entry.is_symlink() and entry.is_dir():
            path = f"{folder}/{entry.name}"
            if not inside(os.path.realpath(path), self.roots):
                self.note("outside_root", path)
        return False

    def candidate(self, root: str, path: str, listing: Listing) -> AdapterFolder:
        names = listing.names
        remarks = set()
        if any(name.endswith(".py") for name in names):
            remarks.add("contains_code")
        if names & {"tokenizer.json", "tokenizer.model"}:
            remarks.add("own_tokenizer")
        if names & {"chat_template.jinja", "chat_template.json"}:
            remarks.add("own_chat_template")
        parent, _, name = path.rpartition("/")
        match = CHECKPOINT.match(name)
        run = parent if match and parent != root else path
        number = int(match.group(1)) if match else None
        checkpoints = any(CHECKPOINT.match(name) for name in listing.folders)
        return AdapterFolder(root, path, listing.stats, frozenset(remarks), number, run, checkpoints)


def _stat(entry: os.DirEntry[str]) -> tuple[int, int, int]:
    try:
        info = entry.stat()
    except OSError:  # a dangling link: validated when it is opened
        return (0, 0, 0)
    return (info.st_ino, info.st_size, info.st_mtime_ns)


def _order(name: str) -> tuple[str, int]:
    match = CHECKPOINT.match(name)
    return ("checkpoint-", int(match.group(1))) if match else (name, 0)


def look(root: str, path: str, roots: tuple[str, ...]) -> AdapterFolder | None:
    """A fresh look at one folder; None where it holds no adapter (any more), or a link lies on the way from `root`."""
    walk = Walk(roots)
    try:
        held = open_root(root)
    except OSError:
        return None
    with held:
        listing = walk.listing(held, names_below(path, root), path)
    return walk.candidate(root, path, listing) if listing is not None and listing.is_adapter else None
