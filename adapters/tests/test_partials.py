"""Unfinished folders of the store: kept while somebody fills them, in whatever process; gone once nobody does."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings

from adapters.files import partials
from adapters.lifecycle.conversion import CHILD

WRITER = """
import os, signal, sys
from pathlib import Path
from adapters.files import partials
with partials.partial(Path(sys.argv[1]), "weights") as (folder, file):
    file.write(b"x" * 1000)
    print(folder, flush=True)
    signal.pause()
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty folder."""
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def writer(root: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[str], Path]]]:
    """Starts processes that fill a folder each until they are killed."""
    started: list[subprocess.Popen[str]] = []

    def start() -> tuple[subprocess.Popen[str], Path]:
        command = [sys.executable, "-c", WRITER, str(root)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=django_settings.BASE_DIR)
        started.append(process)
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    yield start
    for process in started:
        process.kill()
        process.wait()


def entries(root: Path) -> set[Path]:
    return set(root.iterdir())


def make_old(folder: Path) -> None:
    for path in [*folder.iterdir(), folder]:
        os.utime(path, (0, 0))


def test_only_what_the_killed_left_is_swept(root: Path, writer: Callable[[], Any]) -> None:
    (killed, left), (_living, filled) = writer(), writer()
    make_old(filled)  # it may stand still for hours: its lock says that it lives
    assert partials.sweep(root) == []
    killed.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)
    assert partials.is_abandoned(left) and not partials.is_abandoned(filled)
    assert partials.sweep(root) == [left]
    assert entries(root) == {filled} and (filled / "weights").stat().st_size == 1000


def test_what_is_finished_stays(root: Path) -> None:
    with partials.partial(root, "weights") as (folder, _file):
        folder.rename(root / "whole")
    assert partials.sweep(root) == [] and entries(root) == {root / "whole"}


def test_a_failure_leaves_nothing(root: Path) -> None:
    with pytest.raises(ValueError), partials.partial(root, "weights"):
        raise ValueError
    assert entries(root) == set()


def test_one_that_cleans_between_the_beginning_and_the_lock(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.flock
    swept: list[Path] = []

    def late(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX and not swept:
            swept.extend(partials.sweep(root))
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with partials.partial(root, "weights") as (folder, file):
        assert len(swept) == 1 and swept[0] != folder
        assert os.fstat(file.fileno()).st_ino == (folder / "weights").stat().st_ino
        assert partials.sweep(root) == []


def test_one_that_cleans_before_the_file_is_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.mkdir
    swept: list[Path] = []

    def mkdir(path: Path, *arguments: Any, **options: Any) -> None:
        real(path, *arguments, **options)
        if not swept:
            swept.extend(partials.sweep(root))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with partials.partial(root, "weights") as (folder, _file):
        assert len(swept) == 1 and entries(root) == {folder}


@pytest.mark.parametrize("name", ["0123456789ab-1", "x", "f" * 64])
def test_what_another_machine_began_goes_after_an_hour_of_silence(root: Path, name: str) -> None:
    folder = root / f"{partials.PREFIX}{name}"
    folder.mkdir()
    (folder / "weights").touch()
    assert partials.sweep(root) == []
    os.utime(folder, (0, 0))
    assert partials.sweep(root) == [], "its file was written to a moment ago"
    make_old(folder)
    with open(folder / "weights", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        make_old(folder)
        assert partials.sweep(root) == [], "a lock that is seen counts"
    assert partials.sweep(root) == [folder]


def test_without_locks_age_decides(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with partials.partial(root, "weights") as (folder, _file):
        assert partials.sweep(root) == []
        make_old(folder)
        assert partials.sweep(root) == [folder]


def test_a_removal_that_was_cut_off_is_finished(root: Path) -> None:
    entry = root / ("a" * 64)
    entry.mkdir()
    (entry / "weights").touch()
    aside = entry.rename(partials.aside(entry))
    assert partials.sweep(root) == [aside] and entries(root) == set()


def test_other_things_stay(root: Path) -> None:
    (root / "real").mkdir()
    (root / f"{partials.PREFIX}{partials.machine()}-link").symlink_to(root / "real")
    (root / f"{partials.PREFIX}{partials.machine()}-file").touch()
    before = entries(root)
    assert partials.sweep(root) == [] and entries(root) == before
    assert partials.sweep(root / "nowhere") == []


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's word for a parent's death is Linux's own")
def test_a_conversion_ends_with_whoever_asked_for_it() -> None:
    child = f"import os, runpy, time; runpy.run_path({str(CHILD)!r})['end_with'](int(os.environ['ASKED_BY'])); " + (
        "print('ready', flush=True); time.sleep(1000)"
    )
    parent = (
        "import os, subprocess, sys;"
        f"subprocess.run([sys.executable, '-c', {child!r}], env={{**os.environ, 'ASKED_BY': str(os.getpid())}})"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.kill()
    assert process.stdout.read() == "", "the pipe ends with the last process that holds it"
    process.wait()
