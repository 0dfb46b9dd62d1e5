"""Which layers the engine takes for plain linear ones: exact types, and subclasses that prove it on test rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from inference.engine.config import EngineConfig
from inference.engine.lora.own import OwnRows
from inference.engine.lora.stacked_bank import StackedBank
from inference.engine.model import linear
from inference.engine.model.base_probe import probe
from inference.engine.model.runner import Runner

from . import tiny
from .driver import Driver, adapter, base


class Plain(nn.Linear):
    """As Falcon's: rounds between product and bias, and is the same otherwise."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (as torch calls it)
        return input @ self.weight.T if self.bias is None else input @ self.weight.T + self.bias


class Router(nn.Linear):
    def forward(self, input: Tensor) -> Any:  # noqa: A002
        logits = super().forward(input)
        return logits, logits.softmax(-1)


class Scaled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input) * 1.001


class Clamped(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input.clamp(-20, 20))


class Grouped(nn.Linear):
    """As DeepSeek-V4's: blocks of the input meet blocks of the weight."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return torch.bmm(input.reshape(-1, 2, self.in_features).transpose(0, 1), self.weight.view(2, -1, 8).mT)


class Raising(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        raise ValueError("not like this")


class TwoInputs(nn.Linear):
    def forward(self, input: Tensor, gate: Tensor) -> Tensor:  # type: ignore[override]  # noqa: A002
        return super().forward(input) * gate


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("make", "plain"),
    [
        (lambda: nn.Linear(8, 6), True),
        (lambda: nn.Linear(8, 6, bias=False), True),
        (lambda: Conv1D(6, 8), True),
        (lambda: Plain(8, 6), True),
        (lambda: Plain(8, 6, bias=False), True),
        (lambda: Router(8, 6), False),
        (lambda: Clamped(8, 6), False),
        (lambda: Grouped(8, 6), False),
        (lambda: Raising(8, 6), False),
        (lambda: TwoInputs(8, 6), False),
        (lambda: nn.Bilinear(8, 8, 6), False),
        (lambda: nn.Embedding(8, 6), False),
    ],
)
def test_a_subclass_counts_where_it_proves_equal(
    make: Callable[[], nn.Module], plain: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    assert linear.is_linear(make().to(dtype)) is plain


def test_a_small_difference_is_one() -> None:
    assert not linear.is_linear(Scaled(8, 6))


def test_on_the_meta_device_nothing_can_prove_itself() -> None:
    with torch.device("meta"):
        assert linear.is_linear(nn.Linear(8, 6)) and not linear.is_linear(Plain(8, 6))


def test_a_layer_that_is_called_by_name_is_left_alone() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.named, self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) + self.named(input=x) + self.second(x)

    model, x = Model(), torch.randn(4, 8)
    expected = model(x)
    seen = linear.trace(model, lambda: model(x))
    assert [[member.path for member in group] for group in seen.groups] == [["first"], ["second"]]
    cpu = torch.device("cpu")
    bank = StackedBank({}, cpu, torch.float32)
    linear.install(model, seen, 4, 1, bank, OwnRows(model, cpu), None, lambda done: None)
    assert torch.allclose(model(x), expected, atol=1e-6) and type(model.named) is nn.Linear


@pytest.mark.parametrize("name", sorted(tiny.EXPERTS))
def test_experts_answer_exactly(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PhiMoE's router is a subclass of Linear that gives a tuple."""
    monkeypatch.setitem(tiny.FAMILIES, name, tiny.EXPERTS[name])
    folder = tiny.write_base(tmp_path / "base", name)
    recipe = tiny.AdapterRecipe(targets=["q_proj", "k_proj", "v_proj", "o_proj"])
    trained = tiny.write_adapter(tmp_path / "adapter", folder, recipe)
    assert probe(folder) == {"supported": True}
    config = EngineConfig(device="cpu", max_context=64)
    d = Driver(Runner(config), config)
    tokens: dict[str, list[int]] = {}
    finish = d.engine.requests.finish

    def keep(sequence: Any, reason: str) -> None:
        tokens[sequence.id] = sequence.tokens[sequence.prompt_length :]
        finish(sequence, reason)

    monkeypatch.setattr(d.engine.requests, "finish", keep)
    d.generate("base", base("t", folder), prompt="The sea", max_tokens=12, ignore_eos=True)
    d.generate("adapter", base("t", folder), adapter("a", trained), prompt="The sea", max_tokens=12, ignore_eos=True)
    d.finish("base", "adapter")
    assert not d.of("error"), d.of("error")
    prompt = tiny.tokenizer()("The sea")["input_ids"]
    assert tokens["base"] == tiny.reference(folder, None, prompt, 12)
    assert tokens["adapter"] == tiny.reference(folder, trained, prompt, 12)
