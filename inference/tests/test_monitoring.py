from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from inference.manager import ModelManager
from inference.monitoring import health, metrics
from inference.monitoring.metrics import metric
from inference.quota.ledger import ledger

pytestmark = pytest.mark.django_db(transaction=True)


def test_ready(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.get("/readyz").json() == {"status": "ready", "checks": {"database": True, "store": True}}
    monkeypatch.setattr(health, "database_answers", lambda: False)
    response = client.get("/readyz")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "not_ready")
    assert response.json()["error"]["checks"] == {"database": False, "store": True}


def test_metrics(
    api: Callable[..., Any], operator: User, owner: User, registry: SimpleNamespace, manager: ModelManager
) -> None:
    client = api(operator, "infer", "operate")
    assert "loraportal_engine_up 0" in client.get("/metrics").content.decode()
    client.post("/v1/completions", {"model": "pirate", "prompt": "a b", "max_tokens": 3}, format="json")
    ledger.flush()
    response = client.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = response.content.decode().splitlines()
    for line in (
        "loraportal_engine_up 1",
        "# TYPE loraportal_engine_restarts_total counter",
        'loraportal_adapters{status="active"} 2',
        'loraportal_answers_total{model="pirate"} 1',
        'loraportal_tokens_total{model="pirate",kind="completion"} 3',
    ):
        assert line in lines
    assert api(owner, "infer").get("/metrics").status_code == 403


def test_unforeseen_exceptions_are_counted() -> None:
    worker = {"state": "ready", "restarts": 0, "in_flight": 0}
    assert "loraportal_engine_errors_total 3" in metrics.engine_lines(worker, {"errors": 3})


def test_labels_cannot_forge_lines() -> None:
    assert (
        list(metric("x", "gauge", "About.", [({"name": 'a"b\n\\'}, 1.5)]))[-1] == r'loraportal_x{name="a\"b\n\\"} 1.5'
    )
