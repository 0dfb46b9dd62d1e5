"""What a folder is called in the list."""

from __future__ import annotations

import os
import re

from .layout import CHECKPOINT

# Words that say nothing of what was trained; a name of such words alone needs the one above it.
WORDS = frozenset(
    """
    adapter adapters best checkpoint checkpoints ckpt converted default dpo end epoch epochs export
    final finetuned global hf iter iteration last latest lora merged model models orpo out output
    outputs peft pissa pytorch qlora result results run runs save saved saves sft snapshot snapshots
    step steps train training version weights
    """.split()
)
PART = re.compile(r"[^\W\d_]+|\d+")
VERSION = re.compile(r"v\d+(-\d{8}-\d{6})?\Z")  # ms-swift names its runs so
HASH = re.compile(r"(?=.*\d)[0-9a-f]{7,64}\Z")  # a commit


def _says_nothing(name: str) -> bool:
    if VERSION.match(name) or HASH.match(name):
        return True
    parts: list[str] = PART.findall(name.lower())
    return all(part.isdigit() or part in WORDS for part in parts)


def _folder_name(root: str, path: str) -> str:
    """The last part of the path that says something, and what lies below it."""
    parts = os.path.relpath(path, root).split(os.sep)
    if path == root or parts == ["."]:
        return os.path.basename(root)
    first = len(parts) - 1
    while first > 0 and _says_nothing(parts[first]):
        first -= 1
    if first == 0 and _says_nothing(parts[0]):  # nothing on the way says more than the last two
        first = max(0, len(parts) - 2)
    return "/".join(parts[first:])


def run_name_of(root: str, run: str) -> str:
    return _folder_name(root, run)


def name_of(root: str, path: str) -> str:
    """`run`, or `run/checkpoint-60`: folder names with as much of the path as tells them apart."""
    parent, _, name = path.rpartition("/")
    if CHECKPOINT.match(name) and parent != root:
        return f"{_folder_name(root, parent)}/{name}"
    return _folder_name(root, path)
