"""The base's products: the native kernel against the formula, and what it promises about bits and bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from inference.engine.model.products import NativeProduct, OneDnnProduct, base_product
from inference.engine.native import library
from inference.engine.native.library import Native

pytestmark = pytest.mark.usefixtures("two_threads")

BF16, FP16, FP32 = 0, 1, 2
ROUNDED = {BF16: torch.bfloat16, FP16: torch.float16, FP32: torch.float32}


@pytest.fixture(scope="module")
def native() -> Native:
    found = library.native_library("")
    assert found is not None, "these tests need a C compiler (Debian package build-essential)"
    return found


def exactly(weight: Tensor, form: int) -> Tensor:
    return weight.to(ROUNDED[form]).float()


def has_half_precision(native: Native) -> bool:
    """Whether this processor widens float16; without that such weights stay in four bytes."""
    one = torch.tensor([1.0 + 2**-10])
    return native.weights_format(one.data_ptr(), 1, 1) == FP16


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40), inputs=st.integers(1, 90), outputs=st.integers(1, 150),
    form=st.sampled_from([BF16, FP16, FP32]), bias=st.booleans(), seed=st.integers(0, 9),
)  # fmt: skip
@example(rows=12, inputs=64, outputs=96, form=BF16, bias=False, seed=0)
@example(rows=1, inputs=7, outputs=33, form=FP32, bias=True, seed=0)
def test_products_equal_the_formula(
    native: Native, rows: int, inputs: int, outputs: int, form: int, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    weight = exactly(torch.randn(outputs, inputs), form)
    added = torch.randn(outputs) if bias else None
    x = torch.randn(rows, inputs)
    y = NativeProduct(weight, added, native)(x)
    wanted = x.double() @ weight.double().t() + (added.double() if added is not None else 0.0)
    assert y.shape == (rows, outputs)
    assert torch.allclose(y.double(), wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("form", [BF16, FP16, FP32])
def test_weights_are_stored_in_as_few_bytes_as_hold_them(native: Native, form: int) -> None:
    if form == FP16 and not has_half_precision(native):
        form = FP32
    product = NativeProduct(exactly(torch.randn(64, 48), form), None, native)
    assert product.format == form
    assert product.bytes == 64 * 48 * (4 if form == FP32 else 2)


@pytest.mark.parametrize("value", [1.0 + 2**-20, 1e-30 * 1.1, 70000.5])
def test_one_weight_that_two_bytes_cannot_hold_keeps_all_in_four(native: Native, value: float) -> None:
    weight = exactly(torch.randn(40, 30), BF16)
    weight[39, 29] = value
    product = NativeProduct(weight, None, native)
    assert product.format == FP32
    only = torch.zeros(1, 30)
    only[0, 29] = 1.0
    assert product(only)[0, 39] == weight[39, 29]


@pytest.mark.parametrize("form", [BF16, FP16, FP32])
def test_every_weight_is_kept_to_the_last_bit(native: Native, form: int) -> None:
    """Tiny, huge, negative zero, and infinity: an identity matrix brings them back as they were."""
    special = torch.tensor([0.0, -0.0, 1e-6, -6e-8, 65504.0, -3.0, float("inf"), 2**-24, 1.5])
    weight = torch.zeros(37, 9)
    for row in range(9):
        weight[4 * row, row] = exactly(special, form)[row]
    y = NativeProduct(weight, None, native)(torch.eye(9))
    got = torch.stack([y[row, 4 * row] for row in range(9)])
    assert torch.equal(got[torch.isfinite(got)], exactly(special, form)[torch.isfinite(exactly(special, form))])


@pytest.mark.parametrize("form", [BF16, FP32])
def test_a_row_does_not_depend_on_the_batch(native: Native, form: int) -> None:
    torch.manual_seed(1)
    product = NativeProduct(exactly(torch.randn(200, 130), form), None, native)
    x = torch.randn(45, 130)
    alone = torch.cat([product(x[row : row + 1]) for row in range(len(x))])
    for size in (2, 3, 4, 7, 12, 13, 25, 45):
        assert torch.equal(product(x[:size]), alone[:size]), size


def test_inputs_in_any_layout(native: Native) -> None:
    product = NativeProduct(torch.randn(50, 24), None, native)
    x = torch.randn(6, 24)
    wide = torch.randn(6, 40)
    wide[:, 8:32] = x
    assert torch.equal(product(wide[:, 8:32]), product(x))
    assert torch.equal(product(x.t().contiguous().t()), product(x))
    assert product(x[:0]).shape == (0, 50)


def test_siblings_and_transposed_layers_are_computed_as_one(native: Native) -> None:
    torch.manual_seed(2)
    layers: list[Any] = [nn.Linear(20, 10), nn.Linear(20, 7, bias=False), Conv1D(5, 20)]
    x = torch.randn(3, 20)
    wanted = torch.cat([layer(x) for layer in layers], dim=-1)
    for found in (native, None):
        product = base_product(layers, found)
        assert isinstance(product, NativeProduct if found else OneDnnProduct)
        assert torch.allclose(product(x), wanted, atol=1e-5)
