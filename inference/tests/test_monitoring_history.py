"""What was asked is measured at the one way to ask, and told to whom it concerns."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.core import serializers

from adapters.models import AdapterEvent
from inference.manager import ModelManager
from inference.measuring.recorder import Recorder
from inference.measuring.writing import instant
from inference.models import Happening, RequestFacts

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("recorder")]
HISTORY, REQUESTS = "/api/monitoring/history", "/api/monitoring/requests"


def complete(client: Any, prompt: str, model: str = "pirate", **extra: Any) -> Any:
    body = {"model": model, "prompt": prompt, "max_tokens": 8}
    return client.post("/v1/completions", body, format="json", **extra)


def test_a_request_is_told_with_its_durations_and_tokens(
    api: Callable[..., Any], operator: User, registry: SimpleNamespace, manager: ModelManager, recorder: Recorder
) -> None:
    client = api(operator, "infer", "operate")
    began = time.monotonic()
    response = complete(client, "a b c", headers={"X-Request-ID": "mine-1"})
    took = time.monotonic() - began
    assert response.headers["X-Request-ID"] == "mine-1"
    recorder.flush()
    found = client.get(HISTORY, {"user": "all", "range": "15m"}).json()
    assert (found["whole"]["requests"], found["whole"]["ends"]) == (1, {"stop": 1})
    assert (found["whole"]["prompt_tokens"], found["whole"]["completion_tokens"]) == (3, 5)
    assert 0 < found["whole"]["latency_p99"] <= took * 1.05
    assert sum(value > 0 for value in found["columns"]["requests_per_second"]) == 1
    assert len(found["times"]) == 15 == len(found["engine"]["rss"])
    assert found["models"][0]["name"] == "pirate" and found["users"][0]["name"] == "operator"
    [facts] = client.get(REQUESTS, {"user": "all"}).json()["results"]
    assert (facts["request_id"], facts["model"], facts["user"]) == ("mine-1", "pirate", "operator")
    assert facts["digest"] == registry.pirate.digest
    assert sum(facts["stages"].values()) == pytest.approx(facts["total"], abs=0.001)
    assert facts["stages"]["start"] > 0, "the engine was started for it"


def test_failures_are_told_by_code_and_a_crash_is_marked(
    api: Callable[..., Any], operator: User, registry: SimpleNamespace, manager: ModelManager, recorder: Recorder
) -> None:
    client = api(operator, "infer", "operate")
    assert complete(client, "please fail").status_code == 400
    assert complete(client, "please crash").status_code == 503
    assert complete(client, "again").status_code == 200
    recorder.flush()
    found = client.get(HISTORY, {"user": "all"}).json()
    assert found["whole"]["ends"] == {"context_length_exceeded": 1, "engine_crashed": 1, "stop": 1}
    crash = next(mark for mark in found["marks"] if mark["kind"] == "engine_crashed")
    assert crash["reason"] == "exit status 9"
    assert [mark["kind"] for mark in found["marks"]].count("engine_started") == 2
    failed = client.get(REQUESTS, {"user": "all", "which": "failed"}).json()["results"]
    assert [(row["code"], row["detail"]) for row in failed] == [
        ("engine_crashed", "exit status 9"),
        ("context_length_exceeded", ""),
    ]
    assert all(row["message"] for row in failed)


def test_a_limit_that_refuses_is_counted_and_named(
    api: Callable[..., Any],
    operator: User,
    registry: SimpleNamespace,
    manager: ModelManager,
    recorder: Recorder,
    settings: Any,
) -> None:
    settings.USER_REQUESTS_PER_MINUTE = 1
    client = api(operator, "infer", "operate")
    assert [complete(client, "a").status_code for _ in range(2)] == [200, 429]
    recorder.flush()
    ends = client.get(HISTORY, {"model": "pirate"}).json()["whole"]["ends"]
    assert ends == {"rate_limit_exceeded": 1, "stop": 1}
    [failed] = client.get(REQUESTS, {"which": "failed"}).json()["results"]
    assert failed["message"] == "The request limit (1 per minute) has been reached. Try again in a moment."


def test_a_person_sees_the_own_use_alone(
    api: Callable[..., Any],
    owner: User,
    operator: User,
    registry: SimpleNamespace,
    manager: ModelManager,
    recorder: Recorder,
) -> None:
    mine, theirs = api(owner, "infer"), api(operator, "infer", "operate")
    complete(mine, "a b")
    complete(theirs, "secret words")
    Happening.objects.create(at="2100-01-01T00:00Z", kind="engine_crashed")
    recorder.flush()
    found = mine.get(HISTORY).json()
    assert found["whole"]["requests"] == 1
    assert (found["engine"], found["marks"], found["models"], found["users"]) == (None, [], [], [])
    assert [row["user"] for row in mine.get(REQUESTS).json()["results"]] == ["owner"]
    for query in ({"user": "all"}, {"user": "operator"}, {"model": "pirate"}):
        for path in (HISTORY, REQUESTS):
            assert mine.get(path, query).status_code == 403
            assert theirs.get(path, query).status_code == 200
    assert theirs.get(HISTORY, {"user": "owner"}).json()["whole"]["requests"] == 1
    assert theirs.get(HISTORY, {"user": "nobody"}).status_code == 404
    assert mine.get(HISTORY, {"range": "1y"}).json()["error"]["param"] == "range"


def test_an_adapter_that_was_evicted_before_its_load_is_told(
    api: Callable[..., Any], operator: User, registry: SimpleNamespace
) -> None:
    now = time.time()
    facts: dict[str, Any] = {"user_ref": operator.pk, "model": "pirate", "reason": "stop", "digest": "d" * 64}
    for number, stages in enumerate([{"adapter": 3.0, "answer": 1.0}, {"prompt": 3.0, "answer": 1.0}]):
        at = instant(now - number)
        RequestFacts.objects.create(at=at, request_id=str(number), total=4.0 - number, stages=stages, **facts)
    Happening.objects.create(at=instant(now - 60), kind="adapter_evicted", key="d" * 64, name="pirate", reason="room")
    AdapterEvent.objects.create(adapter_name="pirate", kind="activated")
    AdapterEvent.objects.create(adapter_name="pirate", kind="edited")
    client = api(operator, "operate")
    rows = client.get(REQUESTS, {"user": "all"}).json()["results"]
    assert [row["cause"] for row in rows] == ["adapter", "prompt"]
    assert rows[0]["evicted_at"] == pytest.approx(now - 60) and rows[1]["evicted_at"] is None
    kinds = [mark["kind"] for mark in client.get(HISTORY, {"user": "all"}).json()["marks"]]
    assert kinds == ["activated", "adapter_evicted"]


def everything_kept() -> str:
    """All rows of this side of the portal."""
    kept = [row for kind in apps.get_app_config("inference").get_models() for row in kind._default_manager.all()]
    return serializers.serialize("json", kept, ensure_ascii=False)


@pytest.mark.parametrize("kept", [False, True])
def test_texts_are_kept_by_a_setting_alone(
    api: Callable[..., Any], owner: User, teammate: User, operator: User, registry: SimpleNamespace,
    manager: ModelManager, recorder: Recorder, settings: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path,
    kept: bool,
) -> None:  # fmt: skip
    settings.MONITORING_TEXTS = kept
    caplog.set_level("DEBUG")
    client = api(owner, "infer")
    talk = {"model": "pirate", "messages": [{"role": "user", "content": "marsupial"}]}
    assert complete(client, "marsupial hello").status_code == 200
    assert client.post("/v1/chat/completions", talk, format="json").status_code == 200
    assert complete(client, "marsupial fail").status_code == 400
    assert complete(client, "marsupial", model="nobody").status_code == 404
    recorder.flush()
    rows = everything_kept()
    assert "pirate" in rows and ("marsupial" in rows) is kept
    assert "asked pirate" in caplog.text and "marsupial" not in caplog.text
    assert "marsupial" not in (tmp_path / "engine.log").read_text()
    others, answers = api(teammate, "infer"), []
    for reader, query in ((client, {}), (api(operator, "operate"), {"user": "all"})):
        failed = reader.get(REQUESTS, query | {"which": "failed"}).json()["results"]
        slow = reader.get(REQUESTS, query).json()["results"]
        answers.append(sorted((row["prompt"], row["answer"]) for row in [*failed, *slow]) if kept else [])
        assert kept or all("prompt" not in row for row in [*failed, *slow])
    if kept:
        assert answers[0] == answers[1] and ("marsupial fail", "") in answers[0]
        assert ("marsupial hello", "pirate says marsupial hello ") in answers[0]
    assert others.get(REQUESTS).json()["results"] == []
    settings.MONITORING_TEXTS = False
    assert all("prompt" not in row for row in client.get(REQUESTS).json()["results"])
