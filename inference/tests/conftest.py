from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapters import services
from adapters.models import BaseModel, LoraAdapter, Status
from adapters.tests import layouts
from inference.backends.local import LocalBackend
from inference.backends.process import WorkerOptions
from inference.manager import ModelManager, set_manager
from inference.measuring.recorder import Recorder
from inference.quota.ledger import ledger, release

from .fake_vllm import fake_vllm

PATIENCE = 60.0  # seconds for the end of what would else write into the next test's database
FAKE_WORKER = Path(__file__).with_name("fake_worker.py")


@pytest.fixture
def make_manager(tmp_path: Path) -> Iterator[Callable[..., ModelManager]]:
    """Managers over the fake worker; ended after the test."""
    made: list[ModelManager] = []

    def make(limit: int = 64, heartbeat_timeout: float = 5.0, history: bool = False, **config: Any) -> ModelManager:
        options = WorkerOptions(
            config=config,
            log_path=tmp_path / "engine.log",
            folder=FAKE_WORKER.parents[2],
            command=(sys.executable, str(FAKE_WORKER)),
            start_timeout=20.0,
            heartbeat_timeout=heartbeat_timeout,
        )
        made.append(ModelManager(partial(LocalBackend, options, limit=limit), history))
        return made[-1]

    yield make
    for manager in made:
        manager.close(PATIENCE)


@pytest.fixture
def manager(make_manager: Callable[..., ModelManager]) -> Iterator[ModelManager]:
    """The process-wide manager, over the fake worker."""
    manager = make_manager()
    before = set_manager(manager)
    yield manager
    set_manager(before)


@pytest.fixture
def recorder(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """One that keeps what it is told, in place of the one of the process, which tests switch off."""
    settings.MONITORING_DAYS = 30
    recorder = Recorder()
    for module in ("inference.gateway.outcome", "inference.measuring.refusals", "inference.manager"):
        monkeypatch.setattr(f"{module}.recorder", recorder)
    yield recorder
    recorder.close(PATIENCE)


@pytest.fixture
def slow_books(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots are given back late, and who finds none free is refused at once."""

    def late(records: Any) -> None:
        time.sleep(0.05)
        release(records)

    monkeypatch.setattr("inference.quota.ledger.release", late)
    monkeypatch.setattr(type(ledger), "pending", False)


@pytest.fixture
def registry(transactional_db: None) -> SimpleNamespace:
    """A base and adapters as rows: `pirate` and `poet` are served, `idle` is only discovered."""
    base = BaseModel.objects.create(
        name="tiny", slug="tiny", path="/models/tiny", path_hash="tiny", key="b" * 64, context_length=2048
    )

    def adapter(name: str, digest: str) -> LoraAdapter:
        status = Status.ACTIVE if digest else Status.DISCOVERED
        return LoraAdapter.objects.create(name=name, slug=name, path_hash=name, base=base, status=status, digest=digest)

    return SimpleNamespace(
        base=base,
        pirate=adapter("pirate", "d" * 64),
        poet=adapter("poet", "e" * 64),
        idle=adapter("idle", ""),
    )


@pytest.fixture
def fleet(tmp_path: Path, settings: Any) -> Iterator[SimpleNamespace]:
    """A registry with one adapter (`one`) whose base a replica serves."""
    root = tmp_path / "adapters"
    layouts.adapter(root / "one")
    layouts.base_model(tmp_path / "models" / layouts.BASE_NAME)
    settings.VAR_DIR, settings.LORA_ROOTS, settings.STORE_DIR = tmp_path, [root], tmp_path / "store"
    settings.BASE_MODELS_DIR, settings.SCAN_SETTLE_SECONDS = tmp_path / "models", 0.0
    settings.INFERENCE_BACKEND, settings.FLEET_DIR = "vllm", tmp_path / "fleet"
    with fake_vllm(tmp_path / "fleet", root=f"/srv/{layouts.BASE_NAME}") as server:
        settings.VLLM_URL = [("", server.url)]
        before = set_manager(None)
        services.scan(None)
        yield SimpleNamespace(server=server, root=root, folder=tmp_path / "fleet", settings=settings)
        set_manager(before)
