"""A base model in another precision than it is served in: a worker of its own for as long as something is measured.

It computes on the processor alone, after every other process of the machine, and is the first to be ended where memory
runs out. It is started only where the machine has room for it beside what is served. What it finds of an adapter or a
base is nobody's verdict.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from django.conf import settings
from django.utils.translation import gettext_noop

from adapters.bases.identity import base_root
from adapters.bases.memory import free_bytes, needed_by_processor
from adapters.bases.registry import CONFIG_LIMIT
from adapters.failures import Refused
from adapters.formats.files import parse_json, read_small
from adapters.models import BaseModel
from inference.backends.interface import Backend, OnVerdict
from inference.errors import InferenceError
from inference.manager import ModelManager, worker_options

from .targets import Target

logger = logging.getLogger(__name__)

QUANTISED = ("int8", "nf4")  # by bitsandbytes
ALWAYS_FREE = 2**30  # bytes that stay free beside the worker
RESERVE = 512 * 2**20  # for keys, values and what is computed
NICE = 15
CONFIG = "config.json"
GIB = 2**30


def refusal(base: BaseModel, precision: str) -> InferenceError | None:
    """Why a base cannot be measured in a precision here and now; None where it can."""
    facts: dict[str, Any] = {"base": base.name, "precision": precision}
    if reason := hindrance(base, precision):
        return InferenceError("precision_unavailable", "precisions", {**facts, "reason": reason})
    sizes, free = needed_by_processor(base), free_bytes()
    needed = sizes.get(precision, 0) + RESERVE + ALWAYS_FREE
    if sizes and free and needed > free:  # else the engine looks by itself before it loads
        facts |= {"needed": readable(needed), "free": readable(free)}
        return InferenceError("precision_memory", "precisions", facts)
    return None


def hindrance(base: BaseModel, precision: str) -> str:
    """What more memory would not help against, or "". Not translated yet."""
    if settings.INFERENCE_BACKEND == "vllm":
        return gettext_noop("the inference servers load their models themselves")
    if precision in QUANTISED and importlib.util.find_spec("bitsandbytes") is None:
        return gettext_noop("the package bitsandbytes is not installed")
    if is_quantised(base):
        return gettext_noop("the base model's files are quantised already")
    return ""


def is_quantised(base: BaseModel) -> bool:
    try:
        config = parse_json(read_small(base_root(), base.path, CONFIG, CONFIG_LIMIT), CONFIG, strict=False)
    except (Refused, OSError):
        return False  # its load will tell
    return isinstance(config, dict) and bool(config.get("quantization_config"))


def readable(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


class ApartManager(ModelManager):
    """Of such a worker. What it says of itself, of adapters and of bases is not the served engine's."""

    def _on_verdict(self, event: dict[str, Any]) -> None:
        if event["type"] == "refusal":
            logger.info("a base in another precision: %s", event.get("reason"))


def make_manager(precision: str) -> ModelManager:
    def backend(on_verdict: OnVerdict) -> Backend:
        from inference.backends.local import LocalBackend

        return LocalBackend(worker_options("engine-apart.log", **config(precision)), on_verdict, 16)

    return ApartManager(backend)


def config(precision: str) -> dict[str, Any]:
    """One text at a time, and uncut: in int8 what is computed together has an influence on each other."""
    return {
        "precision": precision, "device": "cpu", "nice": NICE, "threads": max(1, (os.cpu_count() or 1) // 2),
        "max_batch": 1, "prefill_chunk": 4 * settings.ENGINE_MAX_CONTEXT, "kv_bytes": 0, "idle_unload": 0,
    }  # fmt: skip


@contextlib.asynccontextmanager
async def engine_apart(precision: str) -> AsyncIterator[ModelManager]:
    """It starts with the first question, and has ended when the context is left, however that is."""
    manager = make_manager(precision)
    try:
        yield manager
    finally:
        await asyncio.shield(asyncio.to_thread(manager.close))


def as_proven(target: Target) -> Target:
    """That its adapter has an effect was measured where it is served."""
    adapter = target.adapter
    return replace(target, adapter={**adapter, "proven": True}) if adapter is not None else target
