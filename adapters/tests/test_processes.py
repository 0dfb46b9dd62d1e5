"""Two processes at the same registry, and processes that are killed in the middle."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection

import launching
from adapters import leases, recovery, services, store
from adapters.discovery import scanning
from adapters.files import partials
from adapters.models import Lease, LoraAdapter, Scan, ScanState
from adapters.tests import layouts as make

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

PROJECT = Path(django_settings.BASE_DIR)
STDERR = 2
HOLD_FILL = "fill = store._fill\ndef slow(*a):\n    stop()\n    return fill(*a)\nstore._fill = slow"


class Process:
    """A process of its own over this test's folders and database; see `other_process.py`. It is ready."""

    def __init__(self, forks: launching.Forks, tmp_path: Path, action: str, setup: str = "") -> None:
        source, self.stdin = map(os.fdopen, os.pipe(), ("rb", "w"))
        self.stdout, sink = map(os.fdopen, os.pipe(), ("r", "wb"))
        words = [sys.executable, "-m", "adapters.tests.other_process", str(tmp_path), setup, action]
        with source, sink:
            self.child = forks.start(words, environment(), stdin=source, stdout=sink, stderr=STDERR, folder=PROJECT)
        assert self.said() == "ready"

    def go(self) -> None:
        self.stdin.write("\n")
        self.stdin.flush()

    def said(self) -> str:
        return self.stdout.readline().strip()

    def wait(self) -> int:
        with self.stdin, self.stdout:
            return self.child.wait(60)


def environment() -> dict[str, str]:
    name = str(connection.settings_dict["NAME"])
    url = f"sqlite:///{name}"
    if connection.vendor == "mysql":
        given = connection.settings_dict
        url = f"mysql://{given['USER']}:{given['PASSWORD']}@{given['HOST']}:{given['PORT'] or 3306}/{name}"
    return {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "loraportal.settings"}


@pytest.fixture(scope="module")
def forks() -> Iterator[launching.Forks]:
    """Django is set up once for all of them."""
    forks = launching.Forks(["adapters.tests.other_process"], environment, PROJECT)
    yield forks
    forks.close()


@pytest.fixture
def child(forks: launching.Forks, tmp_path: Path) -> Callable[..., Process]:
    return partial(Process, forks, tmp_path)


@pytest.fixture(autouse=True)
def shared_database() -> None:
    if connection.vendor == "sqlite" and connection.is_in_memory_db():  # type: ignore[attr-defined]
        pytest.skip("needs a database that another process can open")


def test_two_scans(registry: Path, child: Callable[..., Process]) -> None:
    make.adapter(registry / "one")
    first = child("services.scan(None).found", "scanning.mark_groups = stop")
    first.go()
    assert first.said() == "stopped"
    with pytest.raises(services.BusyError):
        services.scan(None)
    second = child("services.scan(None).found")
    second.go()
    assert second.said() == "busy scan_running"
    first.go()
    assert first.said() == "1"
    assert (first.wait(), second.wait()) == (0, 0)
    assert services.scan(None).new == 0


def test_two_activations(registry: Path, child: Callable[..., Process]) -> None:
    make.adapter(registry / "one")
    services.scan(None)
    pk = LoraAdapter.objects.get().pk
    slow = "put = store.put\ndef slow(*a):\n    stop()\n    return put(*a)\nstore.put = slow"
    first = child(f"services.activate({pk}, None).status", slow)
    first.go()
    assert first.said() == "stopped"
    with pytest.raises(services.BusyError):
        services.activate(pk, None)
    first.go()
    assert first.said() == "active"
    assert first.wait() == 0
    assert services.activate(pk, None).status == "active"


@pytest.mark.parametrize("where", ["scanning.mark_groups", "intake.store_facts", "scanning.refresh"])
def test_a_scan_that_is_killed(registry: Path, child: Callable[..., Process], where: str) -> None:
    make.hf_run(registry, "run")
    process = child("services.scan(None)", f"{where} = die")
    process.go()
    assert process.wait() == -signal.SIGKILL
    assert Lease.objects.filter(name=scanning.LEASE).exists()
    assert not leases.is_held(scanning.LEASE)
    found = services.latest_scan()
    assert found is not None and found.state == ScanState.FAILED
    summary = services.scan(None)  # at once, without waiting for the lease to expire
    assert summary.found == 4 == LoraAdapter.objects.count()
    assert Scan.objects.filter(state=ScanState.RUNNING).count() == 0
    assert LoraAdapter.objects.filter(is_best=True).count() == 1


@pytest.mark.parametrize("where", ["store._fill", "store._publish", "store._sync_folder", "activation.describe"])
def test_an_activation_that_is_killed(registry: Path, child: Callable[..., Process], where: str, settings: Any) -> None:
    make.adapter(registry / "one")
    services.scan(None)
    pk = LoraAdapter.objects.get().pk
    setup = f"from adapters.lifecycle import activation\n{where} = die"
    process = child(f"services.activate({pk}, None)", setup)
    process.go()
    assert process.wait() == -signal.SIGKILL
    adapter = LoraAdapter.objects.get()
    assert (adapter.status, adapter.digest) == ("discovered", "")
    for entry in settings.STORE_DIR.iterdir():  # whole under its name, or not under a digest at all
        assert entry.name.startswith(partials.PREFIX) or store.verify(entry.name)
    recovery.recover()  # as the next start does
    assert not any(entry.name.startswith(partials.PREFIX) for entry in settings.STORE_DIR.iterdir())
    adapter = services.activate(pk, None)
    assert adapter.status == "active" and store.verify(adapter.digest)
    assert not Lease.objects.exists()


def test_a_start_leaves_the_work_of_others_alone(registry: Path, child: Callable[..., Process], settings: Any) -> None:
    for name in ("one", "two"):
        make.adapter(registry / name, seed=len(name))
    services.scan(None)
    one, two = LoraAdapter.objects.order_by("pk")
    living = child(f"services.activate({one.pk}, None).status", HOLD_FILL)
    killed = child(f"services.activate({two.pk}, None).status", "store._fill = die")
    for process in (living, killed):
        process.go()
    assert living.said() == "stopped" and killed.wait() == -signal.SIGKILL
    recovery.recover()
    assert len([entry for entry in settings.STORE_DIR.iterdir() if entry.name.startswith(partials.PREFIX)]) == 1
    with pytest.raises(services.BusyError):
        services.activate(one.pk, None)
    assert services.activate(two.pk, None).status == "active"
    living.go()
    assert living.said() == "active" and living.wait() == 0
    assert {entry.name for entry in settings.STORE_DIR.iterdir()} == set(
        LoraAdapter.objects.values_list("digest", flat=True)
    )


def test_a_conversion_that_is_killed(registry: Path, child: Callable[..., Process], settings: Any) -> None:
    folder = make.adapter(registry / "one")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    services.scan(None)
    pk = LoraAdapter.objects.get().pk
    process = child(
        f"services.activate({pk}, None)", "from adapters.lifecycle import conversion\nconversion._run = die"
    )
    process.go()
    assert process.wait() == -signal.SIGKILL
    assert any(settings.STORE_DIR.iterdir())
    recovery.recover()
    assert not any(settings.STORE_DIR.iterdir())
