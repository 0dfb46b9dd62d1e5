"""What the engine says about a base model: its look at a folder, in a child process of its own."""

from __future__ import annotations

import json
import sys

from django.conf import settings

import launching
from adapters.hooks import BaseSupport

from . import forking
from .backends.process import engine_environment

PROBE = "inference.engine.model.base_probe"
LONGEST = 16 * 2**20  # bytes of an answer; a hundred for each linear layer
TIMEOUT = 120.0  # seconds; the first takes about four, of which torch's import is most


def look_at(folder: str) -> BaseSupport:
    """Raises OSError where the child gave no verdict, TimeoutError."""
    words = [sys.executable, "-m", PROBE, folder]
    environment = engine_environment(settings.BASE_DIR) | {"CUDA_VISIBLE_DEVICES": ""}
    try:
        done = launching.run(
            words, environment, timeout=TIMEOUT, longest=LONGEST, folder=settings.BASE_DIR, starter=forking.starter()
        )
    except launching.TookTooLongError:
        raise TimeoutError("the look at its structure took too long") from None
    try:
        verdict = json.loads(done.output)
        if verdict["supported"] is False:
            return BaseSupport(str(verdict.get("reason") or "unknown"))
        return BaseSupport("", verdict.get("layers") or {}, verdict.get("earlier_names") or {})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise OSError(f"the child ended with status {done.status}") from None
