"""What a folder is called in the list."""

from __future__ import annotations

import os
import re

from .layout import CHECKPOINT

# Folder names that say nothing without the one above them.
GENERIC = {
    "adapter", "adapters", "best", "default", "final", "final_adapter", "final_lora", "final_model", "last", "lora",
    "lora_model", "model", "out", "output", "outputs", "pissa_converted", "result", "saves", "sft",
}  # fmt: skip
VERSION = re.compile(r"v\d+-\d{8}-\d{6}\Z")  # ms-swift names its runs so


def _folder_name(root: str, path: str) -> str:
    parts = os.path.relpath(path, root).split(os.sep)
    if path == root or parts == ["."]:
        return os.path.basename(root)
    if len(parts) > 1 and (parts[-1].lower() in GENERIC or VERSION.match(parts[-1])):
        return "/".join(parts[-2:])
    return parts[-1]


def run_name_of(root: str, run: str) -> str:
    return _folder_name(root, run)


def name_of(root: str, path: str) -> str:
    """`run`, or `run/checkpoint-60`: folder names with as much of the path as tells them apart."""
    parent, _, name = path.rpartition("/")
    if CHECKPOINT.match(name) and parent != root:
        return f"{_folder_name(root, parent)}/{name}"
    return _folder_name(root, path)
