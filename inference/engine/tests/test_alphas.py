"""The alpha of each module by `alpha_pattern`, whose keys are regular expressions of whoever wrote the config."""

from __future__ import annotations

from typing import Any

import pytest

from inference.engine.errors import EngineError
from inference.engine.lora.adapter_file import alphas
from patterns import confined

PATHS = [f"model.layers.{layer}.self_attn.{name}_proj" for layer in (0, 1, 11) for name in "qk"]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (None, [8, 8, 8, 8, 8, 8]),
        ({}, [8, 8, 8, 8, 8, 8]),
        ({"q_proj": 16}, [16, 8, 16, 8, 16, 8]),
        ({"layers.1.self_attn.q_proj": 2, "q_proj": 3}, [3, 8, 2, 8, 3, 8]),
        ({r"layers\.\d\..*": 4}, [4, 4, 4, 4, 8, 8]),
        ({"q_proj": 5, "_proj": 1, ".*_proj": 6}, [5, 6, 5, 6, 5, 6]),
        ({"(?<!q_)proj": 1, r"(?!.*q_proj).*": 7}, [8, 7, 8, 7, 8, 7]),
    ],
    ids=str,
)
def test_the_first_key_that_matches_decides(table: Any, expected: list[int]) -> None:
    assert alphas({"lora_alpha": 8, "alpha_pattern": table}, PATHS, "one") == expected


@pytest.mark.parametrize("key", ["(", "(?<=a+)b", r"(?=([\w.]+)+!)x"])
def test_a_key_that_cannot_be_matched_is_the_adapters_fault(key: str) -> None:
    with pytest.raises(EngineError) as caught:
        alphas({"alpha_pattern": {key: 4}}, PATHS, "one")
    assert caught.value.code == "adapter_incompatible"


def test_a_machine_that_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(confined, "_ask", refused)
    with pytest.raises(EngineError) as caught:
        alphas({"alpha_pattern": {"(?!x)q_proj": 4}}, PATHS, "one")
    assert caught.value.code == "adapter_load_failed"
