"""A base that is cut short while the real engine reads it: the process ends, and whoever asked hears why."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from inference.backends.local import LocalBackend
from inference.backends.process import WorkerOptions
from inference.engine.content import folder_signature
from inference.engine.tests import tiny
from inference.errors import InferenceError
from inference.manager import ModelManager, Request
from inference.mending import Subject

from .whole import run

# The engine's own worker, but for one thing: each file of weights is cut short right after it was mapped.
CUTTING = """
import os
import transformers.modeling_utils as library
from inference.engine.worker import main
opened = library.safe_open
def cutting(path, *args, **kwargs):
    found = opened(path, *args, **kwargs)
    os.truncate(path, 4096)
    return found
library.safe_open = cutting
main()
"""


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ModelManager]:
    config = {"runner": "inference.engine.model.runner:Runner", "device": "cpu", "max_context": 64}
    script = tmp_path / "worker.py"
    script.write_text(CUTTING)
    project = Path(__file__).parents[2]
    options = WorkerOptions(config, tmp_path / "log", project, (sys.executable, str(script)))
    made = ModelManager(partial(LocalBackend, options))
    yield made
    made.close()


async def test_it_is_told_the_first_time(
    manager: ModelManager, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny.write_base(tmp_path / "base", "llama")
    base: Any = {"key": "b" * 64, "path": str(folder), "name": "tiny", "signature": folder_signature(str(folder))}
    looked: list[Subject] = []

    def settle(subject: Subject, _closing: Any) -> Any:
        looked.append(subject)
        raise InferenceError("base_changed")

    manager.mending.settle = settle
    with pytest.raises(InferenceError) as caught:
        await asyncio.wait_for(run(manager, Request(user="u", base=base, prompt="hello")), 120)
    assert (caught.value.code, caught.value.detail["base"]) == ("base_changed", "tiny")
    assert {subject.path for subject in looked} == {str(folder)}
    assert manager.backend.snapshot()["restarts"] == 1
    assert any(record.getMessage().endswith("SIGBUS") for record in caplog.records)
