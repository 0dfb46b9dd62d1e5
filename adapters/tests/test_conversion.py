"""`.bin` weights: converted in a confined child, never unpickled here."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adapters import services
from adapters.formats.safetensors import read_header
from adapters.lifecycle import conversion
from adapters.lifecycle.conversion import CHILD
from adapters.models import LoraAdapter, Status
from adapters.places import Place
from adapters.tests import layouts as make
from adapters.tests.interference import contents, swap

pytestmark = pytest.mark.django_db


class Canary:
    """Unpickling this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (exec, (f"open({str(self.path)!r}, 'w').close()",))


def bin_adapter(folder: Path, data: bytes) -> Path:
    make.adapter(folder)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(data)
    return folder


def saved(tensors: dict[str, Any]) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()


def torch_tensors(**changes: Any) -> dict[str, Any]:
    import torch

    found = {}
    for name, (_, shape, data) in make.lora_tensors(**changes).items():
        found[name] = torch.frombuffer(bytearray(data), dtype=torch.float32).reshape(shape)
    return found


def scanned() -> LoraAdapter:
    services.scan(None)
    return LoraAdapter.objects.get()


def assert_holds(weights: Path, wanted: dict[str, Any]) -> None:
    with open(weights, "rb") as file:
        header = read_header(file, weights.stat().st_size)
        assert set(header.tensors) == set(wanted)
        for name, tensor in header.tensors.items():
            file.seek(header.data_start + tensor.start)
            assert file.read(tensor.end - tensor.start) == wanted[name][2]


def test_converted_once_and_stored_as_safetensors(registry: Path) -> None:
    bin_adapter(registry / "one", saved(torch_tensors()))
    adapter = scanned()
    assert adapter.status == Status.DISCOVERED
    adapter = services.activate(adapter.pk, None)
    weights = adapter.store_path / "adapter_model.safetensors"
    assert_holds(weights, make.lora_tensors())
    services.scan(None)
    adapter.refresh_from_db()
    assert not adapter.update_available
    assert services.activate(adapter.pk, None).digest == adapter.digest


def test_its_folder_is_swapped_for_a_link(
    registry: Path, tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child, and who opens its result, work in the folder that was made, not in what its path leads to."""
    bin_adapter(registry / "one", saved(torch_tensors()))
    adapter = scanned()
    outside = make.adapter(tmp_path / "outside", seed=5)
    (outside / "adapter_model.safetensors").rename(outside / conversion.RESULT)
    before = contents(outside)
    real = conversion._run

    def swapped(source: Any, scratch: Place, size: int) -> None:
        swap(settings.STORE_DIR / scratch.name, outside)
        real(source, scratch, size)

    monkeypatch.setattr(conversion, "_run", swapped)
    adapter = services.activate(adapter.pk, None)
    assert contents(outside) == before
    assert_holds(adapter.store_path / "adapter_model.safetensors", make.lora_tensors())


@pytest.mark.parametrize("plain", [True, False], ids=["pickle", "torch"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(registry: Path, tmp_path: Path, plain: bool) -> None:
    canary = Canary(tmp_path / "canary")
    bin_adapter(registry / "one", pickle.dumps({"a": canary}) if plain else saved({"a": canary}))
    adapter = scanned()
    with pytest.raises(services.ActivationFailed) as caught:
        services.activate(adapter.pk, None)
    assert caught.value.code == "pickle_refused"
    assert not (tmp_path / "canary").exists()
    adapter.refresh_from_db()
    assert adapter.status == Status.FAILED


class Made:
    """Unpickling this computes a tensor, as harmlessly as any program could begin."""

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (eval, ("__import__('torch').ones(4, 16)",))


def test_tensors_that_a_program_makes_are_refused(registry: Path) -> None:
    """A whole adapter that fits: only the unpickler stands against it."""
    tensors = torch_tensors()
    name, plain = next(iter(tensors.items()))
    assert tuple(plain.shape) == (4, 16)
    bin_adapter(registry / "one", saved({**tensors, name: Made()}))
    assert refused_reason(scanned()) == "contains data other than tensors"


def refused_reason(adapter: LoraAdapter) -> str:
    with pytest.raises(services.ActivationFailed) as caught:
        services.activate(adapter.pk, None)
    assert caught.value.code == "pickle_refused"
    return str(caught.value.details["reason"])


def test_what_the_child_refuses(registry: Path) -> None:
    import torch

    bin_adapter(registry / "one", b"nothing")
    adapter = scanned()
    for data, reason in [
        (saved([torch.zeros(3)]), "not a mapping of tensors"),  # type: ignore[arg-type]
        (saved({"a": "text"}), "not a mapping of tensors"),
        (saved({"a": torch.zeros(1).expand(10**6)}), "too large"),
        (b"\x80\x04 nothing", "contains data other than tensors"),
    ]:
        (registry / "one" / "adapter_model.bin").write_bytes(data)
        assert refused_reason(adapter) == reason


@pytest.mark.parametrize("what", ["b-zero", "wrong-shape", "list", "garbage"])
def test_refused_after_conversion(registry: Path, what: str) -> None:
    import torch

    data, code = {
        "b-zero": (lambda: saved(torch_tensors(b_fill=0.0)), "no_effect"),
        "wrong-shape": (lambda: saved(torch_tensors(hidden=32)), "base_mismatch"),
        "list": (lambda: saved([torch.zeros(3)]), "pickle_refused"),  # type: ignore[arg-type]
        "garbage": (lambda: b"\x80\x04 nothing", "pickle_refused"),
    }[what]
    bin_adapter(registry / "one", data())
    adapter = scanned()
    with pytest.raises(services.ActivationFailed) as caught:
        services.activate(adapter.pk, None)
    assert caught.value.code == code


def test_the_child_cannot_reach_the_network_or_start_programs(tmp_path: Path) -> None:
    probe = f"""
import runpy, sys
module = runpy.run_path({str(CHILD)!r})
module["confine"](1000, {str(tmp_path / "target")!r})
import socket, subprocess, os
def attempt(call):
    try:
        call()
    except PermissionError:
        return True
    return False
assert attempt(lambda: socket.socket())
assert attempt(lambda: subprocess.Popen(["true"]))
assert attempt(lambda: os.system("true"))
elsewhere = {str(tmp_path / "elsewhere")!r}
assert attempt(lambda: open(elsewhere, "w"))
assert attempt(lambda: os.open(elsewhere, os.O_WRONLY | os.O_CREAT))
assert attempt(lambda: os.open(sys.executable, os.O_RDWR))
assert attempt(lambda: os.mkdir(elsewhere))
assert attempt(lambda: os.rename({str(tmp_path)!r}, elsewhere))
assert attempt(lambda: os.remove(elsewhere))
assert attempt(lambda: os.symlink("/", elsewhere))
assert attempt(lambda: os.chdir("/"))
open({str(tmp_path / "target")!r}, "w").close()
try:
    bytearray(2 << 30)
except MemoryError:
    print("confined")
"""
    done = subprocess.run([sys.executable, "-I", "-c", probe], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "confined", done.stderr
