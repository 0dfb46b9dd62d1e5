"""The verdict on an adapter's logits, against the formula."""

from __future__ import annotations

import pytest
import torch

from inference.engine.lora.proof import Prober


def prober(reference: torch.Tensor, tolerance: float = 1e-5) -> Prober:
    return Prober(list(range(24 + len(reference))), 24, reference, tolerance)


@pytest.mark.parametrize("pieces", [[16], [7, 9], [1] * 16])
@pytest.mark.parametrize("size", [1e-3, 0.1, 3.0])
def test_divergence_and_changed_share(pieces: list[int], size: float) -> None:
    torch.manual_seed(1)
    base = 3 * torch.randn(16, 500) + 40
    adapted = base + size * torch.randn(16, 500)
    proof = prober(base)
    for _ in range(2):  # a second proof starts from nothing
        proof.start()
        for part in adapted.split(pieces):
            proof.compare(part)
        found = proof.verdict()
    p, q = torch.log_softmax(base.double(), -1), torch.log_softmax(adapted.double(), -1)
    assert found.ok and found.kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-2, abs=2e-6)
    assert found.changed == pytest.approx(float((base.argmax(-1) != adapted.argmax(-1)).float().mean()))


def test_no_effect_within_rounding() -> None:
    base = torch.randn(4, 50)
    proof = prober(base)
    proof.compare(base * (1 + 1e-7))
    assert proof.verdict().code == "no_effect"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("piece", [0, 1, 2])
def test_one_value_that_is_not_finite_decides(bad: float, piece: int) -> None:
    base = torch.randn(6, 50)
    proof = prober(base)
    for index, part in enumerate((base + 1.0).split(2)):
        if index == piece:
            part = part.clone()
            part[1, 17] = bad
        proof.compare(part)
    assert proof.verdict().code == "weights_nonfinite"


def test_positions_that_are_compared() -> None:
    proof = prober(torch.randn(16, 5))
    assert proof.wanted(0, 20) == [] and proof.wanted(20, 40) == list(range(24, 40))
