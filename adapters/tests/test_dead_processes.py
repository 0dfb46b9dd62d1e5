"""Whether the process behind a name still runs: seen at once where it can be, never guessed elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters import leases, processes, recovery, services
from adapters.discovery import scanning
from adapters.files import partials
from adapters.models import Lease, Scan, ScanState
from adapters.processes import Processes


class FakeTable(Processes):
    """A table of processes in a folder; `hidden` ones exist, but /proc does not show them."""

    def __init__(self, proc: Path, boot: str = "boot-1", namespace: str = "pid:[1]") -> None:
        super().__init__(proc)
        (proc / "sys/kernel/random").mkdir(parents=True)
        (proc / "sys/kernel/random/boot_id").write_text(f"{boot}\n")
        (proc / "self/ns").mkdir(parents=True)
        os.symlink(namespace, proc / "self/ns/pid")
        self.hidden: set[int] = set()
        self.run(os.getpid(), 7)

    def run(self, pid: int, started: int, state: str = "S") -> str:
        """The name of a process that is in the table from now on; its program's name is meant to confuse."""
        (self.proc / str(pid)).mkdir(exist_ok=True)
        fields = [state, *["1"] * 18, str(started), "0"]
        (self.proc / str(pid) / "stat").write_text(f"{pid} (a) Z (b) {' '.join(fields)}\n")
        return f"{self.place()} {pid} {started}"

    def end(self, pid: int) -> None:
        (self.proc / str(pid) / "stat").unlink()

    def exists(self, pid: int) -> bool:
        return pid in self.hidden


@pytest.fixture
def table(tmp_path: Path) -> FakeTable:
    return FakeTable(tmp_path / "proc")


def test_one_that_runs_is_alive_and_one_that_is_gone_is_dead(table: FakeTable) -> None:
    name = table.run(41, 100)
    assert not table.is_dead(name)
    table.end(41)
    assert table.is_dead(name)


def test_a_number_that_comes_again_is_another_process(table: FakeTable) -> None:
    name = table.run(41, 100)
    table.run(41, 200)
    assert table.is_dead(name)


@pytest.mark.parametrize("state", ["Z", "X"])
def test_one_that_nobody_has_waited_for_is_dead(table: FakeTable, state: str) -> None:
    name = table.run(41, 100)
    table.run(41, 100, state)
    assert table.is_dead(name)


def test_one_that_is_hidden_is_not_called_dead(table: FakeTable) -> None:
    name = table.run(41, 100)
    table.end(41)
    table.hidden.add(41)
    assert not table.is_dead(name)


@pytest.mark.parametrize("elsewhere", [{"boot": "boot-2"}, {"namespace": "pid:[2]"}])
def test_nothing_is_said_of_other_places(table: FakeTable, tmp_path: Path, elsewhere: dict[str, str]) -> None:
    name = FakeTable(tmp_path / "other", **elsewhere).run(41, 100)
    assert not table.is_dead(name)


def test_nothing_is_said_of_other_hosts(table: FakeTable, monkeypatch: pytest.MonkeyPatch) -> None:
    name = table.run(41, 100)
    table.end(41)
    here = Processes(table.proc)
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    assert not here.is_dead(name)


def test_without_proc_nothing_is_said(tmp_path: Path) -> None:
    bare = Processes(tmp_path / "nothing")
    name = bare.own()
    assert not bare.is_dead(name) and not Processes(tmp_path / "nothing").is_dead(name)


@pytest.mark.parametrize("name", ["", "x", "a b c d e", "host - - 41 -", "host boot pid:[1] -1 100"])
def test_what_is_no_name_is_not_dead(table: FakeTable, name: str) -> None:
    assert not table.is_dead(name)


def test_a_name_fits_its_column(table: FakeTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "h" * 400)
    assert len(FakeTable(table.proc / "x", boot="b" * 36, namespace="pid:[4026531836]").own()) <= 255


def test_real_processes() -> None:
    def name_of(pid: int) -> str:
        place = processes.own_name().rsplit(" ", 2)[0]
        return f"{place} {pid} {Processes().start_time(pid)}"

    if not Path("/proc/self/stat").exists():
        pytest.skip("no /proc")
    assert not processes.is_dead(processes.own_name())
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = name_of(child.pid)
    assert not processes.is_dead(name)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has waited for it
    assert processes.is_dead(name)
    child.wait()
    assert processes.is_dead(name)


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the process of that name dead for whoever asks."""
    names: set[str] = set()
    for module in (leases, processes):
        monkeypatch.setattr(module, "is_dead", names.__contains__)
    return names.add


@pytest.mark.django_db
def test_a_lock_is_taken_over_from_the_dead_at_once(dead: Callable[[str], None]) -> None:
    leases.HeldLease("thing").__enter__()
    with pytest.raises(services.BusyError):
        leases.HeldLease("thing").__enter__()
    Lease.objects.update(holder="gone")
    with pytest.raises(services.BusyError):  # nothing is known of that process
        leases.HeldLease("thing").__enter__()
    dead("gone")
    with leases.HeldLease("thing"):
        assert leases.is_held("thing")
    assert not leases.is_held("thing")


@pytest.mark.django_db
def test_recovery_ends_what_the_dead_left_and_nothing_else(
    registry: Path, settings: Any, dead: Callable[[str], None]
) -> None:
    leases.HeldLease(scanning.LEASE).__enter__()
    leases.HeldLease("adapter:1").__enter__()
    scan = Scan.objects.create()
    recovery.recover()
    scan.refresh_from_db()
    assert scan.state == ScanState.RUNNING and Lease.objects.count() == 2
    Lease.objects.filter(name=scanning.LEASE).update(holder="gone")
    dead("gone")
    left = settings.STORE_DIR / f"{partials.PREFIX}{partials.machine()}-1"
    left.mkdir(parents=True)
    recovery.recover()
    scan.refresh_from_db()
    assert scan.state == ScanState.FAILED and scan.finished_at is not None
    assert list(Lease.objects.values_list("name", flat=True)) == ["adapter:1"]
    assert not left.exists()
