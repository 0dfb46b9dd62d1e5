"""The virtual environment: made once, filled from the requirements files, shared safely by several starts."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import interpreters
from .console import SetupError, report
from .environment import PROJECT, Environment
from .preflight import NEEDED_FOR_PACKAGES, check_space
from .subprocesses import run_logged

# Signs in pip's output, the most telling first, and what to do.
REMEDIES = (
    (r"No space left on device", "the disk is full: free some space (3 GiB are needed) and run make again"),
    (
        r"Python\.h: No such file",
        "Python's header files are missing: install them (Debian, Ubuntu: apt install python3-dev)",
    ),
    (
        r"mysqlclient|mysql_config|Can not find valid pkg-config",
        "the MySQL driver cannot be built: install a C compiler and the client's header files"
        " (Debian, Ubuntu: apt install build-essential pkg-config default-libmysqlclient-dev python3-dev)",
    ),
    (
        r"command '[^']*(cc|gcc|g\+\+|c\+\+|clang)' failed|No such file or directory: '[^']*(cc|gcc|g\+\+|c\+\+)'"
        r"|[Nn]o (working )?C(\+\+)? compiler|Unknown compiler|CMAKE_C(XX)?_COMPILER",
        "a package must be compiled and there is no working C compiler: install one"
        " (Debian, Ubuntu: apt install build-essential; macOS: xcode-select --install) and run make again",
    ),
    (
        r"NewConnectionError|NameResolutionError|name resolution|ConnectTimeout|ReadTimeout|Read timed out|ProxyError"
        r"|Max retries exceeded|ConnectionReset|SSLError|Connection (refused|aborted)|Network is unreachable"
        r"|from versions: none",
        "the Python package index cannot be reached: check the network and the proxy (HTTPS_PROXY, PIP_INDEX_URL)"
        " and run make again",
    ),
    (
        r"No matching distribution found|Could not find a version",
        "the Python package index has no build for this Python and machine: use Python 3.11 or 3.12 on 64-bit Linux",
    ),
)


def ensure_packages(environment: Environment, dev: bool = False) -> None:
    """Make the environment and install what the requirements files name; at once where that is done already.

    Raises SetupError.
    """
    files = [PROJECT / ("requirements-dev.txt" if dev else requirements_of(environment))]
    if environment.mysql:
        files.append(PROJECT / "requirements-mysql.txt")
    with lock(environment.venv):
        ensure_venv(environment)
        missing = [file for file in files if not stamp(environment, file).exists()]
        if not missing:
            return
        much = not is_stamped(environment) and not environment.fleet
        check_space(environment.venv, NEEDED_FOR_PACKAGES if much else 2**28)
        names = ", ".join(file.name for file in missing)
        report(f"Installing the Python packages of {names} (once; a few minutes, details in {environment.log})")
        pip_install(environment, *(word for file in missing for word in ("-r", str(file))))
        for file in missing:
            stamp(environment, file).touch()
        if dev:  # its first line is -r requirements.txt
            stamp(environment, PROJECT / "requirements.txt").touch()


def requirements_of(environment: Environment) -> str:
    """Where models run elsewhere, nothing that runs models is installed."""
    return "requirements-fleet.txt" if environment.fleet else "requirements.txt"


def pip_install(environment: Environment, *words: str) -> None:
    command = [
        environment.python,
        "-m",
        "pip",
        "install",
        "--no-input",
        "--disable-pip-version-check",
        *words,
    ]
    status, output = run_logged(command, environment.log, show_download)
    if status:
        raise SetupError(explain(output, environment.log))


def explain(output: str, log: Path) -> str:
    """One sentence for a failed installation."""
    for sign, remedy in REMEDIES:
        if re.search(sign, output):
            return f"Packages could not be installed: {remedy}."
    return f"Packages could not be installed: see the end of {log} and run make again."


def show_download(line: str) -> None:
    """Tell of the large downloads, so that a slow line does not look like a standstill."""
    match = re.search(r"Downloading (\S+?)-\d\S* \((\d+(?:\.\d+)? [MG]B)\)", line)
    if match and ("GB" in match.group(2) or float(match.group(2).split()[0]) >= 20):
        report(f"  downloading {Path(match.group(1)).name} ({match.group(2)})")
    elif line.startswith("Installing collected packages"):
        report("  unpacking")


def ensure_venv(environment: Environment) -> None:
    if os.access(environment.python, os.X_OK):
        return
    python, version, why = sys.executable, tuple(sys.version_info[:3]), ""
    if (better := interpreters.fastest()) is not None:
        python, version = better[0].path, better[0].version
        why = f" ({python}, {better[1]:.1f} times as fast as {sys.executable}; PYTHON=... chooses another)"
    report(f"Making the virtual environment {environment.venv.name} with Python {'.'.join(map(str, version))}{why}")
    command = [python, "-m", "venv", "--clear", environment.venv]
    status, output = run_logged(command, environment.log)
    if status or not os.access(environment.python, os.X_OK):
        if "No space left" in output:
            raise SetupError("The disk is full: free some space (3 GiB are needed) and run make again.")
        if "ensurepip" in output or "No module named venv" in output:
            raise SetupError(
                "This Python cannot make virtual environments: install venv (Debian, Ubuntu: apt install python3-venv)."
            )
        raise SetupError(f"The virtual environment {environment.venv} cannot be made: see {environment.log}.")


def stamp(environment: Environment, file: Path) -> Path:
    """The file whose presence says that these very requirements are installed in this very environment."""
    content = hashlib.sha256((environment.venv / "pyvenv.cfg").read_bytes())
    for path in _with_included(file):
        content.update(path.read_bytes())
    return environment.venv / f".{file.stem}-{content.hexdigest()[:16]}"


def is_stamped(environment: Environment) -> bool:
    return any(environment.venv.glob(".requirements*"))


def _with_included(file: Path) -> Iterator[Path]:
    yield file
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            yield from _with_included(file.parent / line[3:].strip())


@contextmanager
def lock(venv: Path) -> Iterator[None]:
    """One start at a time fills the environment; the others wait. The lock ends with its process, however that ends."""
    venv.parent.mkdir(parents=True, exist_ok=True)
    with open(venv.with_name(venv.name + ".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            report("Waiting for another start that is installing packages")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def installed(environment: Environment, package: str) -> bool:
    check = f"import importlib.metadata as m; m.distribution({package!r})"
    result = subprocess.run([environment.python, "-c", check], capture_output=True, check=False)  # noqa: S603
    return result.returncode == 0
