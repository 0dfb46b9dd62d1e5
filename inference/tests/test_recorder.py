from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError
from django.utils import timezone

from inference.measuring import recorder as module
from inference.measuring import writing
from inference.measuring.entries import EngineIncident, EngineSample, Record
from inference.measuring.figures import Figures
from inference.measuring.gathering import Measurements
from inference.measuring.recorder import Recorder
from inference.models import Happening, RequestFacts, Series
from inference.monitoring.history import ALL, RANGES, busiest, engine_history, history

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def make_recorder(settings: Any) -> Iterator[Callable[[], Recorder]]:
    settings.MONITORING_DAYS = 30
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder())
        return made[-1]

    yield make
    for recorder in made:
        recorder.close()


def record(number: int = 0, **other: Any) -> Record:
    given: dict[str, Any] = {
        "at": time.time(), "request_id": f"r{number}", "user_id": 1, "token_ref": 0, "model": "pirate",
        "digest": "d" * 64,
        "reason": "stop", "total": 2.0, "ttft": 0.5, "stages": {"queue": 0.25, "prompt": 0.25, "answer": 1.5},
        "prompt_tokens": 10, "cached_tokens": 4, "completion_tokens": 20,
    }  # fmt: skip
    return Record(**given | other)


def test_processes_add_up(make_recorder: Callable[[], Recorder]) -> None:
    for recorder, total in ((make_recorder(), 1.0), (make_recorder(), 4.0)):
        recorder.post(record(total=total))
        recorder.flush()
        recorder.post(record(user_id=2, total=total))
        recorder.flush()
    whole = history(ALL, RANGES["1h"])["whole"]
    assert (whole["requests"], whole["failed"], whole["completion_tokens"]) == (4, 0, 80)
    assert whole["latency_p50"] == pytest.approx(1.0, rel=0.04) and whole["latency_p99"] == pytest.approx(4.0, rel=0.04)
    assert history(("user", "2"), RANGES["15m"])["whole"]["requests"] == 2
    assert history(("model", "pirate"), RANGES["30d"])["whole"]["ends"] == {"stop": 4}
    assert [row.requests for row in Series.objects.filter(step=0, kind="all")] == [4]


def test_the_facts_of_the_slowest_and_the_failed_are_kept(make_recorder: Callable[[], Recorder]) -> None:
    recorder = make_recorder()
    for number in range(100):
        recorder.post(record(number, total=number / 10))
    recorder.post(record(100, total=0.2, ttft=None, reason="error", code="engine_crashed", detail="SIGKILL"))
    recorder.flush()
    kept = set(RequestFacts.objects.values_list("request_id", flat=True))
    assert {"r98", "r99", "r100"} <= kept and len(kept) <= 4
    failed = RequestFacts.objects.get(code="engine_crashed")
    assert (failed.detail, failed.reason, failed.ttft) == ("SIGKILL", "error", None)
    assert history(ALL, RANGES["1h"])["whole"]["ends"] == {"engine_crashed": 1, "stop": 100}


def test_nothing_is_lost_while_the_database_is_away(
    make_recorder: Callable[[], Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = make_recorder()

    def away(*_args: Any) -> None:
        raise DatabaseError

    with monkeypatch.context() as patch:
        patch.setattr(writing, "upsert", away)
        recorder.post(record())
        recorder.post(EngineIncident(time.time(), "engine_crashed", "", "cpu", 0.0, "SIGSEGV"))
        recorder.flush()
        assert not Series.objects.exists() and not Happening.objects.exists()
    recorder.flush()
    assert history(ALL, RANGES["1h"])["whole"]["requests"] == 1
    assert Happening.objects.get().reason == "SIGSEGV"
    assert RequestFacts.objects.count() == 1


def test_memory_is_bounded_while_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.measuring.gathering.MOST_KEPT", 50)
    gathering = Measurements()
    for number in range(100):
        gathering.request(record(number, model=f"m{number}"))
    gathering.roll_up()
    gathering.forget(time.time())
    assert len(gathering.rows) == 50 and gathering.unwritten <= set(gathering.rows)


def test_what_is_forgotten_before_it_is_complete_is_not_written_over(
    make_recorder: Callable[[], Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.measuring.gathering.MOST_KEPT", 5)
    recorder = make_recorder()
    for _ in range(3):
        recorder.post(record())
        recorder.flush()
    assert history(("model", "pirate"), RANGES["30d"])["whole"]["requests"] == 3
    assert [row["requests"] for row in busiest("model", RANGES["30d"])] == [3]


def test_the_engine_is_measured_by_its_heartbeats(make_recorder: Callable[[], Recorder]) -> None:
    recorder = make_recorder()
    memory = {"rss": 100, "rss_peak": 150, "rss_limit": 1000}
    for steps in (10, 30):
        status = {
            "steps": steps,
            "step_seconds": steps / 10,
            "step_rows": 4 * steps,
            "waiting": steps,
            "memory": memory,
        }
        recorder.post(EngineSample(time.time(), status, 7))
    recorder.post(EngineIncident(time.time(), "engine_started", "", "cpu", 2.5, ""))
    recorder.post(EngineSample(time.time(), {"steps": 5, "step_seconds": 0.5, "step_rows": 20, "memory": memory}, 7))
    recorder.flush()
    columns = engine_history(RANGES["24h"])
    last = {name: values[-1] for name, values in columns.items()}
    assert (last["step_seconds"], last["batch"], last["waiting"]) == (0.1, 4.0, 30)
    assert (last["rss_peak"], last["rss_limit"], last["web_rss"]) == (150, 1000, 7)
    assert columns["rss"][0] is None, "a gap where no engine ran"
    counts = Figures(Series.objects.get(step=60, kind="engine").data).counts
    assert (counts["steps"], counts["engine_started"]) == (35, 1)


def test_few_models_have_series_of_their_own_for_ever(make_recorder: Callable[[], Recorder], settings: Any) -> None:
    settings.METRICS_MODELS = 2
    recorder = make_recorder()
    for number, model in enumerate(["a", "b", "c", "d", "a"]):
        recorder.post(record(number, model=model))
        recorder.flush()
    rows = Series.objects.filter(step=0, kind="model").values_list("name", "requests")
    assert dict(rows) == {"a": 2, "b": 1, "": 2}
    assert [row["name"] for row in busiest("model", RANGES["1h"])] == ["a", "b", "c", "d"]
    assert busiest("model", RANGES["7d"])[0]["requests"] == 2


def test_what_is_old_goes_and_of_the_slow_the_slowest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    now = timezone.now()
    for step, days in ((60, 2), (60, 0), (600, 4), (600, 1), (7200, 31), (7200, 20), (0, 100)):
        start = now - timedelta(days=days)
        Series.objects.create(step=step, kind="all", start=start, process=str(days), data={})
    old = now - timedelta(hours=7)
    for number in range(10):
        RequestFacts.objects.create(at=old, request_id=str(number), user_ref=1, total=number, stages={})
    RequestFacts.objects.create(at=now, request_id="new", user_ref=1, total=0, stages={})
    monkeypatch.setattr(writing, "MOST_FACTS", 4)
    writing.tend(30)
    left = sorted((row.step, int(row.process)) for row in Series.objects.all())
    assert left == [(0, 100), (60, 0), (600, 1), (7200, 20)]
    assert set(RequestFacts.objects.values_list("request_id", flat=True)) == {"6", "7", "8", "9", "new"}


def test_without_retention_nothing_is_kept(make_recorder: Callable[[], Recorder], settings: Any) -> None:
    recorder = make_recorder()
    settings.MONITORING_DAYS = 0
    recorder.post(record())
    recorder.flush()
    assert not Series.objects.exists() and not RequestFacts.objects.exists()


def test_once_closed_it_starts_no_thread(make_recorder: Callable[[], Recorder]) -> None:
    """As the ledger."""
    recorder = make_recorder()
    recorder.post(record())
    recorder.close()
    before = threading.enumerate()
    recorder.post(record(1))
    recorder.flush()
    assert threading.enumerate() == before
    assert history(ALL, RANGES["1h"])["whole"]["requests"] == 1


def test_what_is_old_goes_soon_after_the_start(
    make_recorder: Callable[[], Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = timezone.now() - timedelta(days=31)
    RequestFacts.objects.create(at=old, request_id="old", user_ref=1, total=1, prompt="secret")
    RequestFacts.objects.create(at=timezone.now(), request_id="new", user_ref=1, total=1, prompt="secret")
    assert module.TEND_FIRST < 300
    monkeypatch.setattr(module, "TEND_FIRST", 0.0)
    recorder = make_recorder()
    recorder.start()  # nobody asks anything
    recorder.flush()
    assert [(row.request_id, row.prompt) for row in RequestFacts.objects.all()] == [("new", "")], "texts are off by now"
