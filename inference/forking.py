"""The process that has imported torch and Transformers: engines and looks at bases are forked from it, which takes
tenths of a second where a new process imports for seconds."""

from __future__ import annotations

from django.conf import settings

import launching

from .backends.process import surroundings

RUNNER = "inference.engine.model.runner:Runner"  # the one that needs what is imported


def _surroundings() -> dict[str, str]:
    return surroundings(settings.BASE_DIR)


forks = launching.Forks(["inference.engine.prepared"], _surroundings, settings.BASE_DIR)


def starter() -> launching.Starter:
    """What starts the engine's programs."""
    return forks.start if settings.ENGINE_FORK_SERVER else launching.start


def starter_of(runner: str) -> launching.Starter:
    """What starts an engine with this runner."""
    return starter() if runner == RUNNER else launching.start
