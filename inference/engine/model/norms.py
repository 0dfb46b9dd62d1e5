"""RMSNorm in one call instead of six operations, wherever a model's own module proves to compute just that.

Every family writes its own class, some with `1 + weight`. Nothing is taken from a name: a module is replaced where it
has one vector of weights and an epsilon, and gives on test rows what the kernel gives.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from inference.engine.native.library import Native

from .linear import replace

ROUNDING = 2e-6  # relative difference that the order of sums and two roundings may cause
SCALES = (1e-4, 1.0, 3e3)  # of the test rows: epsilon decides, neither, neither


class FusedNorm(nn.Module):
    """See `native/norms.c`; x (..., size) in fp32 on the CPU."""

    def __init__(self, weight: Tensor, eps: float, native: Native, offset: float = 0.0) -> None:
        """`offset`: what the module whose place this takes adds to its weights."""
        super().__init__()
        self.register_buffer("weight", weight + offset)
        self.offset = offset
        self.eps = eps
        self.native = native
        self.threads = torch.get_num_threads()

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self._buffers["weight"]  # type: ignore[assignment]
        size = weight.shape[0]
        if x.dtype != torch.float32 or x.shape[-1] != size:
            raise RuntimeError(f"RMSNorm over {size} numbers of fp32 met {tuple(x.shape)} of {x.dtype}")
        rows = x.reshape(-1, size)
        if rows.stride(1) != 1:
            rows = rows.contiguous()
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        self.native.rms_norm(
            rows.data_ptr(), rows.stride(0), rows.shape[0], size, weight.data_ptr(), self.eps, y.data_ptr(),
            self.threads,
        )  # fmt: skip
        return y


def fused(module: nn.Module, native: Native) -> FusedNorm | None:
    """What may stand in the module's place; None where it computes something else."""
    parameters = dict(module.named_parameters())
    weight = parameters.get("weight")
    eps = next((getattr(module, name) for name in ("variance_epsilon", "eps") if hasattr(module, name)), None)
    if len(parameters) != 1 or weight is None or weight.ndim != 1 or not isinstance(eps, float):
        return None
    if len(inspect.signature(module.forward).parameters) != 1:
        return None  # a gate, a residual: what it does with them is not known
    if weight.dtype != torch.float32 or any(True for _ in module.children()):
        return None
    size = weight.shape[0]
    x = torch.randn(len(SCALES), size, generator=torch.Generator().manual_seed(0)) * torch.tensor(SCALES)[:, None]
    try:
        wanted = module(x[None])[0]
    except Exception:  # noqa: BLE001  (a module that wants other rows is no plain norm)
        return None
    if not isinstance(wanted, Tensor) or wanted.shape != x.shape:
        return None
    for offset in (0.0, 1.0):
        made = FusedNorm(weight.detach(), eps, native, offset)
        ours = made(x)
        if torch.allclose(ours, wanted, rtol=ROUNDING, atol=1e-30):
            return made
    return None


def install(model: nn.Module, native: Native) -> int:
    """Replace what can be replaced; returns how many modules that were."""
    found = [(path, fused(module, native)) for path, module in model.named_modules() if path]
    for path, made in found:
        if made is not None:
            replace(model, path, made)
    return sum(made is not None for _, made in found)
