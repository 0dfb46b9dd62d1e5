"""The steps before anything is installed: each failure in one sentence with its remedy."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from loraportal.setup import environment, interpreters, packages, preflight, samples, subprocesses
from loraportal.setup.console import SetupError

PROJECT = environment.PROJECT
SCRIPT = PROJECT / "loraportal" / "setup" / "python.sh"


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A project folder without settings of its own."""
    for name in (
        "INFERENCE_BACKEND",
        "VAR_DIR",
        "PORT",
        "HOST",
        "LORA_ROOTS",
        "BASE_MODELS_DIR",
        "DATABASE_URL",
        "VENV",
    ):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_defaults(plain: Path) -> None:
    found = environment.read_environment(plain)
    assert (found.host, found.port, found.mysql, found.own_adapters) == ("127.0.0.1", 8000, False, False)
    assert found.var_dir == plain / "var" and found.models_dir == plain / "var" / "models"
    assert found.python == plain / ".venv" / "bin" / "python"


def test_env_file_and_environment(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "# PORT=1",
        "export PORT=8001",
        "VAR_DIR='else where'",
        'LORA_ROOTS="/a, /b"',
        "DATABASE_URL=mysql://u:p@h/n",
    ]
    (plain / ".env").write_text("\n".join(lines))
    found = environment.read_environment(plain)
    assert found.port == 8001 and found.var_dir == plain / "else where" and found.own_adapters and found.mysql
    monkeypatch.setenv("PORT", "8002")
    monkeypatch.setenv("LORA_ROOTS", f"/a,{plain}/else where/adapters")
    found = environment.read_environment(plain)
    assert found.port == 8002 and not found.own_adapters


def test_a_fleet_installs_nothing_that_runs_models(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert packages.requirements_of(environment.read_environment(plain)) == "requirements.txt"
    monkeypatch.setenv("INFERENCE_BACKEND", "vllm")
    assert packages.requirements_of(environment.read_environment(plain)) == "requirements-fleet.txt"
    names = {line.partition("==")[0].lower() for line in (PROJECT / "requirements-fleet.txt").read_text().splitlines()}
    assert "django" in names and not names & {"torch", "transformers", "peft", "bitsandbytes", "accelerate"}


@pytest.mark.parametrize("port", ["0", "65536", "http", "80 80", "-1", "８０００"])
def test_ports_that_are_none(plain: Path, monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("PORT", port)
    with pytest.raises(SetupError, match="PORT must be a whole number"):
        environment.read_environment(plain)


def test_port_taken() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(SetupError, match=rf"Port {port} is taken.*PORT=\d+ make run"):
            preflight.check_port("127.0.0.1", port)
    preflight.check_port("127.0.0.1", port)


def test_host_of_another_machine() -> None:
    with pytest.raises(SetupError, match="no address of this machine"):
        preflight.check_port("192.0.2.1", 8000)


def test_folder_and_space(tmp_path: Path) -> None:
    preflight.check_folder(tmp_path / "new" / "var", "VAR_DIR")
    assert (tmp_path / "new" / "var").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="VAR_DIR .* cannot be made"):
        preflight.check_folder(tmp_path / "file" / "var", "VAR_DIR")
    with pytest.raises(SetupError, match="free some space"):
        preflight.check_space(tmp_path / "not" / "yet", 2**70)


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("error: command 'gcc' failed: No such file or directory", "no working C compiler"),
        ("error: command '/usr/bin/x86_64-linux-gnu-gcc' failed with exit code 1", "no working C compiler"),
        ("fatal error: Python.h: No such file or directory", "header files"),
        ("Failed to build mysqlclient\nerror: command 'gcc' failed", "MySQL driver"),
        (
            "WARNING: Retrying ... NewConnectionError: Failed to establish a new connection\nERROR: No matching",
            "network",
        ),
        ("Could not find a version that satisfies x==2 (from versions: none)\nNo matching distribution", "network"),
        ("Could not find a version that satisfies x==2 (from versions: 1.0)\nNo matching", "no build for this Python"),
        ("something else", "setup.log"),
    ],
)
def test_failed_installations_are_explained(output: str, says: str) -> None:
    sentence = packages.explain(output, Path("setup.log"))
    assert says in sentence and sentence.count("\n") == 0


def make_environment(tmp_path: Path, venv: Path | None = None) -> environment.Environment:
    return environment.Environment(
        var_dir=tmp_path / "var",
        host="127.0.0.1",
        port=8000,
        models_dir=tmp_path / "var" / "models",
        adapters_dir=tmp_path / "var" / "adapters",
        own_adapters=False,
        mysql=False,
        venv=venv or tmp_path / "venv",
    )


def test_real_pip_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip's own words for an index that does not answer are understood."""
    settings = make_environment(tmp_path, Path(sys.prefix))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(SetupError, match="cannot be reached"):
        packages.pip_install(settings, "--target", str(tmp_path / "target"), "no-such-package-here")
    assert "no-such-package-here" in settings.log.read_text()


def test_stamp_follows_files_and_environment(tmp_path: Path) -> None:
    settings = make_environment(tmp_path)
    settings.venv.mkdir()
    (settings.venv / "pyvenv.cfg").write_text("version = 3.11.7")
    first, dev = tmp_path / "requirements.txt", tmp_path / "requirements-dev.txt"
    first.write_text("a==1")
    dev.write_text("-r requirements.txt\nb==1")
    before = packages.stamp(settings, first), packages.stamp(settings, dev)
    assert before == (packages.stamp(settings, first), packages.stamp(settings, dev)) and before[0] != before[1]
    first.write_text("a==2")
    after = packages.stamp(settings, first), packages.stamp(settings, dev)
    assert after[0] != before[0] and after[1] != before[1], "the included file counts"
    (settings.venv / "pyvenv.cfg").write_text("version = 3.12.0")
    assert packages.stamp(settings, first) != after[0]


def test_installs_once_and_again_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_environment(tmp_path)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("a==1")
    ran: list[tuple[str, ...]] = []

    def fake_venv(settings: environment.Environment) -> None:
        settings.venv.mkdir(exist_ok=True)
        (settings.venv / "pyvenv.cfg").touch()

    monkeypatch.setattr(packages, "PROJECT", tmp_path)
    monkeypatch.setattr(packages, "ensure_venv", fake_venv)
    monkeypatch.setattr(packages, "pip_install", lambda _settings, *words: ran.append(words))
    packages.ensure_packages(settings)
    packages.ensure_packages(settings)
    assert ran == [("-r", str(requirements))]
    requirements.write_text("a==2")

    def fails(_settings: environment.Environment, *words: str) -> None:
        raise SetupError("no network")

    monkeypatch.setattr(packages, "pip_install", fails)
    for _again in range(2):
        with pytest.raises(SetupError):
            packages.ensure_packages(settings)


def test_one_installation_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []
    entered, release = threading.Event(), threading.Event()

    def first() -> None:
        with packages.lock(tmp_path / "venv"):
            entered.set()
            release.wait(10)
            order.append("first")

    def second() -> None:
        with packages.lock(tmp_path / "venv"):
            order.append("second")

    one = threading.Thread(target=first)
    one.start()
    assert entered.wait(10)
    two = threading.Thread(target=second)
    two.start()
    release.set()
    one.join(10)
    two.join(10)
    assert order == ["first", "second"]


def test_demo_stays_away_from_folders_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_words: object) -> None:
        raise AssertionError("nothing may be written")

    monkeypatch.setattr(samples, "run_module", forbidden)
    own = tmp_path / "own"
    (own / "Qwen").mkdir(parents=True)
    (own / "Qwen" / "config.json").write_text("{}")
    settings = make_environment(tmp_path)
    fields = {**vars(settings), "models_dir": own, "own_adapters": True}
    samples.ensure_base_model(environment.Environment(**fields))
    samples.ensure_adapters(environment.Environment(**fields))
    assert [path.name for path in own.iterdir()] == ["Qwen"]


def test_a_link_in_the_place_of_a_lock_is_not_written_through(tmp_path: Path) -> None:
    settings = make_environment(tmp_path)
    settings.models_dir.mkdir(parents=True, exist_ok=True)
    (tmp_path / "gold").write_text("gold")
    (settings.models_dir / ".loraportal.lock").symlink_to(tmp_path / "gold")
    with pytest.raises(SetupError, match="cannot be written"):
        samples.ensure_base_model(settings)
    assert (tmp_path / "gold").read_text() == "gold"


def test_failed_module_is_told_by_its_last_line(tmp_path: Path) -> None:
    settings = make_environment(tmp_path, Path(sys.prefix))
    with pytest.raises(SetupError, match="No module named"):
        samples.run_module(settings, "no_such_module_here")


def test_children_end_with_their_parent(tmp_path: Path) -> None:
    """SIGTERM in the middle of a long step: the step's program is gone when the parent is."""
    program = (
        "import sys; from pathlib import Path; from loraportal.setup.subprocesses import run_logged, stop_on_signals\n"
        "stop_on_signals()\n"
        "child = 'import os, time; print(os.getpid(), flush=True); time.sleep(600)'\n"
        "run_logged([sys.executable, '-c', child], Path(sys.argv[1]), lambda line: print(line, flush=True))\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "log"], stdout=subprocess.PIPE, text=True, cwd=PROJECT
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(10) == 128 + signal.SIGTERM
    parent.stdout.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def fake_python(folder: Path, name: str, version: str) -> None:
    """An executable that passes for a Python of that version, as far as the start script asks."""
    script = folder / name
    new_enough = tuple(map(int, version.split("."))) >= (3, 11)
    script.write_text(
        f'#!/bin/sh\nif [ "$1" = -c ]; then exit {0 if new_enough else 1}; fi\necho "{name} {version} $*"\n'
    )
    script.chmod(0o755)


def start(path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", SCRIPT, "run"], env={"PATH": str(path), **environ}, capture_output=True, text=True, check=False
    )


def test_finds_a_python_that_is_new_enough(tmp_path: Path) -> None:
    fake_python(tmp_path, "python3", "3.9")
    nothing = start(tmp_path)
    assert nothing.returncode == 1 and "No Python 3.11 or newer" in nothing.stderr and nothing.stderr.count("\n") == 1
    fake_python(tmp_path, "python3.12", "3.12")
    assert start(tmp_path).stdout == "python3.12 3.12 -m loraportal.setup run\n"
    fake_python(tmp_path, "python3.11", "3.11")
    assert start(tmp_path).stdout.startswith("python3.11 ")
    fake_python(tmp_path, "mine", "3.13")
    assert start(tmp_path, PYTHON="mine").stdout.startswith("mine ")
    old = start(tmp_path, PYTHON="python3")
    assert old.returncode == 1 and "PYTHON=python3" in old.stderr


def build(folder: Path, seconds: object, **facts: object) -> Path:
    """A folder for PATH with a Python of this version that takes so long for the small program, by its own word."""
    folder.mkdir()
    said = {
        "home": str(folder), "seconds": seconds, "version": list(sys.version_info[:3]), "machine": platform.machine(),
        "implementation": sys.implementation.name, "headers": True, **facts,
    }  # fmt: skip
    script = folder / "python{}.{}".format(*sys.version_info[:2])
    script.write_text(f"#!/bin/sh\necho '{json.dumps(said)}'\n")
    script.chmod(0o755)
    return folder


def searched(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> str | None:
    monkeypatch.setenv("PATH", os.pathsep.join([*map(str, folders), os.environ["PATH"]]))
    found = interpreters.fastest()
    return found and Path(found[0].path).parent.name


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Python that runs, in a second by its own word; PATH leads nowhere."""
    monkeypatch.delenv("PYTHON", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing-here"))
    path = next(build(tmp_path / "own", 1.0).iterdir())
    monkeypatch.setattr(sys, "executable", str(path))
    return path


def test_a_real_python_is_looked_at() -> None:
    found = interpreters.looked_at(sys.executable)
    assert found is not None and found.version == tuple(sys.version_info[:3])
    assert found.home == os.path.realpath(sys.base_prefix) and 0 < found.seconds < 10


def test_the_fastest_python_of_this_version_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: Path
) -> None:
    assert interpreters.fastest() is None  # the only one
    assert searched(monkeypatch, build(tmp_path / "slower", 2.0), build(tmp_path / "hardly-faster", 0.9)) is None
    assert searched(monkeypatch, build(tmp_path / "fast", 0.8), build(tmp_path / "faster", 0.7)) == "faster"
    same = build(tmp_path / "same", 0.1, home=str(own.parent))  # this one under another path
    assert searched(monkeypatch, same) == "faster"
    monkeypatch.setenv("PYTHON", "python3")
    assert interpreters.fastest() is None  # somebody has chosen


@pytest.mark.parametrize(
    "facts",
    [
        {"version": [3, 10, 9]},
        {"machine": "sparc"},
        {"implementation": "pypy"},
        {"home": None},
        {"version": 3},
        {"headers": False},
    ],
)
def test_a_python_of_another_kind_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: Path, facts: dict[str, object]
) -> None:
    broken = build(tmp_path / "broken", 0.1)
    next(broken.iterdir()).write_text("#!/bin/sh\necho 'No module named ensurepip' >&2\nexit 1\n")
    assert searched(monkeypatch, build(tmp_path / "other", 0.1, **facts), broken) is None


def test_the_environment_is_made_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_environment(tmp_path)
    made: list[str] = []

    def run(command: list[object], _log: Path) -> tuple[int, str]:
        made.append(str(command[0]))
        settings.python.parent.mkdir(parents=True)
        settings.python.symlink_to(sys.executable)
        return 0, ""

    monkeypatch.setattr(packages, "run_logged", run)
    other = interpreters.Interpreter("/opt/python3.11", "/opt", (3, 11, 99), 1.0, headers=True)
    monkeypatch.setattr(interpreters, "fastest", lambda: (other, 1.4))
    packages.ensure_venv(settings)
    packages.ensure_venv(settings)  # what is there stays
    assert made == ["/opt/python3.11"]
    assert "3.11.99 (/opt/python3.11, 1.4 times as fast as" in capsys.readouterr().out


def test_nothing_but_the_standard_library_before_the_packages() -> None:
    """`-S` takes site-packages away."""
    code = "import loraportal.setup.__main__"
    result = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_children_log(tmp_path: Path) -> None:
    seen: list[str] = []
    code = "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"
    status, output = subprocesses.run_logged([sys.executable, "-c", code], tmp_path / "logs" / "log", seen.append)
    assert status == 3 and sorted(output.split()) == ["one", "two"] == sorted(line.strip() for line in seen)
    assert "two" in (tmp_path / "logs" / "log").read_text()
