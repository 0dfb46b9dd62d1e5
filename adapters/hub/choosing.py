"""Which files of a repository are taken: those that an upload may have and that the registry reads, in folders that
hold an adapter."""

from __future__ import annotations

from adapters.failures import Refused
from adapters.training.layout import CONFIG, FOREIGN, KEY_FILES, PICKLE, SHARD, WEIGHTS
from adapters.uploads import naming

from .snapshots import RemoteFile

BESIDE = {"vocab.json"}  # of a tokenizer


def chosen(files: tuple[RemoteFile, ...]) -> list[RemoteFile]:
    """In the order of their paths. Raises Refused: import_no_adapter, import_pickle, import_too_many."""
    folders: dict[str, dict[str, RemoteFile]] = {}
    for file in files:
        if isinstance(naming.parts_of(file.path), tuple):  # others could not lie here under their names
            folder, _, name = file.path.rpartition("/")
            folders.setdefault(folder, {})[name] = file
    adapters = {folder: found for folder, found in folders.items() if CONFIG in found}
    whole = [found for found in adapters.values() if _has_weights(found)]
    if not whole:
        if any(PICKLE in found for found in adapters.values()):
            raise Refused("import_pickle")
        raise Refused("import_no_adapter")
    taken = sorted((file for found in whole for name, file in found.items() if is_taken(name)), key=lambda f: f.path)
    if len(taken) > naming.MAX_FILES:
        raise Refused("import_too_many", limit=naming.MAX_FILES)
    if len({file.path.casefold() for file in taken}) < len(taken):
        raise Refused("import_bad_answer", reason="siblings")
    return taken


def is_taken(name: str) -> bool:
    known = name in KEY_FILES or name in BESIDE or SHARD.fullmatch(name) is not None
    return known and naming.is_kept(name)


def _has_weights(found: dict[str, RemoteFile]) -> bool:
    return not {WEIGHTS, *FOREIGN}.isdisjoint(found)
