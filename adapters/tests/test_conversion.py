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
from adapters.lifecycle.conversion import CHILD
from adapters.models import LoraAdapter, Status
from adapters.tests import layouts as make

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


def test_converted_once_and_stored_as_safetensors(registry: Path) -> None:
    bin_adapter(registry / "one", saved(torch_tensors()))
    adapter = scanned()
    assert adapter.status == Status.DISCOVERED
    adapter = services.activate(adapter.pk, None)
    weights = adapter.store_path / "adapter_model.safetensors"
    with open(weights, "rb") as file:
        header = read_header(file, weights.stat().st_size)
        wanted = make.lora_tensors()
        assert set(header.tensors) == set(wanted)
        for name, tensor in header.tensors.items():
            file.seek(header.data_start + tensor.start)
            assert file.read(tensor.end - tensor.start) == wanted[name][2]
    services.scan(None)
    adapter.refresh_from_db()
    assert not adapter.update_available
    assert services.activate(adapter.pk, None).digest == adapter.digest


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
assert attempt(lambda: open({str(tmp_path / "elsewhere")!r}, "w"))
open({str(tmp_path / "target")!r}, "w").close()
try:
    bytearray(2 << 30)
except MemoryError:
    print("confined")
"""
    done = subprocess.run([sys.executable, "-I", "-c", probe], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "confined", done.stderr
