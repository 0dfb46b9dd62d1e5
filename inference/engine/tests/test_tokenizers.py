"""Tokenizer files that the installed libraries do not understand: found when the base is registered, and at a question
a refusal with its reason."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from inference.engine.config import EngineConfig
from inference.engine.model.base_probe import probe
from inference.engine.model.runner import Runner
from inference.engine.text.literal import control_tokens
from inference.engine.text.plain_tokenizer import PlainTokenizer

from . import tiny
from .conftest import Family
from .driver import Driver, base


def newer(data: dict[str, Any]) -> None:
    data["pre_tokenizer"] = {"type": "FromNextYear", "size": 3}


def newer_model(data: dict[str, Any]) -> None:
    data["model"] = {"type": "FromNextYear", "vocab": {}}


def without_model(data: dict[str, Any]) -> None:
    del data["model"]


def other_version(data: dict[str, Any]) -> None:
    data["version"] = "2.0"


def merges_of_nothing(data: dict[str, Any]) -> None:
    data["model"]["merges"] = [["no", "such"]]


def broken(folder: Path, to: Path, change: Callable[[dict[str, Any]], None] | bytes) -> Path:
    shutil.copytree(folder, to)
    file = to / "tokenizer.json"
    if isinstance(change, bytes):
        file.write_bytes(change)
        return to
    data = json.loads(file.read_text(encoding="utf-8"))
    change(data)
    file.write_text(json.dumps(data), encoding="utf-8")
    return to


@pytest.mark.parametrize(
    "change",
    [newer, newer_model, without_model, other_version, merges_of_nothing, b"{", b"", b"[]", b"\xff\xfe"],
    ids=lambda change: getattr(change, "__name__", str(change)),
)
def test_it_refuses_the_base_with_a_reason(change: Any, llama: Family, tmp_path: Path) -> None:
    folder = broken(llama.base, tmp_path / "base", change)
    verdict = probe(folder)
    assert verdict["supported"] is False and "tokenizer" in verdict["reason"] and str(tmp_path) not in verdict["reason"]
    assert len(verdict["reason"]) < 300 and "\n" not in verdict["reason"]
    config = EngineConfig(device="cpu", max_context=64)
    d = Driver(Runner(config), config)
    d.generate("steady", base("good", llama.base), max_tokens=20, ignore_eos=True)
    d.until(lambda: d.of("token", "steady"))
    d.generate("r", base("bad", folder), user="v")
    d.send("count", id="c", base=base("bad", folder), prompt="one two")
    d.send("load", id="l", base=base("bad", folder))
    d.finish("r", "c", "l", "steady")
    for name in ("r", "c", "l"):
        ended = d.ended(name)
        assert ended is not None and ended["code"] == "base_unsupported"
        assert ended["detail"]["reason"] == verdict["reason"]
    assert d.ended("steady")["usage"]["completion_tokens"] == 20  # type: ignore[index]
    assert {(event["key"], event["reason"]) for event in d.of("refusal")} == {("key-bad", verdict["reason"])}


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('only with a system message') }}", "{{ 1 / 0 }}", "{% for %}", "{{ x.y.z }}"]
)
def test_a_template_that_refuses_the_probe_is_none_of_it(template: str, llama: Family, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(llama.base, folder)
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    assert probe(folder) == {"supported": True}


def test_a_file_that_cannot_be_read_just_now_says_nothing_about_the_base(
    llama: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*args: Any, **kwargs: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("inference.engine.model.base_loader.AutoTokenizer.from_pretrained", gone)
    assert probe(llama.base)["supported"] is None
    config = EngineConfig(device="cpu", max_context=64)
    d = Driver(Runner(config), config)
    d.generate("r", base("t", llama.base))
    d.finish("r")
    assert d.ended("r")["code"] == "base_load_failed" and not d.of("refusal")  # type: ignore[index]


def test_a_template_without_an_end_is_found_in_the_child(
    llama: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(llama.base, tmp_path / "base")
    release = threading.Event()
    monkeypatch.setattr("inference.engine.model.base_probe.probe_tokens", lambda *args: release.wait())
    monkeypatch.setattr("inference.engine.model.base_probe.PATIENCE", 0.01)
    verdict = probe(folder)
    release.set()
    assert verdict == {"supported": False, "reason": "its chat template does not come to an end"}


LISTED = {"257": {"content": "<|end|>", "special": True}}


@pytest.mark.parametrize(
    ("config", "legacy"),
    [
        ({"eos_token": "<|end|>"}, {"eos_token": "<|user|>", "pad_token": "<|end|>"}),
        ({"eos_token": "<|end|>", "added_tokens_decoder": LISTED}, {"eos_token": "<|user|>", "pad_token": "<|end|>"}),
        ({"eos_token": None}, {"eos_token": "<|user|>"}),
        ({"eos_token": "<|end|>"}, {"eos_token": None}),
        ({"eos_token": "<|end|>", "image_token": "<|user|>", "add_bos_token": True}, {}),
    ],
)
def test_special_tokens_without_transformers_are_the_same(
    config: dict[str, Any], legacy: dict[str, Any], tmp_path: Path
) -> None:
    tiny.tokenizer().save_pretrained(tmp_path)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(legacy))
    assert PlainTokenizer(tmp_path).special_tokens_map == AutoTokenizer.from_pretrained(tmp_path).special_tokens_map


def test_a_template_of_several_with_odd_names(tmp_path: Path) -> None:
    several = [{"name": ["a", "list"], "template": "x"}, {"name": "default", "template": "y"}, "no object"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert PlainTokenizer(tmp_path).chat_template == "y"


def test_a_file_that_cannot_be_read_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    plain = PlainTokenizer(tmp_path)
    with pytest.raises(ValueError, match="cannot be read") as first:
        control_tokens(plain)
    monkeypatch.setattr("tokenizers.Tokenizer", None)
    with pytest.raises(ValueError, match="cannot be read") as second:
        control_tokens(plain)
    assert str(second.value) == str(first.value)
