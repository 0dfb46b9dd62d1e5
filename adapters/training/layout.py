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

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
FACT_FILES = ("trainer_state.json", "trainer_log.jsonl", "args.json", "README.md", "config.json")
KEY_FILES = frozenset((CONFIG, WEIGHTS, PICKLE, *FACT_FILES))
CHECKPOINT = re.compile(r"checkpoint-(\d{1,9})\Z")
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


@dataclass
class Walk:
    """What a walk passed over: [(code, label)]."""

    roots: tuple[str, ...]
    notes: list[tuple[str, str]] = field(default_factory=list)

    def note(self, code: str, path: str) -> None:
        if len(self.notes) < 200:
            self.notes.append((code, path))

    def candidates(self, root: str) -> Iterator[AdapterFolder]:
        """Every adapter folder below the resolved `root`, parents before children, in a stable order."""
        stack: list[tuple[str, int]] = [(root, 0)]
        while stack:
            path, depth = stack.pop()
            listing = self._list(path)
            if listing is None:
                continue
            files, folders = listing
            names = {entry.name for entry in files}
            if not names.isdisjoint((CONFIG, WEIGHTS, PICKLE)) and path != root:
                candidate = self._candidate(root, path, files, names)
                candidate.has_checkpoints = any(CHECKPOINT.match(entry.name) for entry in folders)
                yield candidate
            if depth >= MAX_DEPTH:
                if folders:
                    self.note("too_deep", path)
                continue
            stack.extend((entry.path, depth + 1) for entry in sorted(folders, key=_order, reverse=True))

    def _list(self, path: str) -> tuple[list[os.DirEntry[str]], list[os.DirEntry[str]]] | None:
        files: list[os.DirEntry[str]] = []
        folders: list[os.DirEntry[str]] = []
        try:
            with os.scandir(path) as entries:
                for number, entry in enumerate(entries):
                    if number >= MAX_ENTRIES:
                        self.note("too_many_entries", path)
                        break
                    if self._is_folder(entry):
                        if not entry.name.startswith(".") and entry.name not in SKIPPED:
                            folders.append(entry)
                    else:
                        files.append(entry)
        except OSError:
            self.note("unreadable", path)
            return None
        return files, folders

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        """Links to folders are not followed: below a root their target is found anyway."""
        if entry.is_dir(follow_symlinks=False):
            if len(entry.path) > MAX_PATH or not entry.name.isprintable():
                self.note("bad_name", entry.path)
                return False
            return True
        if entry.is_symlink() and entry.is_dir() and not inside(os.path.realpath(entry.path), self.roots):
            self.note("outside_root", entry.path)
        return False

    def _candidate(self, root: str, path: str, files: list[os.DirEntry[str]], names: set[str]) -> AdapterFolder:
        stats: dict[str, tuple[int, int, int]] = {}
        for entry in files:
            if entry.name in KEY_FILES:
                stats[entry.name] = _stat(entry)
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
        return AdapterFolder(root, path, stats, frozenset(remarks), number, run)


def _stat(entry: os.DirEntry[str]) -> tuple[int, int, int]:
    try:
        info = entry.stat()
    except OSError:  # a dangling link: validated when it is opened
        return (0, 0, 0)
    return (info.st_ino, info.st_size, info.st_mtime_ns)


def _order(entry: os.DirEntry[str]) -> tuple[str, int]:
    match = CHECKPOINT.match(entry.name)
    return ("checkpoint-", int(match.group(1))) if match else (entry.name, 0)


def look(root: str, path: str, roots: tuple[str, ...]) -> AdapterFolder | None:
    """A fresh look at one folder; None where it holds no adapter (any more)."""
    walk = Walk(roots)
    if not inside(os.path.realpath(path), roots):
        return None
    listing = walk._list(path)
    if listing is None:
        return None
    files, folders = listing
    names = {entry.name for entry in files}
    if names.isdisjoint((CONFIG, WEIGHTS, PICKLE)):
        return None
    candidate = walk._candidate(root, path, files, names)
    candidate.has_checkpoints = any(CHECKPOINT.match(entry.name) for entry in folders)
    return candidate
