from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from adapters.services import edit
from inference.manager import ModelManager
from inference.measuring.figures import Figures
from inference.measuring.recorder import recorder
from inference.monitoring import health
from inference.monitoring.metrics import cumulative, engine_metrics, metric
from tests.fixtures.isolation import skip_for

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
    api: Callable[..., Any],
    operator: User,
    owner: User,
    registry: SimpleNamespace,
    manager: ModelManager,
    settings: Any,
) -> None:
    settings.MONITORING_DAYS = 30
    client = api(operator, "infer", "operate")
    assert figure(client.get("/metrics").content.decode(), "engine_up") == 0
    client.post("/v1/completions", {"model": "pirate", "prompt": "a b", "max_tokens": 3}, format="json")
    recorder.flush()
    response = client.get("/metrics")
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    text = response.content.decode()
    assert figure(text, "engine_up") == 1
    assert figure(text, "adapters", status="active") == 2
    assert figure(text, "request_success_total", model_name="pirate", finished_reason="stop") == 1
    assert figure(text, "generation_tokens_total", model_name="pirate") == 3
    for name in ("e2e_request_latency_seconds", "time_to_first_token_seconds"):
        assert figure(text, f"{name}_count", model_name="pirate") == 1
        assert figure(text, f"{name}_bucket", model_name="pirate", le="+Inf") == 1
        assert 0 < (figure(text, f"{name}_sum", model_name="pirate") or 0) < 60
    assert figure(text, "inter_token_latency_seconds_count", model_name="pirate") == 2
    assert "# TYPE loraportal_engine_restarts_total counter" in text.splitlines()
    assert all(name.startswith("loraportal_") for name, _ in figures(text)), "nothing of Python's own"
    assert api(owner, "infer").get("/metrics").status_code == 403


def test_a_renamed_adapter_is_shown_by_its_present_name(
    api: Callable[..., Any],
    operator: User,
    registry: SimpleNamespace,
    manager: ModelManager,
    settings: Any,
) -> None:
    settings.MONITORING_DAYS = 30
    program = api(operator, "infer", "operate")
    program.post("/v1/completions", {"model": "pirate", "prompt": "a b", "max_tokens": 3}, format="json")
    recorder.flush()
    edit(registry.pirate.pk, None, name="corsair")
    engine = program.get("/api/inference/status").json()["engine"]
    assert [(one["name"], one["digest"]) for one in engine["adapters"]] == [("corsair", registry.pirate.digest)]
    models = program.get("/api/monitoring/history", {"user": "all"}).json()["models"]
    assert [(one["name"], one["label"]) for one in models] == [("pirate", "corsair")]


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
    steps = {"step_seconds": 4.5, "step_rows": 180, "kv_used": 30, "kv_tokens": 120}
    engine = {**counts, **steps, "memory": {"weights": 2**33, "kv": 5}, "adapters": loaded}
    text = text_of(engine_metrics(worker, engine))
    found = figures(text).items()
    assert {(name.removeprefix("loraportal_"), *sorted(labels)): value for (name, labels), value in found} == {
        ("engine_up",): 1,
        ("engine_restarts_total",): 2,
        ("engine_in_flight",): 3,
        ("num_requests_running",): 1,
        ("num_requests_waiting",): 4,
        ("engine_slots",): 8,
        ("engine_steps_total",): 90,
        ("engine_step_seconds_total",): 4.5,
        ("engine_step_rows_total",): 180,
        ("engine_tokens_total",): 123_456_789,
        ("kv_cache_usage_perc",): 0.25,
        ("engine_memory_bytes", ("kind", "kv")): 5,
        ("engine_memory_bytes", ("kind", "weights")): 2**33,
        ("engine_adapters",): 2,
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


def test_buckets_count_exactly_what_does_not_exceed_their_bound() -> None:
    figures = Figures()
    for seconds in (0.25, 0.2501, 1.0, 2.5):
        figures.add("ttft", seconds)
    found = dict(cumulative(figures.buckets["ttft"]))
    assert (found["0.25"], found["0.5"], found["1.0"], found["2.0"], found["4.0"], found["+Inf"]) == (1, 2, 3, 3, 4, 4)


def test_dashboard_and_alerts_name_metrics_that_there_are(
    api: Callable[..., Any], operator: User, registry: SimpleNamespace, manager: ModelManager, settings: Any
) -> None:
    settings.MONITORING_DAYS = 30
    client = api(operator, "infer", "operate")
    for prompt in ("a b", "please fail"):
        client.post("/v1/completions", {"model": "pirate", "prompt": prompt}, format="json")
    client.post("/v1/completions", {"model": "nobody", "prompt": "a"}, format="json")
    recorder.flush()
    worker = {"state": "ready", "restarts": 0, "in_flight": 0}
    engine = {"memory": {"rss": 1}, "kv_used": 1, "kv_tokens": 1, "adapters": ()}
    engine |= dict.fromkeys("running waiting slots steps step_seconds step_rows tokens errors".split(), 1)
    pages = client.get("/metrics").content.decode(), text_of(engine_metrics(worker, engine))
    there = {name for page in pages for name, _labels in figures(page)}
    for file in ("deploy/grafana/loraportal.json", "deploy/prometheus/alerts.yml"):
        named = set(re.findall(r"loraportal_\w+", (settings.BASE_DIR / file).read_text()))
        assert len(named) > 5 and named <= there, (file, named - there)


def test_promtool_takes_the_alerts(settings: Any) -> None:
    promtool = shutil.which("promtool") or ""
    if not promtool:
        skip_for("promtool")
    for command, file in (("check", "alerts.yml"), ("test", "alerts_test.yml")):
        done = subprocess.run(
            [promtool, command, "rules", settings.BASE_DIR / "deploy/prometheus" / file], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
