"""The weights of a folder, whole or in shards, opened and their headers read.

Shards follow the index that Transformers and huggingface_hub write beside them: `weight_map`, name of a tensor -> file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from django.utils.translation import gettext_noop

from adapters.failures import Refused
from adapters.formats.files import open_below, parse_json, read_small
from adapters.formats.safetensors import ADAPTER_HEADER_LIMIT, read_header
from adapters.training.layout import INDEX, MOST_SHARDS, SHARD, AdapterFolder

from .examine import Part

INDEX_LIMIT = 2**21  # bytes


@contextmanager
def opened(roots: tuple[str, ...], candidate: AdapterFolder) -> Iterator[tuple[list[BinaryIO], list[Part]]]:
    """(files, their headers) of a folder's safetensors. Raises Refused as `open_below` and `read_header`, and
    config_malformed where the index is none, weights_malformed where it does not agree with the shards."""
    names, listed = _names(roots, candidate)
    with ExitStack() as stack:
        files, parts = [], []
        left = ADAPTER_HEADER_LIMIT
        for name in names:
            file = stack.enter_context(open_below(roots, candidate.path, name))
            header = read_header(file, os.fstat(file.fileno()).st_size, left)
            if len(names) > 1:  # the headers of all shards are as long as that of one file may be
                left -= header.data_start - 8
            files.append(file)
            parts.append(Part(name, header))
        if listed is not None and listed != {key: part.name for part in parts for key in part.header.tensors}:
            raise Refused("weights_malformed", reason=gettext_noop("the index does not agree with the shards"))
        yield files, parts


def _names(roots: tuple[str, ...], candidate: AdapterFolder) -> tuple[list[str], dict[str, str] | None]:
    """The files, and what the index says of them; None where there is none."""
    if candidate.weights or candidate.foreign != INDEX:
        return [candidate.weights or candidate.foreign], None
    index = parse_json(read_small(roots, candidate.path, INDEX, INDEX_LIMIT), INDEX)
    table = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
        reason = gettext_noop("weight_map is missing or invalid")
        raise Refused("config_malformed", file=INDEX, reason=reason)
    names = sorted(set(table.values()))
    if len(names) > MOST_SHARDS or not all(SHARD.fullmatch(name) for name in names):
        raise Refused("config_malformed", file=INDEX, reason=gettext_noop("a shard name is invalid"))
    return names, table
