"""Walking the roots: which folders are adapters, and which checkpoints belong to which run.

Knows the trees of HF Trainer, LLaMA-Factory, axolotl, Unsloth and ms-swift. Reads directory entries and file
attributes only.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from adapters.failures import CHECK_FAILED
from adapters.formats.files import inside
from adapters.identifiers import text_hash
from adapters.places import Place, names_below, open_root

logger = logging.getLogger(__name__)

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
INDEX = "adapter_model.safetensors.index.json"  # of weights in several files
SHARD = re.compile(r"adapter_model-\d{5}-of-\d{5}\.safetensors")
# Weights that other tools left, which may be repaired: in shards, of mlx-lm, of mistral-finetune. The first counts.
FOREIGN = (INDEX, "adapters.safetensors", "lora.safetensors")
ADDED = "added_tokens.json"
FACT_FILES = ("trainer_state.json", "trainer_log.jsonl", "logging.jsonl", "args.json", "README.md", "config.json")
# What decides how an adapter is asked and when its answer ends, see prompting.py.
PROMPT_FILES = (
    "chat_template.jinja", "tokenizer_config.json", "special_tokens_map.json", ADDED,
    "generation_config.json", "tokenizer.json",
)  # fmt: skip
KEY_FILES = frozenset((CONFIG, WEIGHTS, PICKLE, *FOREIGN, *FACT_FILES, *PROMPT_FILES))
CHECKPOINT = re.compile(r"checkpoint-(\d{1,9})\Z")
HALF_SAVED = re.compile(r"\.?tmp-checkpoint-\d+\Z")  # renamed by the trainer when it is whole
DELETED = re.compile(r"\.deleted-(?:(\d{1,18})-)?[0-9a-f]{12}\Z")  # (adapter's id)
ARRIVING = ".arriving"  # below UPLOADS_DIR: what has not arrived whole
PISSA_START = {"pissa_init", "pissa_backup"}  # what LLaMA-Factory's training began with, within a run of PiSSA
MOST_SHARDS = 64
MAX_DEPTH = 12
MAX_ENTRIES = 200_000  # of one folder
MAX_PATH = 1000
MAX_NOTES = 200
STATE_OF_TRAINING = ("optimizer", "scheduler", "scaler", "rng_state", "training_args")
WEIGHTS_LIKE = (".safetensors", ".npz", ".gguf", ".ckpt", ".pt", ".pth", ".bin")


def moment_of(nanoseconds: int) -> datetime | None:
    """Of the time of a file; None for none, and for one beyond what a date can say, which a file system may hold."""
    try:
        return datetime.fromtimestamp(nanoseconds / 1e9, tz=UTC) if nanoseconds else None
    except (ValueError, OverflowError, OSError):
        return None


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
    other_weights: str = ""  # name of a file that may hold weights, where there are none of PEFT's

    @property
    def path_hash(self) -> str:
        return text_hash(self.path)

    @property
    def signature(self) -> str:
        """Changes with any file that validation depends on."""
        more = (self.other_weights,) if self.other_weights else ()
        facts = (repr(sorted(self.stats.items())), repr(sorted(self.remarks)), str(self.has_checkpoints))
        return text_hash(*facts, *more)

    @property
    def core_signature(self) -> str:
        """Changes with what is served alone."""
        found = [(name, self.stats.get(name)) for name in (CONFIG, WEIGHTS, PICKLE)]
        found += [(name, self.stats[name]) for name in PROMPT_FILES if name in self.stats]
        found += [(name, self.stats[name]) for name in self.foreign_files]
        return text_hash(repr(found))

    @property
    def weights(self) -> str:
        """Name of the weights file, "" for none; safetensors go first."""
        return next((name for name in (WEIGHTS, PICKLE) if name in self.stats), "")

    @property
    def foreign(self) -> str:
        """Name of the weights of another tool, or of their index, "" for none; only where there are none of PEFT's."""
        return "" if self.weights else next((name for name in FOREIGN if name in self.stats), "")

    @property
    def foreign_files(self) -> list[str]:
        """That file, and the shards beside an index."""
        shards = sorted(filter(SHARD.fullmatch, self.stats)) if self.foreign == INDEX else []
        return [self.foreign, *shards[: MOST_SHARDS + 1]] if self.foreign else []

    @property
    def newest(self) -> int:
        """The latest change of config or weights, ns since the epoch."""
        names = (CONFIG, WEIGHTS, PICKLE, *self.foreign_files)
        return max((self.stats[n][2] for n in names if n in self.stats), default=0)

    @property
    def size(self) -> int:
        names = (CONFIG, self.weights, *self.foreign_files)
        return sum(self.stats[name][1] for name in names if name in self.stats)


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
        if len(self.notes) < MAX_NOTES:
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
            elif listing.is_adapter:
                self.note("root_is_adapter", path)
            if len(way) >= MAX_DEPTH:
                if listing.folders:
                    self.note("too_deep", path)
                continue
            stack.extend((*way, name) for name in sorted(self.within(listing, path), key=_order, reverse=True))

    def within(self, listing: Listing, path: str) -> list[str]:
        """The folders of a listing to go into."""
        if not listing.is_adapter or PISSA_START.isdisjoint(listing.folders):
            return listing.folders
        for name in sorted(PISSA_START.intersection(listing.folders)):
            self.note("pissa_start", f"{path}/{name}")
        return [name for name in listing.folders if name not in PISSA_START]

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
                        elif entry.name == ARRIVING and not way:
                            pass
                        elif HALF_SAVED.match(entry.name):
                            self.note("half_saved", f"{path}/{entry.name}")
                        else:  # whatever its name: it may hold an adapter
                            found.folders.append(entry.name)
                    else:
                        found.names.add(entry.name)
                        if entry.name in KEY_FILES or SHARD.fullmatch(entry.name):
                            found.stats[entry.name] = _stat(entry)
        except OSError:
            self.note("unreadable", path)
            return None
        except Exception:
            logger.exception("%s cannot be looked at", path)
            self.note(CHECK_FAILED, path)
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
        if "chat_template.jinja" in names:
            remarks.add("own_chat_template")
        parent, _, name = path.rpartition("/")
        match = CHECKPOINT.match(name)
        run = parent if match and parent != root else path
        number = int(match.group(1)) if match else None
        checkpoints = any(CHECKPOINT.match(name) for name in listing.folders)
        peft = not names.isdisjoint((WEIGHTS, PICKLE))
        others = "" if peft else min(filter(_may_be_weights, names), key=_readiest, default="")
        return AdapterFolder(root, path, listing.stats, frozenset(remarks), number, run, checkpoints, others)


def _stat(entry: os.DirEntry[str]) -> tuple[int, int, int]:
    try:
        info = entry.stat()
    except OSError:  # a dangling link: validated when it is opened
        return (0, 0, 0)
    return (info.st_ino, info.st_size, info.st_mtime_ns)


def _may_be_weights(name: str) -> bool:
    return name.endswith(WEIGHTS_LIKE) and not name.startswith(STATE_OF_TRAINING)


def _readiest(name: str) -> tuple[bool, int, str]:
    return (not name.endswith(".safetensors"), len(name), name)


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
