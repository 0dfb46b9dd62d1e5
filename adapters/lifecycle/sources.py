"""The training folder that a stored copy is made from, found and read again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from django.conf import settings

from adapters.failures import Refused
from adapters.formats import config as adapter_config
from adapters.formats.files import inside, parse_json, read_small
from adapters.formats.safetensors import Header
from adapters.models import BaseModel, LoraAdapter
from adapters.training.layout import CONFIG, PICKLE, WEIGHTS, AdapterFolder, look
from adapters.validation import repairs
from adapters.validation.repair.examine import Part
from adapters.validation.repair.parts import opened
from adapters.validation.repair.plan import Plan
from adapters.validation.repairs import Accepted
from adapters.validation.validate import key_of

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


@dataclass
class Source:
    """What a stored copy is made of: bytes of its config, its weights as an open safetensors file with their header.

    `parts`: the training folder's own files, of which `plan`, where it is not None, makes these.
    """

    config: bytes
    file: BinaryIO
    header: Header
    files: list[BinaryIO]
    parts: list[Part]
    plan: Plan | None = None

    @property
    def raw(self) -> Any:
        return parse_json(self.config, CONFIG)


@contextmanager
def open_source(
    candidate: AdapterFolder, roots: tuple[str, ...], base: BaseModel | None, accepted: Accepted | None
) -> Iterator[Source]:
    """The adapter in a training folder, converted where its weights are pickled, and repaired where `accepted` says so.

    Raises Refused as `opened`, `converted` and `repairs.find` do, and repairable where only a repair makes it one file.
    """
    config = read_small(roots, candidate.path, CONFIG, adapter_config.LIMIT)
    with _files(candidate, roots) as (files, parts):
        source = Source(config, files[0], parts[0].header, files, parts)
        if accepted is not None and accepted.content == key_of(candidate, roots):
            found = repairs.find(source.raw, parts, base, Refused("repairable"))
            if found is not None and found[0].key == accepted.plan:
                plan = source.plan = found[0]
                repairs.check_dropped(plan, files, parts, found[1], thorough=True)
                _, source.header, file = repairs.read_plan(plan, files)
                source.config, source.file = plan.config, file  # type: ignore[assignment]
        if source.plan is None and len(files) > 1:
            raise Refused("changed_meanwhile")  # nobody validated this
        yield source


@contextmanager
def _files(candidate: AdapterFolder, roots: tuple[str, ...]) -> Iterator[tuple[list[BinaryIO], list[Part]]]:
    if candidate.weights == PICKLE:
        with converted(roots, candidate.path) as (file, header):
            yield [file], [Part(WEIGHTS, header)]
        return
    with opened(roots, candidate) as found:
        yield found
