"""Two processes at the same registry, and processes that are killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection

from adapters import leases, recovery, services, store
from adapters.discovery import scanning
from adapters.files import partials
from adapters.models import Lease, LoraAdapter, Scan, ScanState
from adapters.tests import layouts as make

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

# Runs in a process of its own: set up, say "ready", wait for a line, do the thing, tell the outcome.
CHILD = """
import gc, os, signal, sys
gc.disable()
import django
django.setup()
from django.conf import settings
from pathlib import Path
here = Path(os.environ["HERE"])
settings.LORA_ROOTS, settings.STORE_DIR = [here / "adapters"], here / "store"
settings.BASE_MODELS_DIR, settings.SCAN_SETTLE_SECONDS = here / "models", 0.0
from adapters import services, store
from adapters.discovery import intake, scanning
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
def stop(*args, **kwargs):
    print("stopped", flush=True)
    sys.stdin.readline()
{setup}
print("ready", flush=True)
sys.stdin.readline()
try:
    print({action}, flush=True)
except services.BusyError as busy:
    print("busy", busy.code, flush=True)
except services.ActivationFailed as failed:
    print("failed", failed.code, flush=True)
"""

HOLD_FILL = "fill = store._fill\ndef slow(*a):\n    stop()\n    return fill(*a)\nstore._fill = slow"


def child(tmp_path: Path, action: str, setup: str = "") -> subprocess.Popen[str]:
    name = str(connection.settings_dict["NAME"])
    url = f"sqlite:///{name}"
    if connection.vendor == "mysql":
        given = connection.settings_dict
        url = f"mysql://{given['USER']}:{given['PASSWORD']}@{given['HOST']}:{given['PORT'] or 3306}/{name}"
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD.replace("{setup}", setup).replace("{action}", action)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=django_settings.BASE_DIR,
        env={**os.environ, "DATABASE_URL": url, "HERE": str(tmp_path), "DJANGO_SETTINGS_MODULE": "loraportal.settings"},
    )
    assert said(process) == "ready"
    return process


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture(autouse=True)
def shared_database() -> None:
    if connection.vendor == "sqlite" and connection.is_in_memory_db():  # type: ignore[attr-defined]
        pytest.skip("needs a database that another process can open")


def test_two_scans(registry: Path, tmp_path: Path) -> None:
    make.adapter(registry / "one")
    first = child(tmp_path, "services.scan(None).found", "scanning.mark_groups = stop")
    go(first)
    assert said(first) == "stopped"
    with pytest.raises(services.BusyError):
        services.scan(None)
    second = child(tmp_path, "services.scan(None).found")
    go(second)
    assert said(second) == "busy scan_running"
    go(first)
    assert said(first) == "1"
    assert (first.wait(30), second.wait(30)) == (0, 0)
    assert services.scan(None).new == 0


def test_two_activations(registry: Path, tmp_path: Path) -> None:
    make.adapter(registry / "one")
    services.scan(None)
    pk = LoraAdapter.objects.get().pk
    slow = "put = store.put\ndef slow(*a):\n    stop()\n    return put(*a)\nstore.put = slow"
    first = child(tmp_path, f"services.activate({pk}, None).status", slow)
    go(first)
    assert said(first) == "stopped"
    with pytest.raises(services.BusyError):
        services.activate(pk, None)
    go(first)
    assert said(first) == "active"
    assert first.wait(30) == 0
    assert services.activate(pk, None).status == "active"


@pytest.mark.parametrize("where", ["scanning.mark_groups", "intake.store_facts", "scanning.refresh"])
def test_a_scan_that_is_killed(registry: Path, tmp_path: Path, where: str) -> None:
    make.hf_run(registry, "run")
    process = child(tmp_path, "services.scan(None)", f"{where} = die")
    go(process)
    assert process.wait(60) == -signal.SIGKILL
    assert Lease.objects.filter(name=scanning.LEASE).exists()
    assert not leases.is_held(scanning.LEASE)
    found = services.latest_scan()
    assert found is not None and found.state == ScanState.FAILED
    summary = services.scan(None)  # at once, without waiting for the lease to expire
    assert summary.found == 4 == LoraAdapter.objects.count()
    assert Scan.objects.filter(state=ScanState.RUNNING).count() == 0
    assert LoraAdapter.objects.filter(is_best=True).count() == 1


@pytest.mark.parametrize("where", ["store._fill", "store._publish", "store._sync_folder", "activation.describe"])
def test_an_activation_that_is_killed(registry: Path, tmp_path: Path, where: str, settings: Any) -> None:
    make.adapter(registry / "one")
    services.scan(None)
    pk = LoraAdapter.objects.get().pk
    setup = f"from adapters.lifecycle import activation\n{where} = die"
    process = child(tmp_path, f"services.activate({pk}, None)", setup)
    go(process)
    assert process.wait(60) == -signal.SIGKILL
    adapter = LoraAdapter.objects.get()
    assert (adapter.status, adapter.digest) == ("discovered", "")
    for entry in settings.STORE_DIR.iterdir():  # whole under its name, or not under a digest at all
        assert entry.name.startswith(partials.PREFIX) or store.verify(entry.name)
    recovery.recover()  # as the next start does
    assert not any(entry.name.startswith(partials.PREFIX) for entry in settings.STORE_DIR.iterdir())
    adapter = services.activate(pk, None)
    assert adapter.status == "active" and store.verify(adapter.digest)
    assert not Lease.objects.exists()


def test_a_start_leaves_the_work_of_others_alone(registry: Path, tmp_path: Path, settings: Any) -> None:
    for name in ("one", "two"):
        make.adapter(registry / name, seed=len(name))
    services.scan(None)
    one, two = LoraAdapter.objects.order_by("pk")
    living = child(tmp_path, f"services.activate({one.pk}, None).status", HOLD_FILL)
    killed = child(tmp_path, f"services.activate({two.pk}, None).status", "store._fill = die")
    for process in (living, killed):
        go(process)
    assert said(living) == "stopped" and killed.wait(60) == -signal.SIGKILL
    recovery.recover()
    assert len([entry for entry in settings.STORE_DIR.iterdir() if entry.name.startswith(partials.PREFIX)]) == 1
    with pytest.raises(services.BusyError):
        services.activate(one.pk, None)
    assert services.activate(two.pk, None).status == "active"
    go(living)
    assert said(living) == "active" and living.wait(30) == 0
    assert {entry.name for entry in settings.STORE_DIR.iterdir()} == set(
        LoraAdapter.objects.values_list("digest", flat=True)
    )


def test_a_conversion_that_is_killed(registry: Path, tmp_path: Path, settings: Any) -> None:
    folder = make.adapter(registry / "one")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    services.scan(None)
    pk = LoraAdapter.objects.get().pk
    process = child(
        tmp_path, f"services.activate({pk}, None)", "from adapters.lifecycle import conversion\nconversion._run = die"
    )
    go(process)
    assert process.wait(60) == -signal.SIGKILL
    assert any(settings.STORE_DIR.iterdir())
    recovery.recover()
    assert not any(settings.STORE_DIR.iterdir())
