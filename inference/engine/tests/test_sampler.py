from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.model import sampler
from inference.engine.model.sampler import Drawing, candidates, generator, sample
from inference.engine.params import SamplingParams


def ask(
    params: SamplingParams, tokens: list[int] | None = None, prompt: int = 0, banned: list[int] | None = None
) -> Drawing:
    return Drawing(params, tokens or [], prompt, generator(params) if params.temperature else None, banned or [])


def reference(row: torch.Tensor, p: SamplingParams) -> dict[int, float]:
    """Top-k, top-p and min-p as Transformers' warpers define them, by a full sort."""
    from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    scores = (row.double() / p.temperature)[None]
    ids = torch.zeros(1, 1, dtype=torch.long)
    if p.top_k:
        scores = TopKLogitsWarper(p.top_k)(ids, scores)
    if p.top_p < 1.0:
        scores = TopPLogitsWarper(p.top_p)(ids, scores)
    if p.min_p > 0.0:
        scores = MinPLogitsWarper(p.min_p)(ids, scores)  # type: ignore[arg-type]
    probs = torch.softmax(scores[0], dim=-1)
    return {i: float(v) for i, v in enumerate(probs) if v > 0}


@settings(deadline=None, max_examples=80)
@given(
    st.integers(0, 2**31), st.floats(0.2, 2.0), st.sampled_from([0, 1, 5, 300]), st.sampled_from([1.0, 0.9, 0.3]),
    st.sampled_from([0.0, 0.05, 0.5]), st.floats(0.1, 6.0),
)  # fmt: skip
def test_filters_are_those_of_transformers(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float, spread: float
) -> None:
    row = torch.randn(700, generator=torch.Generator().manual_seed(seed)) * spread
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    probs, ids = candidates(row, params)
    total = float(probs.sum())
    ours = {int(i): float(p) / total for i, p in zip(ids, probs, strict=True) if p > 0}
    theirs = reference(row, params)
    # Tokens on the border of top-p may differ by rounding: they carry next to nothing.
    for token in ours.keys() ^ theirs.keys():
        assert max(ours.get(token, 0.0), theirs.get(token, 0.0)) < 0.02
    if ours.keys() == theirs.keys():
        assert all(math.isclose(ours[t], theirs[t], rel_tol=1e-3, abs_tol=1e-6) for t in ours)


def test_draws_follow_the_distribution() -> None:
    row = torch.tensor([2.0, 1.0, 0.0, -1.0])
    params = SamplingParams(temperature=1.0, seed=5)
    asks = [ask(params)]
    counts = Counter(sample(row[None], asks)[0].token for _ in range(4000))
    for token, probability in enumerate(torch.softmax(row, dim=-1).tolist()):
        assert abs(counts[token] / 4000 - probability) < 0.03


def test_a_seed_gives_the_same_tokens_whoever_else_is_in_the_batch() -> None:
    logits = torch.randn(50, 40, generator=torch.Generator().manual_seed(1))
    params = SamplingParams(temperature=1.0, top_p=0.9, seed=7)

    def run(others: int) -> list[int]:
        mine = ask(params)
        rest = [ask(SamplingParams(temperature=0.7)) for _ in range(others)]
        return [sample(torch.cat([row[None], torch.randn(others, 40)]), [mine, *rest])[0].token for row in logits]

    assert run(0) == run(3) == run(7)


def test_penalties() -> None:
    row = torch.tensor([[3.0, 2.9, -1.0, -1.1]])
    repeated = SamplingParams(temperature=0.0, repetition_penalty=2.0)
    assert sample(row, [ask(repeated, [0], prompt=1)])[0].token == 1, "the prompt counts for repetition"
    frequency = SamplingParams(temperature=0.0, frequency_penalty=0.2)
    assert sample(row, [ask(frequency, [0], prompt=1)])[0].token == 0, "the prompt does not count for frequency"
    assert sample(row, [ask(frequency, [5 % 4, 0], prompt=1)])[0].token == 1
    presence = SamplingParams(temperature=0.0, presence_penalty=0.5)
    assert sample(row, [ask(presence, [2, 0], prompt=1)])[0].token == 1


def test_banned_tokens_and_nonfinite_rows() -> None:
    row = torch.tensor([[3.0, 2.0, 1.0], [float("nan"), 1.0, 2.0], [float("inf"), 1.0, 2.0]])
    asks = [ask(SamplingParams(temperature=0.0), banned=[0])] + [ask(SamplingParams(temperature=t)) for t in (0.0, 1.0)]
    assert [s.token for s in sample(row, asks)] == [1, -1, -1]


def test_logprobs_are_the_models_own() -> None:
    row = torch.randn(1, 30)
    got = sample(row, [ask(SamplingParams(temperature=0.0, logprobs=3, presence_penalty=1.0), [1], 0)])[0]
    own = torch.log_softmax(row[0], dim=-1)
    assert got.logprob == pytest.approx(float(own[got.token]))
    assert got.top is not None and [t for t, _ in got.top] == torch.topk(own, 3).indices.tolist()


def test_the_guess_is_only_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    row = torch.randn(500)
    params = SamplingParams(temperature=1.5, top_p=0.99)
    full = candidates(row, params)
    monkeypatch.setattr(sampler, "GUESS", 4)
    assert torch.equal(candidates(row, params)[1], full[1])


@pytest.mark.parametrize("temperature", [1e-300, 1e-45, 1e-38, 1e-30, 1e-6, 1e-5, 2e-5, 1e-3])
@pytest.mark.parametrize("filters", [{}, {"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}, {"repetition_penalty": 1e-300}])
def test_the_coldest_temperatures_are_greedy(temperature: float, filters: dict[str, float]) -> None:
    rows = torch.randn(40, 300, generator=torch.Generator().manual_seed(2)) * 30
    params = SamplingParams(temperature=temperature, **filters)  # type: ignore[arg-type]
    for row in rows:
        likeliest = sampler.penalise(row, [3], [], params).argmax()
        assert sample(row[None], [ask(params, [3], prompt=1)])[0].token == int(likeliest)
