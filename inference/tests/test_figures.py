from __future__ import annotations

import json
import random

import pytest

from inference.measuring.figures import ACCURACY, HIGHEST, LOWEST, Figures, bucket_of, middle_of, percentile, total


@pytest.mark.parametrize("seconds", [0.001, 0.0123, 0.5, 1.0, 7.3, 600.0, 8000.0])
def test_a_bucket_tells_its_seconds_within_its_width(seconds: float) -> None:
    assert middle_of(bucket_of(seconds)) == pytest.approx(seconds, rel=ACCURACY / 2 + 0.001)


def test_what_is_too_short_or_too_long_counts_in_the_outermost_buckets() -> None:
    assert (bucket_of(0.0), bucket_of(-1.0), bucket_of(1e9)) == (LOWEST, LOWEST, HIGHEST)


def test_percentiles_are_those_of_the_samples() -> None:
    random.seed(1)
    samples = [random.lognormvariate(0, 1.5) for _ in range(5000)]
    figures = Figures()
    for sample in samples:
        figures.add("latency", sample)
    ordered = sorted(samples)
    for share in (0.5, 0.95, 0.99):
        assert figures.percentile("latency", share) == pytest.approx(ordered[int(share * 5000) - 1], rel=0.04)


def test_nothing_has_no_percentile_and_one_sample_has_all() -> None:
    assert percentile({}, 0.5) is None
    assert {percentile({7: 1}, share) for share in (0.0, 0.5, 0.99, 1.0)} == {middle_of(7)}


def test_parts_add_up_to_the_whole_also_by_way_of_json() -> None:
    parts = []
    for value in (0.1, 0.2, 4.0):
        part = Figures()
        part.counts["requests"] += 1
        part.add("ttft", value)
        part.level("rss", value)
        parts.append(Figures(json.loads(json.dumps(part.data()))))
    whole = total(parts)
    assert whole.counts["requests"] == 3
    assert whole.counts["ttft_seconds"] == pytest.approx(4.3)
    assert whole.percentile("ttft", 1.0) == middle_of(bucket_of(4.0))
    assert whole.mean("rss") == pytest.approx(4.3 / 3) and whole.highest("rss") == 4.0
