"""Who may import whom: the contracts in pyproject.toml hold, and fail where they are broken. What is loaded where."""

from __future__ import annotations

import ast
import gc
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
LINTER = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
CONTRACTS = [contract["name"] for contract in LINTER["contracts"]]
HEAVY = {"torch", "transformers", "peft", "accelerate", "bitsandbytes"}
DJANGO = "import os; os.environ['DJANGO_SETTINGS_MODULE'] = 'loraportal.settings'; import django; django.setup();"


def lint(folder: Path) -> tuple[int, str]:
    """Exit status of import-linter in `folder`, and what it says on one line."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return result.returncode, " ".join((result.stdout + result.stderr).split())


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The sources that the contracts are about."""
    for package in LINTER["root_packages"]:
        shutil.copytree(PROJECT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_hold() -> None:
    status, said = lint(PROJECT)
    assert status == 0, said
    assert f"Contracts: {len(CONTRACTS)} kept, 0 broken." in said


def test_every_contract_fails_where_it_is_broken(copied: Path) -> None:
    for file, line in {
        "adapters/identifiers.py": "import inference.manager",
        "adapters/failures.py": "import adapters.services",
        "inference/params.py": "import inference.urls",
        "inference/engine/text/prompts.py": "import inference.engine.worker",
        "inference/engine/config.py": "import django",
        "evaluations/models/explaining.py": "import evaluations.sets",
        "evaluations/items.py": "import inference.backends.local",
        "patterns/errors.py": "import common.api",
        "launching/environment.py": "import patterns",
        "inference/engine/protocol.py": "def late():\n    import torch",
    }.items():
        with open(copied / file, "a") as opened:
            opened.write(f"\n\n{line}\n")
    status, said = lint(copied)
    assert status == 1
    assert [name for name in CONTRACTS if f"{name} BROKEN" not in said] == []


@pytest.mark.parametrize(
    ("gone", "module"),
    [("inference/engine/text", "inference.engine.text"), ("adapters/hooks.py", "adapters.hooks")],
)
def test_a_module_that_a_contract_names_cannot_be_moved_away(copied: Path, gone: str, module: str) -> None:
    path = copied / gone
    path.rename(path.with_name(f"moved_{path.name}"))
    status, said = lint(copied)
    assert status == 1 and module in said


def loaded(code: str) -> set[str]:
    """Names of all modules that are loaded after this code ran in a fresh process."""
    program = f"{code}\nimport sys, json; sys.stdout.write(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_a_web_process_loads_no_torch() -> None:
    names = loaded(f"{DJANGO} import loraportal.urls, loraportal.asgi; loraportal.urls.urlpatterns")
    portal = {"adapters.urls", "inference.urls", "inference.api.ws.routing", "chat.urls", "chat.routing"}
    assert portal | {"comparison.urls", "channels", "rest_framework"} <= names
    assert not (HEAVY & names)


def test_scheduling_is_plain_python() -> None:
    modules = [
        "scheduling.scheduler",
        "scheduling.kv_slots",
        "lora.residency",
        "protocol",
        "runner_interface",
        "worker",
    ]
    assert not HEAVY & loaded("; ".join(f"import inference.engine.{name}" for name in modules))


def test_importing_starts_nothing() -> None:
    """No thread and no child process comes from importing the project, which every command does."""
    code = (
        f"{DJANGO} import loraportal.urls, loraportal.asgi, threading, multiprocessing;"
        "assert threading.active_count() == 1, threading.enumerate(); assert not multiprocessing.active_children();"
        "import psutil; assert not psutil.Process().children()"
    )
    loaded(code)


# The child process, the classes of characters, names of tensors that our own list knows, signs in pip's own output,
# keys of tensors as other tools write them.
MATCHERS = {
    "patterns/child.py",
    "patterns/syntax.py",
    "adapters/validation/repair/dialects.py",
    "adapters/validation/repair/keys.py",
    "inference/engine/model/weights.py",
    "loraportal/setup/packages.py",
}


def nodes(path: Path) -> list[ast.AST]:
    gc.disable()  # a collection while the tree is made raises SystemError in Python before 3.11.5 (cpython 106905)
    try:
        return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    finally:
        gc.enable()


def test_regular_expressions_are_written_in_the_source() -> None:
    """Python's `re` cannot be interrupted: what it matches is a text of ours, never one that came from outside."""
    functions = {"compile", "match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer"}
    found = set()
    for package in LINTER["root_packages"]:
        for path in (PROJECT / package).rglob("*.py"):
            for node in nodes(path) if "tests" not in path.relative_to(PROJECT).parts else ():
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and ast.unparse(node.func.value) == "re"
                    and node.func.attr in functions
                    and not isinstance(node.args[0], ast.Constant)
                ):
                    found.add(path.relative_to(PROJECT).as_posix())
    assert found == MATCHERS


def test_child_processes_are_started_in_one_place() -> None:
    starters = set()
    for package in LINTER["root_packages"]:
        for path in (PROJECT / package).rglob("*.py"):
            name = path.relative_to(PROJECT).as_posix()
            if "/tests/" in name or name.startswith("loraportal/setup/"):  # it runs before anything is installed
                continue
            calls = {ast.unparse(node.func) for node in nodes(path) if isinstance(node, ast.Call)}
            if calls & {"subprocess.run", "subprocess.Popen", "subprocess.check_output", "os.system", "os.fork"}:
                starters.add(name)
    assert starters == {"launching/programs.py", "launching/fork_server.py"}
