"""The process that has imported torch and Transformers: engines and looks at bases are forked from it, which takes
tenths of a second where a new process imports for seconds."""

from __future__ import annotations

from django.conf import settings

import launching

from .backends.process import engine_environment
from .engine.config import EngineConfig

forks = launching.Forks(["inference.engine.prepared"], lambda: engine_environment(settings.BASE_DIR), settings.BASE_DIR)


def starter() -> launching.Starter:
    """What starts the engine's programs."""
    return forks.start if settings.ENGINE_FORK_SERVER else launching.start


def starter_of(runner: str) -> launching.Starter:
    """What starts an engine with this runner; one for tests has no use for what is imported."""
    return starter() if runner == EngineConfig.runner else launching.start
