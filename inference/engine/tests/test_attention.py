"""The native attention of decoding rows against the tensor operations that serve without a compiler."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from inference.engine.model.kv_cache import KVCache, LayerShape
from inference.engine.model.step_attention import StepAttention
from inference.engine.model.step_rows import DecodeRows
from inference.engine.native import library
from inference.engine.native.library import Native

pytestmark = pytest.mark.usefixtures("two_threads")

CPU = torch.device("cpu")
LENGTH = 160


@pytest.fixture(scope="module")
def native() -> Native:
    found = library.native_library("")
    assert found is not None, "these tests need a C compiler (Debian package build-essential)"
    return found


def cache(kv_heads: int, key: int, value: int) -> KVCache:
    made = KVCache({0: LayerShape(kv_heads, key, value)}, 9, LENGTH, CPU, torch.float32)
    made.keys[0].normal_()
    made.values[0].normal_()
    return made


def attend(
    native: Native | None, kv: KVCache, decode: DecodeRows, q: Tensor, k: Tensor, v: Tensor, window: int | None,
    scale: float | None = None,
) -> Tensor:  # fmt: skip
    """Rows (rows, heads, value size); the step's own keys and values are written into `kv`."""
    return StepAttention(kv, decode, [], CPU, native).attend(0, q, k, v, scale, window, None)[0]


def inputs(rows: int, heads: int, kv_heads: int, key: int, value: int) -> tuple[Tensor, Tensor, Tensor]:
    """As a model hands them over: (1, heads, rows, size), transposed from (1, rows, heads, size)."""
    shapes = ((heads, key), (kv_heads, key), (kv_heads, value))
    q, k, v = (torch.randn(1, rows, count, size).transpose(1, 2) for count, size in shapes)
    return q, k, v


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, LENGTH), min_size=1, max_size=8), kv_heads=st.integers(1, 3),
    group=st.integers(1, 9), key=st.integers(1, 80), value=st.integers(1, 150),
    window=st.none() | st.integers(1, 40), scale=st.none() | st.just(0.3), seed=st.integers(0, 9),
)  # fmt: skip
@example(lengths=[LENGTH] * 8, kv_heads=3, group=3, key=64, value=64, window=None, scale=None, seed=0)
@example(lengths=[1], kv_heads=1, group=8, key=128, value=128, window=16, scale=None, seed=0)
def test_it_equals_tensor_operations(
    native: Native, lengths: list[int], kv_heads: int, group: int, key: int, value: int, window: int | None,
    scale: float | None, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    slots = torch.randperm(9)[: len(lengths)].tolist()
    decode = DecodeRows(slots, lengths)
    ours, theirs = cache(kv_heads, key, value), cache(kv_heads, key, value)
    theirs.keys[0].copy_(ours.keys[0])
    theirs.values[0].copy_(ours.values[0])
    q, k, v = inputs(len(lengths), group * kv_heads, kv_heads, key, value)
    got = attend(native, ours, decode, q, k, v, window, scale)
    wanted = attend(None, theirs, decode, q, k, v, window, scale)
    assert torch.allclose(got, wanted, atol=2e-5, rtol=1e-4)
    assert torch.equal(ours.keys[0], theirs.keys[0]) and torch.equal(ours.values[0], theirs.values[0])


def test_a_row_does_not_depend_on_the_batch(native: Native) -> None:
    torch.manual_seed(3)
    kv = cache(2, 40, 72)
    slots, lengths = [5, 0, 3, 8, 1], [160, 1, 33, 64, 7]
    q, k, v = inputs(5, 6, 2, 40, 72)
    together = attend(native, kv, DecodeRows(slots, lengths), q, k, v, None)
    for row in range(5):
        only = slice(row, row + 1)
        alone = attend(
            native, kv, DecodeRows(slots[only], lengths[only]), q[:, :, only], k[:, :, only], v[:, :, only], None
        )
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["query", "key", "value"])
def test_what_is_not_finite_stays_so_and_reaches_no_other_row(native: Native, place: str, bad: float) -> None:
    torch.manual_seed(4)
    kv = cache(1, 32, 32)
    decode = DecodeRows([2, 3, 4], [20, 40, 30])
    q, k, v = inputs(3, 2, 1, 32, 32)
    good = attend(native, kv, decode, q, k, v, None)
    {"query": q, "key": k, "value": v}[place][0, :, 1, 5] = bad
    got = attend(native, kv, decode, q, k, v, None)
    assert not torch.isfinite(got[1]).all()
    assert torch.equal(got[[0, 2]], good[[0, 2]])


def test_extreme_scores_give_the_only_key_all_the_weight(native: Native) -> None:
    kv = cache(1, 16, 16)
    kv.keys[0].zero_()
    q, k, v = inputs(1, 1, 1, 16, 16)
    k.fill_(30.0)
    q.fill_(30.0)
    got = attend(native, kv, DecodeRows([0], [100]), q, k, v, None)
    assert torch.allclose(got[0, 0], v[0, 0, 0])
    q.fill_(-30.0)
    got = attend(native, kv, DecodeRows([0], [100]), q, k, v, None)
    assert torch.allclose(got[0, 0], kv.values[0][0, :99, 0].mean(dim=0), atol=1e-6)
