"""RMSNorm by the native kernel: only where it is the model's own mathematics, and then to rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inference.engine.config import EngineConfig
from inference.engine.model.norms import FusedNorm, fused
from inference.engine.model.runner import Runner
from inference.engine.native import library

from .conftest import Family
from .driver import base

pytestmark = pytest.mark.usefixtures("two_threads")


@pytest.fixture(scope="module")
def native() -> library.Native:
    found = library.native_library("")
    assert found is not None, "these tests need a C compiler (Debian package build-essential)"
    return found


class Norm(nn.Module):
    """RMSNorm as families write it; subclasses change one thing."""

    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size))
        self.variance_epsilon = eps

    def scale(self) -> Tensor:
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.scale() * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


class OnePlus(Norm):
    def scale(self) -> Tensor:
        return 1.0 + self.weight


class Centred(Norm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(-1, keepdim=True))


class NoEpsilon(Norm):
    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True)))


class Half(Norm):
    def scale(self) -> Tensor:
        return 0.5 + self.weight


class Gated(Norm):
    def forward(self, x: Tensor, gate: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) * gate


class MaybeGated(Norm):
    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        return super().forward(x) if gate is None else super().forward(x) * gate


@pytest.mark.parametrize("size", [1, 7, 16, 64, 72, 576, 1000])
@pytest.mark.parametrize("kind", [Norm, OnePlus])
def test_equals_the_models_own(native: library.Native, kind: type[Norm], size: int) -> None:
    torch.manual_seed(size)
    own = kind(size, 1e-5)
    ours = fused(own, native)
    assert ours is not None
    for x in (torch.randn(1, 9, size), torch.randn(3, 2 * size)[:, :size], torch.zeros(2, size), torch.randn(0, size)):
        wanted = own(x)
        got = ours(x)
        assert got.shape == wanted.shape and torch.allclose(got, wanted, rtol=2e-6, atol=0)


@torch.no_grad()
def test_a_view_that_is_not_dense_is_read_right(native: library.Native) -> None:
    own = Norm(24)
    ours = fused(own, native)
    assert ours is not None
    x = torch.randn(1, 5, 3, 24).transpose(1, 2)  # as heads before their rows
    assert torch.allclose(ours(x), own(x), rtol=2e-6, atol=0)


@pytest.mark.parametrize("kind", [Centred, NoEpsilon, Half, Gated, MaybeGated, nn.LayerNorm])
def test_other_mathematics_stays_as_it_is(native: library.Native, kind: Callable[[int], Any]) -> None:
    assert fused(kind(32), native) is None


@pytest.mark.parametrize("x", [torch.ones(2, 64), torch.ones(2, 32, dtype=torch.float64), torch.ones(2, 32).half()])
def test_what_the_kernel_would_misread_is_refused(native: library.Native, x: Tensor) -> None:
    ours = fused(Norm(32), native)
    assert ours is not None
    with pytest.raises(RuntimeError, match="RMSNorm over 32"):
        ours(x)


@torch.no_grad()
def test_what_is_not_finite_stays_in_its_row(native: library.Native) -> None:
    ours = fused(Norm(40), native)
    assert ours is not None
    x = torch.randn(3, 40)
    clean = ours(x)
    x[1, 3] = float("nan")
    spoilt = ours(x)
    assert spoilt[1].isnan().all() and torch.equal(spoilt[[0, 2]], clean[[0, 2]])


@torch.no_grad()
def test_a_row_does_not_depend_on_the_batch(native: library.Native) -> None:
    ours = fused(Norm(576), native)
    assert ours is not None
    x = torch.randn(300, 576)  # enough for several threads
    together = ours(x)
    assert all(torch.equal(ours(x[row : row + 1])[0], together[row]) for row in (0, 149, 299))


@pytest.mark.parametrize(("name", "every"), [("llama", True), ("gemma", True), ("qwen3", True), ("gpt2", False)])
def test_families(family: Callable[[str], Family], name: str, every: bool) -> None:
    made = EngineConfig(device="cpu", max_context=64, max_batch=2)
    runner = Runner(made)
    runner.load_base(base("t", family(name).base), lambda stage, done: None)  # type: ignore[arg-type]
    assert runner.base is not None
    norms = [module for module in runner.base.model.module.modules() if "norm" in type(module).__name__.lower()]
    assert norms and all(isinstance(module, FusedNorm) == every for module in norms)
