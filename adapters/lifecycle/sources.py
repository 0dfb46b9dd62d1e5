"""The training folder that a stored copy is made from, found and read again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from django.conf import settings

from adapters.formats.files import inside, open_below
from adapters.formats.safetensors import Header, read_header
from adapters.models import LoraAdapter
from adapters.training.layout import PICKLE, WEIGHTS, AdapterFolder, look

from .conversion import converted


def real_roots() -> tuple[str, ...]:
    return tuple(os.path.realpath(root) for root in settings.LORA_ROOTS)


def look_again(adapter: LoraAdapter, roots: tuple[str, ...]) -> AdapterFolder | None:
    """The adapter's folder as it is now, only if it still lies below a configured root."""
    if not adapter.path or not inside(adapter.path, roots):
        return None
    root = next(r for r in roots if inside(adapter.path, (r,)))
    return look(root, adapter.path, roots)


def files_signature(adapter: LoraAdapter) -> str:
    """Of config and weights as they are now: a refusal by their values stands until this changes."""
    candidate = look_again(adapter, real_roots())
    return candidate.core_signature if candidate is not None else ""


@contextmanager
def open_weights(candidate: AdapterFolder, roots: tuple[str, ...]) -> Iterator[tuple[BinaryIO, Header]]:
    """The weights of a training folder as an open safetensors file with its header, converted where they are pickled.

    Raises Refused as `open_below`, `read_header` and `converted` do.
    """
    if candidate.weights == PICKLE:
        with converted(roots, candidate.path) as found:
            yield found
        return
    with open_below(roots, candidate.path, WEIGHTS) as file:
        yield file, read_header(file, os.fstat(file.fileno()).st_size)
