"""Unfinished folders of the store: kept while somebody fills them, in whatever process; gone once nobody does."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings

from adapters.files import partials
from adapters.lifecycle.conversion import CHILD
from adapters.places import Place, open_root
from adapters.tests.interference import interfering

WRITER = """
import os, signal, sys
from adapters.files import partials
from adapters.places import open_root
with open_root(sys.argv[1]) as shelf, partials.partial(shelf, "weights") as (folder, file):
    file.write(b"x" * 1000)
    print(folder.name, flush=True)
    signal.pause()
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty folder."""
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def shelf(root: Path) -> Iterator[Place]:
    """The same, opened."""
    with open_root(str(root)) as place:
        yield place


@pytest.fixture
def writer(root: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[str], Path]]]:
    """Starts processes that fill a folder each until they are killed."""
    started: list[subprocess.Popen[str]] = []

    def start() -> tuple[subprocess.Popen[str], Path]:
        command = [sys.executable, "-c", WRITER, str(root)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=django_settings.BASE_DIR)
        started.append(process)
        assert process.stdout is not None
        return process, root / process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.wait()


def entries(root: Path) -> set[Path]:
    return set(root.iterdir())


def make_old(folder: Path) -> None:
    for path in [*folder.iterdir(), folder]:
        os.utime(path, (0, 0))


def test_only_what_the_killed_left_is_swept(root: Path, shelf: Place, writer: Callable[[], Any]) -> None:
    (killed, left), (_living, filled) = writer(), writer()
    make_old(filled)  # it may stand still for hours: its lock says that it lives
    assert partials.sweep(shelf) == []
    killed.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)
    assert partials.is_abandoned(shelf, left.name) and not partials.is_abandoned(shelf, filled.name)
    assert partials.sweep(shelf) == [left.name]
    assert entries(root) == {filled} and (filled / "weights").stat().st_size == 1000


def test_what_is_finished_stays(root: Path, shelf: Place) -> None:
    with partials.partial(shelf, "weights") as (folder, _file):
        folder.renamed("whole").close()
    assert partials.sweep(shelf) == [] and entries(root) == {root / "whole"}


def test_a_failure_leaves_nothing(root: Path, shelf: Place) -> None:
    with pytest.raises(ValueError), partials.partial(shelf, "weights"):
        raise ValueError
    assert entries(root) == set()


def test_one_that_cleans_between_the_beginning_and_the_lock(
    root: Path, shelf: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock
    swept: list[str] = []

    def late(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX and not swept:
            swept.extend(partials.sweep(shelf))
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with partials.partial(shelf, "weights") as (folder, file):
        assert len(swept) == 1 and swept[0] != folder.name
        assert os.fstat(file.fileno()).st_ino == (root / folder.name / "weights").stat().st_ino
        assert partials.sweep(shelf) == []


def test_one_that_cleans_while_another_begins(root: Path, shelf: Place) -> None:
    """Before the first call of the kernel, the second, ...: a folder is filled in the end, and it stays."""
    number, done = 0, True
    swept: list[str] = []
    while done:
        with interfering(lambda: swept.extend(partials.sweep(shelf)), lambda count, *_: count == number) as meant:  # noqa: B023
            with partials.partial(shelf, "weights") as (folder, file):
                done = meant.done
                assert os.fstat(file.fileno()).st_nlink == 1
                assert entries(root) == {root / folder.name} and folder.name not in swept
        number += 1
    assert swept


def test_one_that_begins_while_another_cleans(root: Path, shelf: Place) -> None:
    """What was empty when its owner was looked for is no more: the owner keeps it."""
    number, held, kept = 0, [], False
    while True:
        with ExitStack() as stack:
            place = stack.enter_context(shelf.make(f"{partials.PREFIX}{partials.machine()}-1"))

            def begin() -> None:
                with suppress(FileNotFoundError):
                    file = stack.enter_context(place.create("weights"))  # noqa: B023
                    fcntl.flock(file, fcntl.LOCK_EX)
                    held.append(file)

            with interfering(begin, lambda count, *_: count == number) as meant:  # noqa: B023
                partials.sweep(shelf)
            for file in held:
                assert os.fstat(file.fileno()).st_nlink == 1
                kept = True
                place.unlink("weights")
                held.remove(file)
            if not meant.done:
                assert kept
                return
            if shelf.stat(place.name) is not None:
                shelf.rmdir(place.name)
        number += 1


def test_one_that_cleans_every_time(root: Path, shelf: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Place.make

    def make(place: Place, name: str, mode: int = 0o777) -> Place:
        made = real(place, name, mode)
        partials.sweep(shelf)
        return made

    monkeypatch.setattr(Place, "make", make)
    with pytest.raises(FileNotFoundError), partials.partial(shelf, "weights"):
        pass
    assert entries(root) == set()


@pytest.mark.parametrize("name", ["0123456789ab-1", "x", "f" * 64])
def test_what_another_machine_began_goes_after_an_hour_of_silence(root: Path, shelf: Place, name: str) -> None:
    folder = root / f"{partials.PREFIX}{name}"
    folder.mkdir()
    (folder / "weights").touch()
    assert partials.sweep(shelf) == []
    os.utime(folder, (0, 0))
    assert partials.sweep(shelf) == [], "its file was written to a moment ago"
    make_old(folder)
    with open(folder / "weights", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        make_old(folder)
        assert partials.sweep(shelf) == [], "a lock that is seen counts"
    assert partials.sweep(shelf) == [folder.name]


def test_without_locks_age_decides(root: Path, shelf: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with partials.partial(shelf, "weights") as (folder, _file):
        assert partials.sweep(shelf) == []
        make_old(root / folder.name)
        assert partials.sweep(shelf) == [folder.name]


def test_other_things_stay(root: Path, shelf: Place) -> None:
    (root / "real").mkdir()
    (root / f"{partials.PREFIX}{partials.machine()}-link").symlink_to(root / "real")
    (root / f"{partials.PREFIX}{partials.machine()}-file").touch()
    before = entries(root)
    assert partials.sweep(shelf) == [] and entries(root) == before


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
