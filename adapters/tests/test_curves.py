"""The curve of a run while its training writes, and how far the training is."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from adapters import curves
from adapters.discovery import scanning
from adapters.models import LoraAdapter, TrainingFacts
from adapters.tests import layouts as make
from adapters.training.readers import seconds_of

pytestmark = pytest.mark.django_db


def touch(path: Path, ago: float) -> None:
    os.utime(path, (time.time() - ago,) * 2)


def log(run: Path, upto: int, of: int = 100, ago: float = 5, **last: Any) -> None:
    """LLaMA-Factory's log after `upto` steps of two seconds each."""
    lines = [
        {
            "current_steps": step, "total_steps": of, "loss": 3 / step, "lr": 1e-4, "epoch": step / 50,
            "elapsed_time": f"0:{step * 2 // 60:02}:{step * 2 % 60:02}",
            "remaining_time": f"0:00:{(of - step) // 2:02}",
        }
        for step in range(10, upto + 1, 10)
    ]  # fmt: skip
    lines[-1].update(last)
    (run / "trainer_log.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"current_st')  # one is being written
    touch(run / "trainer_log.jsonl", ago)


def saved(run: Path, step: int, ago: float, of: int = 100) -> None:
    """A checkpoint of HF's Trainer that was saved so many seconds ago."""
    folder = make.checkpoint(run / f"checkpoint-{step}", step, seed=step)
    state = make.trainer_state(step)
    state["max_steps"] = of
    make.write_json(folder / "trainer_state.json", state)
    touch(folder / "trainer_state.json", ago)


def scanned() -> LoraAdapter:
    """The newest checkpoint, after a scan."""
    scanning.scan(None)
    found = LoraAdapter.objects.order_by("-checkpoint").first()
    assert found is not None
    return found


def test_a_log_that_grows(registry: Path) -> None:
    run = registry / "run"
    saved(run, 20, ago=60)
    log(run, 30)
    adapter = scanned()
    assert adapter.loss == 3 / 20  # of the step that it was saved at, though the log goes on
    before = curves.curve_of(adapter)
    assert (before.state, before.step, before.max_steps) == ("training", 30, 100)
    assert [point["step"] for point in before.points] == [10, 20, 30]
    assert [point["elapsed"] for point in before.points] == [20, 40, 60]
    assert before.points[-1]["loss"] == 0.1 and before.points[-1]["learning_rate"] == 1e-4
    assert before.ends_at is not None and before.updated_at is not None
    assert (before.ends_at - before.updated_at).total_seconds() == 35  # as the trainer guessed
    log(run, 60, loss=float("nan"))
    after = curves.curve_of(adapter)
    assert (after.step, after.points[-1]["loss"]) == (60, None)
    log(run, 100)
    assert curves.curve_of(adapter).state == "finished"


def test_checkpoints_alone_tell_the_pace_and_the_times(registry: Path) -> None:
    run = registry / "run"
    for step, ago in ((10, 100), (20, 80), (40, 40)):
        saved(run, step, ago)
    adapter = scanned()
    curve = curves.curve_of(LoraAdapter.objects.get(checkpoint=10))  # of the whole run, whichever member is asked
    assert (curve.state, curve.step) == ("training", 40) and curve == curves.curve_of(adapter)
    assert [round(point["elapsed"]) for point in curve.points] == [20, 40, 60, 80]
    assert curve.ends_at is not None
    assert (curve.ends_at - timezone.now()).total_seconds() == pytest.approx(60 * 2 - 40, abs=5)


@pytest.mark.parametrize(
    ("ago", "final", "state"), [(5, False, "training"), (3600, False, "stopped"), (5, True, "finished")]
)
def test_a_run_that_is_silent_or_saved_is_not_trained(registry: Path, ago: float, final: bool, state: str) -> None:
    run = registry / "run"
    saved(run, 10, ago)
    if final:
        make.adapter(run)
    assert curves.curve_of(scanned()).state == state


def test_copied_checkpoints_have_no_times(registry: Path) -> None:
    for step in (10, 20):
        saved(registry / "run", step, ago=5)
    curve = curves.curve_of(scanned())
    assert curve.ends_at is None and not any("elapsed" in point for point in curve.points)


def test_ms_swift_writes_a_log_of_its_own(registry: Path) -> None:
    run = registry / "v0-20260101-000000"
    saved(run, 10, ago=5)
    lines = [
        {"loss": 2.0, "grad_norm": 1.5, "learning_rate": 1e-4, "epoch": 0.1, "global_step/max_steps": "5/80",
         "elapsed_time": "10s", "remaining_time": "2m 30s"},
        {"loss": 1.0, "global_step/max_steps": "15/80", "elapsed_time": "30s", "remaining_time": "1h 2m 10s"},
        {"last_model_checkpoint": "x", "global_step/max_steps": "no"},
    ]  # fmt: skip
    (run / "logging.jsonl").write_text("\n".join(map(json.dumps, lines)))
    curve = curves.curve_of(scanned())
    assert (curve.state, curve.step, curve.max_steps) == ("training", 15, 100)
    assert curve.points[0] == {**curve.points[0], "step": 5, "grad_norm": 1.5, "elapsed": 10}
    assert curve.ends_at is not None and curve.updated_at is not None
    assert (curve.ends_at - curve.updated_at).total_seconds() == 3730


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:01:02", 62), ("1 day, 1:00:00", 90_000), ("2 days, 0:00:01", 172_801), ("1h 2m 3s", 3723), ("45s", 45)]
    + [("soon", None), ("", None), (3, None), ("1" * 50, None)],
)
def test_times_of_trainers(text: Any, seconds: int | None) -> None:
    assert seconds_of(text) == seconds


def test_a_time_that_no_date_can_say_is_none(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(registry / "run", 10, ago=5)
    adapter = scanned()
    monkeypatch.setattr(curves, "_seen", lambda *_: (10**21, 1))  # a file system may hold it
    assert curves.curve_of(adapter).state == "finished"  # as the scan found it


def test_a_log_whose_clock_goes_back_tells_no_end(registry: Path) -> None:
    run = registry / "run"
    saved(run, 10, ago=5)
    lines = [
        {"current_steps": step, "total_steps": 10**15, "loss": 1.0, "elapsed_time": elapsed}
        for step, elapsed in ((1, "9999 days, 0:00:00"), (10, "0:00:01"))
    ]  # a training that went on after a break
    (run / "trainer_log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (run / "checkpoint-10" / "trainer_state.json").unlink()
    curve = curves.curve_of(scanned())
    assert (curve.state, curve.ends_at) == ("training", None)


def test_what_has_not_changed_is_not_read_again(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(registry / "run", 10, ago=5)
    adapter = scanned()
    first = curves.curve_of(adapter)
    monkeypatch.setattr(curves, "read_facts", None)
    assert curves.curve_of(adapter) == first


def test_without_its_folder_a_run_shows_what_was_known(registry: Path, settings: Any) -> None:
    saved(registry / "run", 20, ago=5)
    adapter = scanned()
    settings.LORA_ROOTS = [registry / "elsewhere"]
    curve = curves.curve_of(adapter)
    assert (curve.state, len(curve.points)) == ("finished", 2)
    TrainingFacts.objects.all().delete()
    assert curves.curve_of(adapter) == curves.Curve()


def test_the_call_and_the_pages_tell_of_a_running_training(registry: Path, operator: Any) -> None:
    run = registry / "run"
    saved(run, 20, ago=60)
    log(run, 30)
    adapter = scanned()
    client = Client()
    client.force_login(operator)
    told = client.get(f"/api/lora/models/{adapter.pk}/curve").json()
    assert (told["state"], told["run"], told["step"], len(told["curve"])) == ("training", "run", 30, 3)
    assert str(registry) not in json.dumps(told)
    page = client.get("/models").content.decode()
    assert 'data-testid="training-now"' in page and "30/100" in page
    shown = client.get(f"/models/{adapter.pk}").content.decode()
    assert 'data-testid="training"' in shown and '"state": "training"' in shown
    log(run, 100)
    assert 'data-testid="training-now"' not in client.get("/models").content.decode()
