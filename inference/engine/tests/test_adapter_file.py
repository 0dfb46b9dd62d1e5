"""An adapter's matrices meet the layers of the model itself: one that does not fit exactly is refused by name."""

from __future__ import annotations

import pytest
import torch

from inference.engine.errors import EngineError
from inference.engine.lora.adapter_file import Pairs, assemble
from inference.engine.lora.bank import Kind

KINDS = {"qv": Kind("qv", ("q", "v"), 16, (16, 8), layers=2)}
PLACES = {"layers.0.q": ("qv", 0, 0), "layers.0.v": ("qv", 0, 1), "layers.7.q": ("qv", 7, 0)}


def matrices(path: str, a: tuple[int, ...], b: tuple[int, ...]) -> Pairs:
    return {path: {"A": torch.ones(a), "B": torch.ones(b)}}


def test_what_fits_is_sorted_by_kind() -> None:
    pairs = matrices("layers.0.q", (4, 16), (16, 4)) | matrices("layers.0.v", (2, 16), (8, 2))
    made = assemble(pairs, {"r": 4, "lora_alpha": 8}, "d" * 64, "one", KINDS, PLACES)
    assert made.kinds["qv"].ranks == (4, 2)
    assert [pair.scale for pair in made.kinds["qv"].pairs] == [2.0, 4.0]


@pytest.mark.parametrize(
    ("path", "a", "b"),
    [
        ("layers.0.q", (4, 15), (16, 4)),
        ("layers.0.q", (4, 16), (8, 4)),
        ("layers.0.v", (4, 16), (16, 4)),
        ("layers.0.q", (4, 16), (16, 3)),
        ("layers.0.q", (0, 16), (16, 0)),
        ("layers.0.q", (64,), (16, 4)),
        ("layers.0.q", (4, 16), (16, 4, 1)),
        ("layers.7.q", (4, 16), (16, 4)),
    ],
)
def test_what_does_not_fit_is_refused_by_name(path: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    with pytest.raises(EngineError) as caught:
        assemble(matrices(path, a, b), {"r": 4, "lora_alpha": 8}, "d" * 64, "one", KINDS, PLACES)
    assert caught.value.code == "adapter_incompatible" and caught.value.detail["tensor"] == path


def test_one_matrix_of_two_is_refused() -> None:
    pairs = matrices("layers.0.q", (4, 16), (16, 4))
    del pairs["layers.0.q"]["B"]
    with pytest.raises(EngineError) as caught:
        assemble(pairs, {"r": 4, "lora_alpha": 8}, "d" * 64, "one", KINDS, PLACES)
    assert caught.value.code == "adapter_incompatible"
