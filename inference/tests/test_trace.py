from __future__ import annotations

from typing import Any

import pytest

from inference.measuring.figures import bucket_of
from inference.measuring.trace import RequestTrace


def traced(*events: tuple[float, bool, dict[str, Any]]) -> RequestTrace:
    trace = RequestTrace(100.0)
    for at, started, event in events:
        trace.seen(event, started, 100.0 + at)
    return trace


def done(queue: float, ttft: float) -> dict[str, Any]:
    return {"type": "done", "timings": {"queue": queue, "ttft": ttft}}


def token(tokens: int) -> dict[str, Any]:
    return {"type": "token", "tokens": tokens}


def loading(stage: str) -> dict[str, Any]:
    return {"type": "loading", "stage": stage}


def test_a_cold_start_is_told_stage_by_stage() -> None:
    trace = traced(
        (0.1, False, loading("starting")),  # the process
        (3.1, True, {"type": "queued", "reason": "loading_base"}),
        (3.2, True, loading("starting")),  # the base
        (5.1, True, loading("weights")),
        (8.1, True, loading("adapter")),
        (9.1, True, token(1)),
        (10.1, True, token(3)),
        (11.1, True, done(queue=5.5, ttft=6.0)),
    )
    assert trace.first == 109.1 and trace.ended == 111.1
    assert trace.stages == pytest.approx(
        {"door": 0.1, "start": 3.0, "base": 5.0, "adapter": 0.5, "prompt": 0.5, "answer": 2.0}
    )
    assert sum(trace.stages.values()) == pytest.approx(11.1)


def test_a_long_prompt_is_told_from_the_wait_for_a_place() -> None:
    trace = traced(
        (0.0, True, {"type": "queued", "reason": "batch_full"}),
        (6.0, True, token(1)),
        (6.5, True, done(queue=1.0, ttft=6.0)),
    )
    assert trace.stages == pytest.approx({"queue": 1.0, "prompt": 5.0, "answer": 0.5})


def test_what_holds_the_memory_and_the_batch_is_told_apart() -> None:
    trace = traced(
        (1.0, True, {"type": "queued", "reason": "memory"}),
        (4.0, True, {"type": "queued", "reason": "batch_full"}),
        (6.0, True, {"type": "error", "code": "engine_crashed"}),
    )
    assert trace.stages == pytest.approx({"door": 1.0, "queue": 2.0, "memory": 3.0})


def test_gaps_are_counted_for_each_token() -> None:
    trace = traced((1.0, True, token(1)), (1.1, True, token(2)), (1.4, True, token(5)))
    assert trace.gaps == {bucket_of(0.1): 4}
    assert trace.gap_seconds == pytest.approx(0.4)


def test_taking_a_place_back_is_part_of_the_answer() -> None:
    trace = traced(
        (1.0, True, token(1)), (2.0, True, {"type": "queued", "reason": "batch_full"}), (5.0, True, token(2))
    )
    trace.end(106.0)
    trace.end(200.0)
    assert trace.stages == pytest.approx({"door": 1.0, "answer": 5.0})


def test_what_a_reader_took_for_the_end_counts_as_well() -> None:
    trace = traced((1.0, True, token(1)), (2.0, True, done(queue=0.5, ttft=1.0)))
    trace.close(105.0)
    assert trace.stages == pytest.approx({"door": 0.5, "prompt": 0.5, "answer": 4.0})
