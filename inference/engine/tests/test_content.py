"""What is loaded is what was asked for: changed files are refused by name, and no answer is given with them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.engine import content
from inference.engine.config import EngineConfig
from inference.engine.errors import EngineError
from inference.engine.model import base_loader, mapped
from inference.engine.model.runner import Runner
from tests.fixtures.damage import DAMAGES, flip

from .conftest import Family
from .driver import Driver, adapter, base

WEIGHTS = content.WEIGHTS


def driver(**config: Any) -> Driver:
    made = EngineConfig(device="cpu", max_context=128, max_batch=8, user_limit=99, **config)
    return Driver(Runner(made), made)


@pytest.fixture
def copy(llama: Family, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama.adapters["plain"], tmp_path / "copy"))


@pytest.fixture
def folder(llama: Family, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama.base, tmp_path / "base"))


def spec_of(folder: Path) -> dict[str, Any]:
    return base("t", folder, signature=content.folder_signature(str(folder)))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_is_refused_and_told(llama: Family, copy: Path, damage: str) -> None:
    d, spec = driver(), adapter("x", copy, proven=True)
    DAMAGES[damage](copy)
    d.generate("r", base("t", llama.base), spec)
    d.finish("r")
    error = d.ended("r")
    assert error is not None and (error["code"], error["detail"]["digest"]) == ("store_damaged", spec["digest"])
    assert [event["digest"] for event in d.of("damage")] == [spec["digest"]]
    assert d.runner.base.model.bank.resident == {} and not d.engine.loader.busy() and not d.of("token")


def test_a_copy_that_is_whole_again_is_served(llama: Family, copy: Path) -> None:
    d, spec = driver(), adapter("x", copy)
    flip(copy / WEIGHTS)
    d.generate("bad", base("t", llama.base), spec)
    d.finish("bad")
    flip(copy / WEIGHTS)
    d.generate("good", base("t", llama.base), spec)
    d.generate("other", base("t", llama.base), adapter("y", llama.adapters["plain"]))
    d.finish("good", "other")
    done = d.ended("good")
    assert done is not None and (done["type"], done["digest"]) == ("done", spec["digest"])
    assert d.texts()["good"] == d.texts()["other"] != ""


@pytest.mark.parametrize("change", ["flipped", "truncated"])
def test_what_is_hashed_is_what_is_kept(copy: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is written to after its last byte was read: neither the bytes nor the process mind."""
    whole = (copy / WEIGHTS).read_bytes()
    digest = content.digest_of(copy)
    combine = content.combine

    def late(*hashes: str) -> str:
        DAMAGES[change](copy)
        return combine(*hashes)

    monkeypatch.setattr(content, "combine", late)
    _, weights = content.read_copy(copy, digest, "x", 2**30)
    assert weights == whole != (copy / WEIGHTS).read_bytes()


def test_a_file_that_is_cut_while_it_is_read_is_damaged(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = content.digest_of(copy)
    monkeypatch.setattr(content, "CHUNK", 512)
    real, calls = os.readv, []

    def readv(file: int, buffers: Any) -> int:
        calls.append(file)
        if len(calls) == 5:
            os.truncate(copy / WEIGHTS, 512)
        return real(file, buffers)

    monkeypatch.setattr(os, "readv", readv)
    with pytest.raises(EngineError) as caught:
        content.read_copy(copy, digest, "x", 2**30)
    assert caught.value.code == "store_damaged"


def test_weights_that_the_bank_could_never_hold_are_not_read(llama: Family, copy: Path) -> None:
    d, spec = driver(adapter_bytes=2**20), adapter("x", copy)
    os.truncate(copy / WEIGHTS, 2**40)
    d.generate("r", base("t", llama.base), spec)
    d.finish("r")
    assert d.ended("r")["code"] == "out_of_memory"  # type: ignore[index]


def base_changes(folder: Path) -> dict[str, Callable[[], Any]]:
    weights = folder / "model.safetensors"

    def replaced() -> None:
        other = folder / "other"
        shutil.copyfile(weights, other)
        flip(other)
        before = weights.stat()
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(other, weights)

    return {
        "flipped": lambda: flip(weights),
        "flipped, times put back": lambda: flip(weights, keep_times=True),
        "replaced": replaced,
        "truncated": lambda: os.truncate(weights, 4096),
        "deleted": weights.unlink,
        "config": lambda: (folder / "config.json").write_text((folder / "config.json").read_text() + " "),
        "template": lambda: (folder / "chat_template.jinja").write_text("{{ messages[0].content }}"),
        "folder": lambda: shutil.rmtree(folder),
    }


CHANGES = sorted(base_changes(Path("/")))


@pytest.mark.parametrize("change", CHANGES)
def test_a_base_that_changed_since_it_was_looked_at_is_not_served(folder: Path, change: str) -> None:
    d, spec = driver(), spec_of(folder)
    base_changes(folder)[change]()
    d.send("load", id="r", base=spec)
    d.finish("r")
    error = d.ended("r")
    assert error is not None and (error["code"], error["detail"]["key"]) == ("base_changed", spec["key"])
    assert [event["key"] for event in d.of("change")] == [spec["key"]]
    assert d.runner.base is None and d.engine.status()["state"] == "empty"


@pytest.mark.parametrize("change", CHANGES)
def test_a_base_that_changes_while_it_is_loaded_is_not_served(
    folder: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    d, spec = driver(), spec_of(folder)
    load = base_loader.load_model

    def loaded(*args: Any) -> Any:
        model = load(*args)
        base_changes(folder)[change]()
        return model

    if change == "truncated":  # what is mapped and cut short ends the process before anything of it is served
        monkeypatch.setattr(mapped, "detach", lambda model: 0)
    monkeypatch.setattr(base_loader, "load_model", loaded)
    d.send("load", id="r", base=spec)
    d.finish("r")
    assert d.ended("r")["code"] == "base_changed" and d.runner.base is None  # type: ignore[index]


@pytest.mark.parametrize("change", ["deleted", "truncated", "folder"])
def test_a_change_explains_a_load_that_it_made_fail(folder: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    d, spec = driver(), spec_of(folder)
    load = base_loader.load_model

    def failing(*args: Any) -> Any:
        base_changes(folder)[change]()
        return load(*args)

    monkeypatch.setattr(base_loader, "load_model", failing)
    d.send("load", id="r", base=spec)
    d.finish("r")
    assert d.ended("r")["code"] == "base_changed"  # type: ignore[index]


def test_a_tokenizer_that_changes_while_it_is_read_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    d, spec = driver(), spec_of(folder)
    load = base_loader.load_tokenizer

    def late(*args: Any) -> Any:
        made = load(*args)
        base_changes(folder)["template"]()
        return made

    monkeypatch.setattr(base_loader, "load_tokenizer", late)
    with pytest.raises(EngineError) as caught:
        d.runner.tokenizers.of(spec)
    assert caught.value.code == "base_changed" and not d.runner.tokenizers.kept


@pytest.mark.parametrize("change", CHANGES)
def test_a_tokenizer_that_changed_is_not_used(folder: Path, change: str) -> None:
    d, spec = driver(), spec_of(folder)
    base_changes(folder)[change]()
    d.generate("r", spec, messages=[{"role": "user", "content": "hi"}])
    d.finish("r")
    assert d.ended("r")["code"] == "base_changed"  # type: ignore[index]
    if folder.is_dir() and change not in {"truncated", "deleted", "config"}:
        d.generate("again", spec_of(folder), messages=[{"role": "user", "content": "hi"}])
        d.finish("again")
        assert d.ended("again")["type"] == "done"  # type: ignore[index]


def test_a_changed_template_is_used_once_the_registry_has_seen_it(folder: Path) -> None:
    d = driver()
    before = d.runner.encode(spec_of(folder), [{"role": "user", "content": "hi"}], None, False)
    base_changes(folder)["template"]()
    after = d.runner.encode(spec_of(folder), [{"role": "user", "content": "hi"}], None, False)
    assert before != after and len(d.runner.tokenizers.kept) == 2


@pytest.mark.parametrize("native", [True, False])
def test_a_file_that_is_written_to_after_the_load_changes_no_answer(folder: Path, native: bool) -> None:
    """Weights of the type that is served would otherwise stay views of the mapped file."""
    d, spec = driver(native=native), spec_of(folder)
    d.generate("before", spec, max_tokens=20, ignore_eos=True)
    d.finish("before")
    weights = folder / "model.safetensors"
    for at in range(10, weights.stat().st_size - 8192, 997):  # all of it but the header
        flip(weights, -at)
    d.generate("after", spec, max_tokens=20, ignore_eos=True)
    d.finish("after")
    assert d.texts()["after"] == d.texts()["before"] != ""
    os.truncate(weights, 0)  # would end the process at the next look
    d.generate("cut", spec, max_tokens=20, ignore_eos=True)
    d.finish("cut")
    assert d.texts()["cut"] == d.texts()["before"]


def test_no_parameter_stays_in_a_mapped_file(llama: Family) -> None:
    model = base_loader.load_model(llama.base, "fp32", torch.device("cpu"), lambda done: None)
    values = {name: tensor.clone() for name, tensor in model.named_parameters()}
    mapped.detach(model)
    assert mapped.detach(model) == 0
    assert all(torch.equal(values[name], tensor) for name, tensor in model.named_parameters())
