"""Programs forked from a process that has imported what they need: as started anew, and gone when nobody wants them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import launching
from launching import fork_server, forks
from launching.forks import UNKNOWN

PROJECT = Path(__file__).resolve().parents[2]
LIBRARY = """
import os
IMPORTED_BY = os.getpid()
"""
PROGRAM = """
import library, os, sys, time
def main():
    exec(sys.argv[1])
if __name__ == "__main__":
    main()
"""
Make = Callable[..., launching.Forks]


def eventually(condition: Callable[[], Any], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)
    return found


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Processes that import `library.py` and fork `program.py`, which does what it is told."""
    (tmp_path / "program.py").write_text(PROGRAM)
    made: list[launching.Forks] = []

    def environment() -> dict[str, str]:
        return {"PYTHONPATH": f"{PROJECT}{os.pathsep}{tmp_path}", "SERVER": "told"}

    def make(library: str = LIBRARY) -> launching.Forks:
        (tmp_path / "library.py").write_text(library)
        made.append(launching.Forks(["library"], environment, tmp_path))
        return made[-1]

    yield make
    for one in made:
        one.close()


def words(code: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "program", code, *more]


def run(forks: launching.Forks, code: str, *more: str, **options: Any) -> launching.Ended:
    given = {"timeout": 30.0, **options}
    environment = given.pop("environment", {"PYTHONPATH": os.pathsep.join(sys.path)})
    return launching.run(words(code, *more), environment, starter=forks.start, **given)


def server_of(forks: launching.Forks) -> subprocess.Popen[bytes]:
    assert forks._server is not None
    return forks._server


def test_what_it_imported_is_there_in_each_program(make: Make) -> None:
    forks = make()
    told = [run(forks, "print(library.IMPORTED_BY, os.getppid(), os.getpid())").output.split() for _ in range(2)]
    (first, parent, one), (second, _parent, other) = told
    assert first == second == parent == str(server_of(forks).pid).encode()
    assert len({first, one, other}) == 3


def test_it_is_as_a_program_of_its_own(make: Make, tmp_path: Path) -> None:
    """What it is told, where it runs, what it reads and says."""
    code = "print(sys.argv[2:], sorted(os.environ), os.getcwd(), sys.stdin.read(), file=sys.stderr)"
    done = run(make(), code, "a", "b c", stdin=b"asked", folder=tmp_path, environment={"OURS": "1", "LANG": "C.UTF-8"})
    assert done == launching.Ended(0, b"", f"['a', 'b c'] ['LANG', 'OURS'] {tmp_path} asked\n".encode())


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("pass", 0),
        ("sys.exit(3)", 3),
        ("sys.exit()", 0),
        ("sys.exit('why')", 1),
        ("os._exit(7)", 7),
        ("os.kill(os.getpid(), 15)", -signal.SIGTERM),
        ("os.kill(os.getpid(), 9)", -signal.SIGKILL),
        ("os.kill(os.getpid(), 2)", 1),
    ],
)
def test_how_it_ended_is_told(make: Make, code: str, status: int) -> None:
    assert run(make(), code).status == status


def test_what_it_raises_is_on_its_standard_error(make: Make) -> None:
    done = run(make(), "raise ValueError('of its own')")
    assert done.status == 1
    assert done.errors.splitlines()[-1] == b"ValueError: of its own"


def test_it_has_the_files_passed_under_their_numbers_and_no_others(make: Make) -> None:
    forks = make()
    with tempfile.TemporaryFile() as first, tempfile.TemporaryFile() as second:
        first.write(b"first")
        second.write(b"second")
        first.flush()
        second.flush()
        code = (
            "print([os.pread(int(number), 9, 0) for number in sys.argv[2:]],"
            " sorted(set(map(int, os.listdir('/proc/self/fd'))) - {0, 1, 2, *map(int, sys.argv[2:])}))"
        )
        numbers = [second.fileno(), first.fileno()]
        done = run(forks, code, *map(str, numbers), descriptors=numbers)
    read, others = done.output.decode().rsplit(" [", 1)
    assert read == "[b'second', b'first']"
    assert len(others.strip("]\n").split(", ")) == 1, "the folder that is listed"


def test_two_files_may_have_each_others_numbers() -> None:
    code = (
        "import os; from launching.fork_server import place\n"
        "for number, text in ((7, b'seven'), (8, b'eight'), (9, b'nine')):\n"
        "    read, write = os.pipe(); os.write(write, text); os.dup2(read, number)\n"
        "place([7, 8, 9], [8, 7, 20])\n"
        "print(os.read(8, 9), os.read(7, 9), os.read(20, 9))\n"
        "try: os.fstat(9)\n"
        "except OSError: print('closed')\n"
    )
    done = launching.run([sys.executable, "-c", code], {"PYTHONPATH": str(PROJECT)}, timeout=30)
    assert done.output == b"b'seven' b'eight' b'nine'\nclosed\n"


def test_one_that_takes_too_long_is_killed(make: Make) -> None:
    read, write = os.pipe()
    with pytest.raises(launching.TookTooLongError):
        run(make(), "time.sleep(60)", timeout=1.0, descriptors=[write])
    os.close(write)
    assert os.read(read, 1) == b"", "nobody else holds the pipe's other end: the program is gone"
    os.close(read)


def test_many_at_once(make: Make) -> None:
    forks = make()
    environment = {"PYTHONPATH": str(PROJECT)}
    children = [forks.start(words(f"sys.exit({number})"), environment) for number in range(20)]
    assert [child.wait(30) for child in children] == list(range(20))


def test_one_that_nobody_wants_any_more_is_killed(make: Make) -> None:
    child = make().start(words("time.sleep(60)"), {})
    wanted = [child]
    eventually(lambda: wanted[0].poll() is None and wanted[0].pid)
    process = psutil.Process(child.pid)
    del child, wanted[:]
    eventually(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


def test_one_may_end_at_the_moment_at_which_nobody_wants_it_any_more(make: Make, tmp_path: Path) -> None:
    """Its end is seen first, and nobody is there to be told."""
    made = make(
        f"{LIBRARY}\nimport time, __main__\n"
        "reap = __main__.ForkServer.reap\n"
        "def late(server):\n"
        f"    open({str(tmp_path / 'ended')!r}, 'w').close()\n"
        f"    while not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)\n"
        "    reap(server)\n"
        "__main__.ForkServer.reap = late\n"
    )
    wanted = [made.start(words("pass"), {})]
    eventually((tmp_path / "ended").exists)
    del wanted[:]
    (tmp_path / "go").touch()
    assert [run(made, f"sys.exit({number})").status for number in range(3)] == [0, 1, 2]
    assert server_of(made).poll() is None


def test_one_that_is_not_forked_yet_can_be_killed(make: Make, tmp_path: Path) -> None:
    forks = make(f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)\n")
    child = forks.start(words(f"open({str(tmp_path / 'forked')!r}, 'w')"), {})
    assert (child.poll(), child.pid) == (None, None)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.05)
    child.kill()
    assert child.wait(0) == -signal.SIGKILL
    (tmp_path / "go").touch()
    assert run(forks, "pass").status == 0
    assert not (tmp_path / "forked").exists()


def test_with_its_owner_the_process_ends_and_what_it_forked(make: Make, tmp_path: Path) -> None:
    make()  # writes the modules
    code = (
        "import launching, os, sys, time\n"
        f"forks = launching.Forks(['library'], lambda: dict(os.environ), {str(tmp_path)!r})\n"
        f"child = forks.start({words('time.sleep(60)')!r}, {{}})\n"
        "while child.poll() is None and child.pid is None: time.sleep(0.01)\n"
        "print(forks._server.pid, child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    path = f"{PROJECT}{os.pathsep}{tmp_path}"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    ) as owner:
        assert owner.stdout is not None
        processes = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
        assert [process.is_running() for process in processes] == [True, True]
        owner.kill()
    assert psutil.wait_procs(processes, timeout=30)[1] == []


@pytest.mark.parametrize("library", ["raise ImportError('torn')", "import os; os.kill(os.getpid(), 9)"])
def test_where_nothing_can_be_imported_programs_start_without(
    make: Make, library: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first learns of it by its status, as one that ended before it began."""
    forks = make(library)
    assert run(forks, "pass").status == UNKNOWN
    (tmp_path / "library.py").write_text(LIBRARY)
    path = f"{PROJECT}{os.pathsep}{tmp_path}"
    done = run(forks, "print(library.IMPORTED_BY == os.getpid())", environment={"PYTHONPATH": path})
    assert done.output == b"True\n"
    assert "they start without it" in caplog.text


def test_a_process_that_ended_for_want_of_work_is_started_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "AT_HAND", 0.0)
    made = make()
    assert run(made, "pass").status == 0
    first = server_of(made)
    assert first.wait(30) == 0
    assert run(made, "pass").status == 0
    assert made._server is not first


def test_a_program_that_it_has_not_taken_up_is_taken_up_by_the_next(make: Make) -> None:
    """It may end at the moment at which somebody asks."""
    made = make()
    assert run(made, "pass").status == 0
    server = server_of(made)
    server.send_signal(signal.SIGSTOP)
    eventually(lambda: psutil.Process(server.pid).status() == psutil.STATUS_STOPPED)
    child = made.start(words("sys.exit(5)"), {})
    server.stdin.close()  # type: ignore[union-attr]
    server.send_signal(signal.SIGCONT)
    assert child.wait(30) == 5


@pytest.mark.parametrize("killed", [False, True])
def test_where_the_process_is_killed_what_it_forked_goes_on(make: Make, killed: bool) -> None:
    made = make()
    read, write = os.pipe()
    child = made.start(words(f"os.read({read}, 1)"), {}, descriptors=[read])
    eventually(lambda: child.pid)
    server_of(made).kill()
    server_of(made).wait()
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.1)
    if killed:
        child.kill()
    os.close(read)
    os.write(write, b"x") if not killed else None
    os.close(write)
    assert child.wait(30) == (-signal.SIGKILL if killed else UNKNOWN)


def test_a_system_that_has_not_what_it_takes_starts_each_program_anew(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def forbidden(pid: int, flags: int = 0) -> int:
        raise PermissionError("seccomp")

    monkeypatch.setattr(os, "pidfd_open", forbidden)
    path = f"{PROJECT}{os.pathsep}{tmp_path}"
    made = make()
    done = run(made, "print(library.IMPORTED_BY == os.getpid())", environment={"PYTHONPATH": path})
    assert (done.output, made._server) == (b"True\n", None)


def test_a_process_that_has_opened_a_card_starts_each_program_anew(make: Make, tmp_path: Path) -> None:
    card = tmp_path / "nvidia0"
    card.touch()
    library = f"{LIBRARY}\nimport __main__\n__main__.CARDS = ({str(card)!r},)\nheld = open({str(card)!r})\n"
    path = f"{PROJECT}{os.pathsep}{tmp_path}"
    code = "print(library.IMPORTED_BY == os.getpid(), sys.argv[2:], os.getppid())"
    made = make(library)
    done = run(made, code, "a b", environment={"PYTHONPATH": path})
    assert done.output == f"True ['a b'] {server_of(made).pid}\n".encode(), done.errors


def test_who_is_another_user_is_not_heard(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        assert fork_server.ours(near)
        monkeypatch.setattr(fork_server.os, "geteuid", lambda: os.getuid() + 1)
        assert not fork_server.ours(near)


def test_what_is_no_request_ends_nothing(make: Make) -> None:
    made = make()
    assert run(made, "pass").status == 0
    for packet in (b"", b"no JSON", b"{}", b'{"module": "program"}'):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(made._listener.getsockname())  # type: ignore[union-attr]
            if packet:
                connection.send(packet)
    assert run(made, "pass").status == 0
    assert server_of(made).poll() is None


def test_a_terminals_interrupt_does_not_end_it(make: Make) -> None:
    made = make()
    assert run(made, "pass").status == 0
    for number in (signal.SIGINT, signal.SIGTERM):
        server_of(made).send_signal(number)
    assert run(made, "pass").status == 0
    assert server_of(made).poll() is None


def test_an_environment_too_long_for_a_packet_starts_it_otherwise(make: Make, tmp_path: Path) -> None:
    path = f"{PROJECT}{os.pathsep}{tmp_path}"
    long = {f"LONG{number}": "x" * 100_000 for number in range(10)}
    done = run(make(), "print(len(os.environ['LONG9']))", environment={"PYTHONPATH": path, **long})
    assert done.output == b"100000\n"


def test_a_name_for_lists_of_processes() -> None:
    code = "import launching; launching.appear_as('lora-test'); print(open('/proc/self/comm').read())"
    done = launching.run([sys.executable, "-c", code], {"PYTHONPATH": str(PROJECT)}, timeout=30)
    assert done.output.split() == [b"lora-test"]
