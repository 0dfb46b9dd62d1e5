"""Which engines are forked from the process that has imported torch."""

from __future__ import annotations

from typing import Any

import pytest

import launching
from inference.forking import forks
from inference.manager import worker_options


@pytest.mark.parametrize(
    ("wanted", "runner", "forked"),
    [
        (True, "inference.engine.model.runner:Runner", True),
        (True, "inference.engine.fake:FakeRunner", False),
        (False, "inference.engine.model.runner:Runner", False),
    ],
)
def test_the_engine_that_runs_models_is_forked_where_that_is_wanted(
    settings: Any, wanted: bool, runner: str, forked: bool
) -> None:
    settings.ENGINE_FORK_SERVER, settings.ENGINE_RUNNER = wanted, runner
    assert worker_options().starter == (forks.start if forked else launching.start)
    assert worker_options("engine-apart.log", precision="fp32").starter == worker_options().starter
