"""Importing the libraries that run models, which takes most of the engine's start."""

from __future__ import annotations

import functools
import gc
from typing import Any

LOOKED_UP_TWICE = "transformers.utils.import_utils"
_bounded: Any = functools.lru_cache


def begin() -> None:
    """From here to `end` nothing is collected, since imports leave no garbage, and Transformers reads the files of its
    five hundred models once: it looks them up twice, with a cache that has room for 128 of them."""
    gc.disable()
    functools.lru_cache = _roomy  # type: ignore[assignment]


def end() -> None:
    """What was imported stays: no collection looks at its half a million objects again."""
    functools.lru_cache = _bounded
    gc.freeze()
    gc.enable()


def _roomy(maxsize: Any = 128, typed: bool = False) -> Any:
    if callable(maxsize) and maxsize.__module__ == LOOKED_UP_TWICE:
        return _bounded(None)(maxsize)
    return _bounded(maxsize, typed)
