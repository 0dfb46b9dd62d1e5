"""How much of a proof a step takes along, on a machine whose steps cost so and so much."""

from __future__ import annotations

import pytest

from inference.engine.scheduling.proof_pace import FIRST, GRACE, LEAST, SHARE, ProofPace


@pytest.mark.parametrize("usual", [0.005, 0.03, 0.3, 2.0])
@pytest.mark.parametrize("token", [0.0002, 0.002, 0.03])
def test_no_step_takes_longer_than_one_more_and_the_grace(usual: float, token: float) -> None:
    pace = ProofPace()
    for _ in range(20):
        pace.decoded(usual)
    for _ in range(8):
        size = pace.budget()
        assert size * token <= usual + GRACE or size in {FIRST, LEAST}
        pace.probed(size, usual + size * token)
    assert pace.budget() == pytest.approx(max(LEAST, SHARE * (usual + GRACE) / token), abs=1.5)


def test_it_follows_the_batch() -> None:
    pace = ProofPace()
    pace.decoded(0.03)
    pace.probed(8, 0.03 + 8 * 0.002)
    few = pace.budget()
    for _ in range(30):
        pace.decoded(0.09)
    assert pace.budget() > 1.9 * few


def test_nothing_known() -> None:
    pace = ProofPace()
    assert pace.budget() == FIRST
    pace.probed(8, 1.0)  # before any usual step: it says nothing about the proof's share
    assert pace.budget() == FIRST
    pace.decoded(0.05)
    pace.probed(8, 0.04)  # faster than usual: costs nothing that could be measured
    assert pace.budget() == FIRST
