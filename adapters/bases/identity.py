"""What a base model is, by its content: whatever decides an answer is part of its key."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

from django.conf import settings

from adapters.formats.files import open_below, read_exactly
from adapters.formats.safetensors import BASE_HEADER_LIMIT

# What Transformers may read beside the weights: configuration, tokenizer, chat templates, generation defaults.
DECIDING_SUFFIXES = (".json", ".jinja", ".model", ".tiktoken")
DECIDING_NAMES = {"vocab.txt", "merges.txt"}
TEMPLATES = "additional_chat_templates"  # a folder
WHOLE = 64 * 2**20  # bytes of such a file that are all read
SAMPLES, SAMPLE_BYTES = 16, 65536
VOLATILE = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "_commit_hash"}


def base_root() -> tuple[str, ...]:
    return (os.path.realpath(settings.BASE_MODELS_DIR),)


def states(path: str, deeper: str = TEMPLATES) -> Iterator[str]:
    """What the file system says of each file that Transformers may read. `inference/engine/content.py` has the same."""
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            try:
                info = entry.stat()
            except OSError:
                yield f"{entry.name} gone"
                continue
            # ctime too, since an mtime can be set back.
            yield f"{entry.name} {info.st_ino} {info.st_size} {info.st_mtime_ns} {info.st_ctime_ns}"
            if entry.name == deeper and entry.is_dir():
                yield from states(entry.path, "")


def config_hash(config: dict[str, Any]) -> str:
    """sha256 over the canonical config.json, without what changes when a model is only saved again."""
    kept = {key: value for key, value in config.items() if key not in VOLATILE}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def content_key(path: str, files: tuple[str, ...]) -> str:
    """sha256 over every file that decides an answer: all of the small ones, and each weights file's size, header and
    evenly spread samples.

    Reading gigabytes at every change would take minutes; another training step changes every sample.
    """
    digest = hashlib.sha256()
    for name in _deciding(path):
        with open_below(base_root(), path, name) as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(f"{name} {size}\n".encode("utf-8", "surrogateescape"))
            if size <= WHOLE:
                digest.update(hashlib.file_digest(file, "sha256").digest())  # type: ignore[arg-type]
            else:
                _add_samples(digest, file, 0, size)
    for name in files:
        with open_below(base_root(), path, name) as file:
            size = os.fstat(file.fileno()).st_size
            length = min(int.from_bytes(read_exactly(file, 8), "little"), BASE_HEADER_LIMIT)
            digest.update(f"{name} {size} {length}\n".encode())
            digest.update(read_exactly(file, length))
            _add_samples(digest, file, 8 + length, size)
    return digest.hexdigest()


def _deciding(path: str) -> list[str]:
    """Names, relative to a model's folder, of the files beside its weights that decide what it answers."""
    found = []
    for folder in ("", TEMPLATES):
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(os.path.join(path, folder)) as entries:
            found += [
                os.path.join(folder, entry.name)
                for entry in entries
                if (entry.name.endswith(DECIDING_SUFFIXES) or entry.name in DECIDING_NAMES) and entry.is_file()
            ]
    return sorted(found)


def _add_samples(digest: hashlib._Hash, file: BinaryIO, start: int, stop: int) -> None:
    step = max(1, (stop - start) // SAMPLES)
    for index in range(SAMPLES):
        file.seek(start + index * step)
        digest.update(read_exactly(file, min(SAMPLE_BYTES, step)))
