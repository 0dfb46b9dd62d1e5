"""Who may import whom. Read from the source, so that an import inside a function counts as well."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
APPS = {
    "accounts", "adapters", "chat", "common", "comparison", "inference", "loraportal", "demo", "benchmarks", "tests"
}  # fmt: skip
HEAVY = {"torch", "transformers", "peft", "accelerate", "bitsandbytes"}
RUNNER = "inference.engine.model.runner"
WORKER = "inference.engine.worker"
PROGRAMS = {
    "adapters.lifecycle.conversion_child",
    "inference.engine.model.base_probe",
}  # child processes; nobody imports them


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((PROJECT / folder).rglob("*.py")):
            if "tests" not in path.relative_to(PROJECT).parts and "migrations" not in path.parts:
                yield path


def module_name(path: Path) -> str:
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, top_level_only: bool = False) -> Iterator[str]:
    """Absolute names of the modules that a file imports; those under `if TYPE_CHECKING` are not imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    for node in walk(tree, top_level_only):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def walk(tree: ast.AST, top_level_only: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        if not (top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            yield from walk(node, top_level_only)


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_the_reader_of_imports_sees_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PROJECT", tmp_path)
    path = tmp_path / "inference" / "engine" / "thing.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "from typing import TYPE_CHECKING\nimport torch.nn\nfrom ..manager import x\nfrom . import slots\n"
        "if TYPE_CHECKING:\n    import peft\ndef f():\n    import django\n"
    )
    found = set(imports(path))
    assert {"torch.nn", "inference.manager", "inference.engine.slots", "django"} <= found and "peft" not in found
    assert "django" not in set(imports(path, top_level_only=True))


def test_the_registry_does_not_know_the_engine() -> None:
    wrong = [
        (module_name(path), name) for path in sources("adapters") for name in imports(path) if inside(name, "inference")
    ]
    assert not wrong


def test_accounts_and_project_stand_alone() -> None:
    wrong = [
        (module_name(path), name)
        for path in sources("accounts")
        for name in imports(path)
        if inside(name, "inference") or inside(name, "adapters")
    ]
    assert not wrong


def test_the_engine_knows_neither_django_nor_the_project() -> None:
    files = list(sources("inference/engine"))
    assert len(files) > 3
    foreign = {"django", "channels", "rest_framework", *(APPS - {"inference"})}
    wrong = [
        (module_name(path), name)
        for path in files
        for name in imports(path)
        if name.partition(".")[0] in foreign or (inside(name, "inference") and not inside(name, "inference.engine"))
        if name != "inference"  # `from .. import` of the package itself is caught by the name that follows
    ]
    assert not wrong


def reachable(start: str, without: str | None = None) -> set[str]:
    """Engine modules that `start` imports at module level, directly or through others, not passing `without`."""
    files = {module_name(path): path for path in sources("inference/engine")}
    seen: set[str] = set()
    todo = [start]
    while todo:
        name = todo.pop()
        if name in seen or name not in files or name == without:
            continue
        seen.add(name)
        todo += imports(files[name], top_level_only=True)
    return seen


def test_only_the_runner_and_its_own_modules_import_torch() -> None:
    heavy = {
        module_name(path)
        for path in sources(*APPS - {"demo", "benchmarks", "tests"})
        if any(name.partition(".")[0] in HEAVY for name in imports(path, top_level_only=True))
    }
    heavy -= PROGRAMS
    if not heavy:
        pytest.fail("no module imports torch at module level: the engine's runner has moved, follow it here")
    assert RUNNER in heavy
    assert heavy <= reachable(RUNNER)
    others = set().union(
        *(
            reachable(module_name(path), without=RUNNER)
            for path in sources("inference/engine")
            if module_name(path) not in reachable(RUNNER) | PROGRAMS
        )
    )
    assert not heavy & others, "these are the runner's own, nobody else imports them"


def loaded(code: str) -> set[str]:
    """Names of all modules that are loaded after this code ran in a fresh process."""
    program = f"{code}\nimport sys, json; sys.stdout.write(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


DJANGO = "import os; os.environ['DJANGO_SETTINGS_MODULE'] = 'loraportal.settings'; import django; django.setup();"


def test_a_web_process_loads_no_torch() -> None:
    names = loaded(f"{DJANGO} import loraportal.urls, loraportal.asgi; loraportal.urls.urlpatterns")
    assert {
        "adapters.urls",
        "inference.urls",
        "inference.api.ws.routing",
        "chat.routing",
        "channels",
        "rest_framework",
    } <= names
    assert not (HEAVY & names)


def test_scheduling_is_plain_python() -> None:
    modules = ["scheduling.scheduler", "scheduling.kv_slots", "lora.residency", "protocol", "runner_interface"]
    imports = "; ".join(f"import inference.engine.{name}" for name in modules)
    assert not HEAVY & loaded(imports)


def test_importing_starts_nothing() -> None:
    """No thread and no child process comes from importing the project, which every command does."""
    code = (
        f"{DJANGO} import loraportal.urls, loraportal.asgi, threading, multiprocessing;"
        "assert threading.active_count() == 1, threading.enumerate(); assert not multiprocessing.active_children();"
        "import psutil; assert not psutil.Process().children()"
    )
    loaded(code)
