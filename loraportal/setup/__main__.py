"""`python -m loraportal.setup run|test|demo|tools`: what the Makefile's targets do first."""

from __future__ import annotations

import errno
import sys

from .console import SetupError
from .environment import PROJECT, Environment, read_environment
from .packages import ensure_packages
from .preflight import check_folder, preflight
from .samples import ensure_adapters, ensure_base_model
from .subprocesses import replace_process, stop_on_signals


def run(environment: Environment, words: list[str]) -> None:
    preflight(environment)
    ensure_packages(environment)
    if not environment.fleet:  # the libraries that write the demo's base model are not there
        ensure_base_model(environment)
    ensure_adapters(environment)
    replace_process([environment.python, PROJECT / "manage.py", "serve", "--prepare", *words])


def test(environment: Environment, words: list[str]) -> None:
    check_folder(environment.var_dir, "VAR_DIR")
    ensure_packages(environment, dev=True)
    ensure_base_model(environment)
    replace_process([environment.python, "-m", "pytest", *words])


def demo(environment: Environment, words: list[str]) -> None:
    check_folder(environment.var_dir, "VAR_DIR")
    ensure_packages(environment)
    ensure_base_model(environment)
    ensure_adapters(environment)


def tools(environment: Environment, words: list[str]) -> None:
    ensure_packages(environment, dev=True)


COMMANDS = {"run": run, "test": test, "demo": demo, "tools": tools}


def main(words: list[str]) -> int:
    stop_on_signals()
    if not words or words[0] not in COMMANDS:
        sys.stderr.write(f"usage: python -m loraportal.setup {'|'.join(COMMANDS)}\n")
        return 2
    try:
        COMMANDS[words[0]](read_environment(), words[1:])
    except SetupError as trouble:
        sys.stderr.write(f"{trouble}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. Run make again to go on from here.\n")
        return 130
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.stderr.write("The disk is full: free some space and run make again.\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
