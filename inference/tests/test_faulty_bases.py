"""Faulty bases and prompts on the engine's own process: a typed end for who asked, whole answers for everybody else."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from inference.backends.local import LocalBackend
from inference.backends.process import WorkerOptions
from inference.engine.params import SamplingParams
from inference.engine.tests import tiny
from inference.errors import InferenceError, api_error
from inference.forking import forks
from inference.manager import ModelManager, Request
from tests.fixtures.shared import kernels

from .whole import run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("forks")]
PROJECT = Path(__file__).resolve().parents[2]
WITHIN = 120.0  # seconds, several loads included
BEYOND = "<image_soft_token>"


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr("inference.manager.write_verdict", seen.append)
    return seen


@pytest.fixture
def manager(tmp_path: Path, verdicts: list[dict[str, Any]]) -> Iterator[ModelManager]:
    shutil.copytree(kernels(), tmp_path / "run" / "native")
    config = {"device": "cpu", "run_dir": str(tmp_path / "run"), "max_context": 256, "base_patience": 0.0}
    config["raw_control_tokens"] = True  # what is typed reaches the model as what it stands for
    options = WorkerOptions(config=config, log_path=tmp_path / "engine.log", folder=PROJECT, starter=forks.start)
    made = ModelManager(partial(LocalBackend, options, limit=64))
    yield made
    made.close()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose tokenizer knows a token that its embedding has no row for."""
    folder = tiny.write_base(tmp_path_factory.mktemp("good") / "good", "llama", vocab_size=261)
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [BEYOND]}, replace_extra_special_tokens=False)
    tokenizer.save_pretrained(folder)
    return folder


def spec(folder: Path, name: str = "") -> Any:
    return {"key": (name or folder.name).ljust(64, "0"), "path": str(folder), "name": name or folder.name}


def ask(folder: Path, prompt: str = "hello there", tokens: int = 8, chat: bool = False) -> Request:
    given: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    params: Any = {"temperature": 0.0, "max_tokens": tokens, "ignore_eos": True}
    return Request(user="u", base=spec(folder), params=SamplingParams(**params), **given)


async def beside(manager: ModelManager, neighbour: Request, *bad: Request) -> tuple[str, list[InferenceError]]:
    """The text of an answer that is running while the bad requests come, and how those end."""
    stream = await manager.generate(neighbour)
    text = ""
    async for event in stream:
        if event["type"] == "token":
            text += event["text"]
            break
    ends = [asyncio.create_task(run(manager, request)) for request in bad]
    async for event in stream:
        text += event["text"] if event["type"] == "token" else ""
        if event["type"] in {"done", "error"}:
            assert event["type"] == "done", event
            assert event["usage"]["completion_tokens"] == neighbour.params.max_tokens
    errors = []
    for end in ends:
        with pytest.raises(InferenceError) as caught:
            await asyncio.wait_for(end, WITHIN)
        errors.append(caught.value)
    return text, errors


async def test_prompts(manager: ModelManager, good: Path, tmp_path: Path) -> None:
    template = shutil.copytree(good, tmp_path / "template")
    tokenizer = AutoTokenizer.from_pretrained(template)
    tokenizer.chat_template = BEYOND + tiny.TEMPLATE
    tokenizer.save_pretrained(template)
    expected = (await asyncio.wait_for(run(manager, ask(good, tokens=100)), WITHIN)).text
    text, errors = await beside(
        manager, ask(good, tokens=100), ask(good, f"a {BEYOND}"), ask(good, f"a {BEYOND}", chat=True),
        ask(template, chat=True),
    )  # fmt: skip
    assert text == expected
    assert [error.code for error in errors] == ["unknown_token", "unknown_token", "template_token"]
    for error in errors:
        answer = api_error(error)
        assert answer.status == 400 and BEYOND in answer.message
    assert (await asyncio.wait_for(run(manager, ask(template)), WITHIN)).usage["completion_tokens"] == 8
    status = await manager.status()
    assert status["worker"]["restarts"] == 0 and status["engine"]["errors"] == 0


def without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def newer_tokenizer(folder: Path) -> None:
    tiny.edit_json(folder / "tokenizer.json", pre_tokenizer={"type": "FromNextYear"})


def odd_configuration(folder: Path) -> None:
    tiny.edit_json(folder / "config.json", hidden_act="from_next_year")


def cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def list_for_a_configuration(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps([1, 2]))


async def test_bases(
    manager: ModelManager, good: Path, tmp_path: Path, verdicts: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked one after the other while a neighbour's answer runs; each twice, as nobody has refused it yet."""
    expected = (await asyncio.wait_for(run(manager, ask(good, tokens=30)), WITHIN)).text
    cases: dict[str, tuple[Callable[[Path], None], list[str]]] = {
        "lacking": (without_a_tensor, ["base_unsupported"] * 2),
        "newer": (newer_tokenizer, ["base_unsupported"] * 2),
        "odd": (odd_configuration, ["base_load_failed", "base_unsupported"]),
        "cut": (cut_weights, ["base_load_failed", "base_unsupported"]),
        "empty": (no_weights, ["base_load_failed", "base_unsupported"]),
        "list": (list_for_a_configuration, ["base_unsupported"] * 2),
    }
    for name, (spoil, codes) in cases.items():
        folder = shutil.copytree(good, tmp_path / name)
        spoil(folder)
        for code in codes:
            text, errors = await beside(manager, ask(good, tokens=30), ask(folder))
            assert text == expected, name
            assert errors[0].code == code, (name, errors[0].detail)
            reason = errors[0].detail["reason"]
            assert reason and len(reason) < 300 and "\n" not in reason and str(tmp_path) not in reason
    assert {event["key"].rstrip("0") for event in verdicts} == set(cases)
    monkeypatch.setitem(tiny.FAMILIES, "phimoe", tiny.EXPERTS["phimoe"])
    experts = tiny.write_base(tmp_path / "experts", "phimoe")
    assert (await asyncio.wait_for(run(manager, ask(experts)), WITHIN)).usage["completion_tokens"] == 8
    assert (await asyncio.wait_for(run(manager, ask(good, tokens=30)), WITHIN)).text == expected
    status = await manager.status()
    assert status["worker"]["restarts"] == 0 and status["engine"]["errors"] > 0
    assert "Traceback" in (tmp_path / "engine.log").read_text()
