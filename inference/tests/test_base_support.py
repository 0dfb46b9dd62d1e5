"""The engine's look at a base's structure, as the registry asks for it: a child process over config.json alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapters.bases import registry
from adapters.models import BaseModel
from inference import base_support
from inference.engine.model import base_loader
from inference.errors import InferenceError, api_error
from inference.gateway.targets import find

pytestmark = pytest.mark.xdist_group("forks")
TINY = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def write(folder: Path, **config: object) -> str:
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_a_decoder_with_attention_passes(tmp_path: Path) -> None:
    support = base_support.look_at(write(tmp_path, model_type="llama", architectures=["LlamaForCausalLM"], **TINY))
    assert support.refusal == ""
    assert len(support.layers) == 2 * 7 + 1 and support.layers["model.layers.1.mlp.down_proj"] == [16, 32, "carries"]


def test_a_state_space_model_is_refused_by_name(tmp_path: Path) -> None:
    support = base_support.look_at(write(tmp_path, model_type="mamba", architectures=["MambaForCausalLM"], **TINY))
    assert "MambaForCausalLM" in support.refusal and not support.layers


@pytest.mark.parametrize("forked", [True, False])
def test_a_child_without_a_verdict_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any, forked: bool
) -> None:
    settings.ENGINE_FORK_SERVER = forked
    monkeypatch.setattr(base_support, "PROBE", "inference.engine.model.missing")
    with pytest.raises(OSError, match="status 1"):
        base_support.look_at(str(tmp_path))


def test_forked_or_started_anew_it_says_the_same(tmp_path: Path, settings: Any) -> None:
    folder = write(tmp_path, model_type="llama", architectures=["LlamaForCausalLM"], **TINY)
    forked = base_support.look_at(folder)
    settings.ENGINE_FORK_SERVER = False
    assert base_support.look_at(folder) == forked and forked.layers


@pytest.mark.parametrize("forked", [True, False])
def test_a_child_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any, forked: bool
) -> None:
    settings.ENGINE_FORK_SERVER = forked
    monkeypatch.setattr(base_support, "TIMEOUT", 0.01)
    with pytest.raises(TimeoutError):
        base_support.look_at(str(tmp_path))


@pytest.mark.django_db
def test_asking_a_refused_base_says_why() -> None:
    BaseModel.objects.create(
        name="m",
        slug="m",
        path="/m",
        path_hash="1",
        problem_code="base_unsupported",
        refusal="its attention uses sinks",
    )
    with pytest.raises(InferenceError) as caught:
        find("m")
    answer = api_error(caught.value)
    assert answer.status == 422 and answer.code == "base_unsupported" and "sinks" in answer.message


def test_registry_and_engine_estimate_nf4_alike() -> None:
    assert registry.NF4_BYTES == base_loader.NF4_BYTES
