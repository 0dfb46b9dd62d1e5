from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from inference.manager import ModelManager
from inference.monitoring import health
from inference.monitoring.metrics import engine_metrics, metric
from inference.quota.ledger import ledger

pytestmark = pytest.mark.django_db(transaction=True)


def test_ready(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.get("/readyz").json() == {"status": "ready", "checks": {"database": True, "store": True}}
    monkeypatch.setattr(health, "database_answers", lambda: False)
    response = client.get("/readyz")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "not_ready")
    assert response.json()["error"]["checks"] == {"database": False, "store": True}


@pytest.mark.parametrize("what", ["missing", "a file", "locked"])
def test_ready_with_its_store(client: Client, settings: Any, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    settings.STORE_DIR.rmdir()
    if what == "a file":
        settings.STORE_DIR.touch()
    elif what == "locked":  # also for root, to whom the file system refuses nothing
        settings.STORE_DIR.mkdir()
        real = health.os.access
        monkeypatch.setattr(health.os, "access", lambda path, mode: path != settings.STORE_DIR and real(path, mode))
    assert client.get("/readyz").status_code == (200 if what == "missing" else 503)


def figures(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of a page of metrics, read as Prometheus reads it."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def figure(text: str, name: str, **labels: str) -> float | None:
    return figures(text).get((f"loraportal_{name}", frozenset(labels.items())))


def test_metrics(
    api: Callable[..., Any], operator: User, owner: User, registry: SimpleNamespace, manager: ModelManager
) -> None:
    client = api(operator, "infer", "operate")
    assert figure(client.get("/metrics").content.decode(), "engine_up") == 0
    client.post("/v1/completions", {"model": "pirate", "prompt": "a b", "max_tokens": 3}, format="json")
    ledger.flush()
    response = client.get("/metrics")
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    text = response.content.decode()
    assert figure(text, "engine_up") == 1
    assert figure(text, "adapters", status="active") == 2
    assert figure(text, "answers_total", model="pirate") == 1
    assert figure(text, "tokens_total", model="pirate", kind="completion") == 3
    assert "# TYPE loraportal_engine_restarts_total counter" in text.splitlines()
    assert all(name.startswith("loraportal_") for name, _ in figures(text)), "nothing of Python's own"
    assert api(owner, "infer").get("/metrics").status_code == 403


class Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self.families = list(families)

    def collect(self) -> list[Metric]:
        return self.families


def text_of(families: Iterable[Metric]) -> str:
    registry = CollectorRegistry()
    registry.register(Families(families))
    return generate_latest(registry).decode()


def test_all_that_the_engine_says() -> None:
    worker = {"state": "ready", "restarts": 2, "in_flight": 3}
    counts = {"running": 1, "waiting": 4, "slots": 8, "steps": 90, "tokens": 123_456_789}
    loaded = [{"name": "pirate", "digest": "ab"}, {"name": "haiku", "digest": "cd"}]
    engine = {**counts, "memory": {"weights": 2**33, "kv": 5}, "adapters": loaded}
    text = text_of(engine_metrics(worker, engine))
    found = figures(text).items()
    assert {(name.removeprefix("loraportal_engine_"), *sorted(labels)): value for (name, labels), value in found} == {
        ("up",): 1,
        ("restarts_total",): 2,
        ("in_flight",): 3,
        ("running",): 1,
        ("waiting",): 4,
        ("slots",): 8,
        ("steps_total",): 90,
        ("tokens_total",): 123_456_789,
        ("memory_bytes", ("kind", "kv")): 5,
        ("memory_bytes", ("kind", "weights")): 2**33,
        ("adapter_loaded", ("digest", "ab"), ("name", "pirate")): 1,
        ("adapter_loaded", ("digest", "cd"), ("name", "haiku")): 1,
    }
    assert "# TYPE loraportal_engine_tokens_total counter" in text.splitlines()


def test_unforeseen_exceptions_are_counted() -> None:
    worker = {"state": "ready", "restarts": 0, "in_flight": 0}
    assert "loraportal_engine_errors_total 3.0" in text_of(engine_metrics(worker, {"errors": 3}))


def test_labels_cannot_forge_lines() -> None:
    text = text_of(metric("x", "gauge", "About.", [({"name": 'a"b\n\\'}, 1.5)]))
    assert text.splitlines()[-1] == r'loraportal_x{name="a\"b\n\\"} 1.5'


def test_a_metric_without_samples_is_left_out() -> None:
    assert text_of(metric("x", "gauge", "About.", [])) == ""
