"""What a trainer's own evaluations came to, by what it logs of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapters.training.evaluated import Evaluated, evaluated


def state(folder: Path, *entries: Any) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": list(entries)}))
    return str(folder)


def logged(samples: int, batches: int, seconds: float, **more: Any) -> dict[str, Any]:
    """As Transformers' `speed_metrics` rounds it."""
    rates = {
        "eval_samples_per_second": round(samples / seconds, 3),
        "eval_steps_per_second": round(batches / seconds, 3),
    }
    return {"step": 10, "eval_loss": 1.5, "eval_runtime": round(seconds, 4), **rates, **more}


@pytest.mark.parametrize(
    ("samples", "batches", "seconds", "found"),
    [
        (5, 1, 12.9981, (5, 1)),
        (1000, 125, 71.23456, (1000, 125)),
        (20_000, 2500, 2700.5, (None, None)),
        (3, 3, 0.01, (3, 3)),
    ],
)
def test_samples_and_batches_follow_from_speed_and_time(
    tmp_path: Path, samples: int, batches: int, seconds: float, found: tuple[Any, Any]
) -> None:
    folder = state(tmp_path / "run", {"step": 10, "loss": 2.0}, logged(samples, batches, seconds))
    one = evaluated((str(tmp_path),), [folder], 10)
    assert one == Evaluated(10, 1.5, *found)
    assert one.batch == (-(-samples // batches) if found[0] else None)


def test_only_this_step_and_only_numbers_count(tmp_path: Path) -> None:
    roots = (str(tmp_path),)
    odd = [
        None,
        7,
        {"step": "10", "eval_loss": 1.0},
        {"step": 10, "eval_loss": float("nan")},
        {"step": 10, "eval_loss": True},
    ]
    first = state(tmp_path / "first", *odd, {"step": 9, "eval_loss": 1.0})
    second = state(
        tmp_path / "second", {"step": 10, "eval_loss": 3, "eval_runtime": 10**400, "eval_samples_per_second": []}
    )
    assert evaluated(roots, [first], 10) is None
    assert evaluated(roots, [str(tmp_path / "none"), first, second], 10) == Evaluated(10, 3.0)
    (tmp_path / "second" / "trainer_state.json").write_text("[" * 100_000)
    assert evaluated(roots, [second], 10) is None
    outside = state(tmp_path / "outside", {"step": 10, "eval_loss": 1.0})
    assert evaluated((str(tmp_path / "first"),), [outside], 10) is None
