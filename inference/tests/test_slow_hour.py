"""A slow hour made on purpose, over the engine itself with a fake model: what is told names each cause."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import settings as live_settings
from django.contrib.auth.models import User

from inference.backends.local import LocalBackend
from inference.backends.process import WorkerOptions
from inference.manager import ModelManager, set_manager
from inference.measuring.recorder import Recorder
from tests.fixtures.portal import wait_for

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def engine(registry: SimpleNamespace, tmp_path: Path) -> Iterator[ModelManager]:
    """Adapters take 0.4 s to load and do not fit beside each other; a step takes 10 ms and reads 16 tokens."""
    for adapter in (registry.pirate, registry.poet):
        adapter.store_path.mkdir(parents=True)
        (adapter.store_path / "fake.json").write_text(json.dumps({"bytes": 2**20, "seconds": 0.4}))
    options = WorkerOptions(
        config={"runner": "inference.engine.fake:FakeRunner", "adapter_bytes": 2**20, "prefill_chunk": 16},
        log_path=tmp_path / "engine.log",
        folder=live_settings.BASE_DIR,
        environment={"LORAPORTAL_FAKE_STEP": "0.01"},
    )
    manager = ModelManager(partial(LocalBackend, options))
    before = set_manager(manager)
    yield manager
    set_manager(before)
    manager.close()


def test_each_cause_is_found(api: Callable[..., Any], operator: User, engine: ModelManager, recorder: Recorder) -> None:
    client = api(operator, "infer", "operate")

    def complete(request: str, model: str, prompt: str = "hello", tokens: int = 4) -> int:
        body = {"model": model, "prompt": prompt, "max_tokens": tokens}
        found: int = client.post("/v1/completions", body, format="json", headers={"X-Request-ID": request}).status_code
        return found

    def told(which: str) -> dict[str, Any]:
        recorder.flush()
        rows = client.get("/api/monitoring/requests", {"user": "all", "which": which}).json()["results"]
        return {row["request_id"]: row for row in rows}

    causes = {}
    for request, model, prompt, tokens in (
        ("cold", "tiny", "hello", 4),
        ("first", "pirate", "hello", 4),
        ("other", "poet", "hello", 4),
        ("evicted", "pirate", "hello", 4),
        ("long prompt", "pirate", "x" * 1500, 4),
        ("long answer", "pirate", "hello", 100),
    ):
        name = request.replace(" ", "-")
        assert complete(name, model, prompt, tokens) == 200
        causes[request] = told("slow")[name]["cause"]
    assert causes == {
        "cold": "start", "first": "adapter", "other": "adapter", "evicted": "adapter", "long prompt": "prompt",
        "long answer": "answer",
    }  # fmt: skip
    rows = told("slow")
    assert rows["evicted"]["evicted_at"] is not None and rows["other"]["evicted_at"] is None

    before = client.get("/api/inference/status").json()["engine"]["tokens"]
    asked = threading.Thread(target=complete, args=("crashed", "pirate", "hello", 2000))
    asked.start()
    wait_for(lambda: (engine.backend.last_status or {}).get("tokens", 0) > before)
    os.kill(engine.backend.snapshot()["pid"] or 0, signal.SIGKILL)
    asked.join(30)
    crashed = told("failed")["crashed"]
    assert (crashed["code"], crashed["detail"]) == ("engine_crashed", "SIGKILL")
    marks = client.get("/api/monitoring/history", {"user": "all"}).json()["marks"]
    kinds = {mark["kind"] for mark in marks}
    assert {"engine_started", "engine_crashed", "base_loaded", "adapter_loaded", "adapter_evicted"} <= kinds
    assert all(mark["seconds"] > 0.3 for mark in marks if mark["kind"] == "adapter_loaded")
