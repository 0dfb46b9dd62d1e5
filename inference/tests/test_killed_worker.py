"""kill -9 of the worker at every stage of a load and an answer: reported at once, and the next request is answered."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from inference.backends.local import LocalBackend
from inference.backends.process import WorkerOptions
from inference.engine.config import EngineConfig
from inference.engine.content import digest_of
from inference.engine.params import SamplingParams
from inference.errors import InferenceError
from inference.forking import forks
from inference.manager import ModelManager, Request
from tests.fixtures.models import TinyAdapter, write_tiny_adapter
from tests.fixtures.shared import kernels

from .whole import run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("forks")]
PROJECT = Path(__file__).resolve().parents[2]
REPORTED_WITHIN = 60.0  # seconds, a start and a load of the worker included; the death itself in milliseconds


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelManager]:
    monkeypatch.setattr("inference.manager.write_verdict", lambda event: None)
    shutil.copytree(kernels(), tmp_path / "run" / "native")
    config: dict[str, Any] = {
        "runner": "inference.tests.dying_runner:DyingRunner",
        "device": "cpu",
        "run_dir": str(tmp_path / "run"),
    }
    EngineConfig(**config)  # a name that is not one of its fields would be ignored by the worker
    options = WorkerOptions(config=config, log_path=tmp_path / "engine.log", folder=PROJECT, starter=forks.start)
    manager = ModelManager(partial(LocalBackend, options, limit=64))
    yield manager
    manager.close()


async def test_killed_at_every_stage(killed: ModelManager, tiny_base_model: Path, tmp_path: Path) -> None:
    def spec(seed: int) -> Any:
        folder = write_tiny_adapter(tmp_path / f"adapter{seed}", TinyAdapter(seed=seed))
        return {"digest": digest_of(folder), "path": str(folder), "name": "adapter"}

    known = spec(3)
    base: Any = {"key": "b" * 64, "path": str(tiny_base_model), "name": "tiny"}
    other: Any = {"key": "c" * 64, "path": str(tiny_base_model), "name": "other"}
    order = tmp_path / "run" / "die-at"

    def ask(base: Any = base, adapter: Any = known) -> Request:
        return Request(user="u", base=base, adapter=adapter, prompt="hello there", params=SamplingParams(
            temperature=0.0, max_tokens=12, ignore_eos=True))  # fmt: skip

    async def said(request: Request) -> str:
        return (await asyncio.wait_for(run(killed, request), REPORTED_WITHIN)).text

    expected = await said(ask())
    pids = {killed.backend.snapshot()["pid"]}
    for number, stage in enumerate(("read", "add", "proof", "prefill", "decode")):
        order.write_text(stage)
        with pytest.raises(InferenceError) as caught:
            # One that the bank does not hold, so that it is read and proven
            await said(ask(adapter=spec(10 + number)))
        assert caught.value.code == "engine_crashed", stage
        assert not order.exists(), f"it died at {stage}"
        assert await said(ask()) == expected, stage
        pids.add(killed.backend.snapshot()["pid"])
    for stage in ("unload", "weights", "packing", "loaded"):
        order.write_text(stage)
        with pytest.raises(InferenceError) as caught:
            await said(ask(other))
        assert caught.value.code == "engine_crashed", stage
        assert not order.exists(), f"it died at {stage}"
        assert await said(ask()) == expected, stage
        pids.add(killed.backend.snapshot()["pid"])
    assert len(pids) == 10, "a new worker each time"


async def test_killed_while_it_starts(killed: ModelManager, tiny_base_model: Path, tmp_path: Path) -> None:
    order = tmp_path / "run" / "die-at"
    order.write_text("start")
    base: Any = {"key": "b" * 64, "path": str(tiny_base_model), "name": "tiny"}
    request = Request(user="u", base=base, prompt="hello", params=SamplingParams(max_tokens=3, ignore_eos=True))
    answer = await asyncio.wait_for(run(killed, request), REPORTED_WITHIN)
    assert not order.exists(), "it died"
    assert answer.usage["completion_tokens"] == 3, "a request that waits for the start outlives a failed one"
