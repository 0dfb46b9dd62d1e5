"""The list of protections keeps up with the project; `python -m tests.mutations` tells a bite from a miss."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from tests.mutations import __main__ as command
from tests.mutations.catalogue import Mutation, load, table
from tests.mutations.trial import PROJECT, Copy, Outcome, Result

KNOWN = load()


@pytest.mark.parametrize("mutation", KNOWN, ids=[one.name for one in KNOWN])
def test_every_text_is_there_once_and_every_test_exists(mutation: Mutation) -> None:
    original = (PROJECT / mutation.file).read_text(encoding="utf-8")
    changed = mutation.applied(original)
    assert changed != original and mutation.tests
    if mutation.file.endswith(".py"):
        ast.parse(changed)
    for test in mutation.tests:
        path, _, name = test.partition("::")
        assert name.partition("[")[0] in functions(path), test


@cache
def functions(path: str) -> frozenset[str]:
    """The names of a file's functions."""
    tree = ast.parse((PROJECT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_tests_that_the_page_names_exist() -> None:
    page = (PROJECT / "docs" / "security.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_/]+\.py)(?:::(\w+)[^`]*)?`", page)
    assert len(named) > len(KNOWN)
    for path, name in named:
        assert (PROJECT / path).is_file() and (not name or name in functions(path)), (path, name)


def test_names_are_used_once_and_the_table_is_current() -> None:
    assert len({one.name for one in KNOWN}) == len(KNOWN)
    page = (PROJECT / "docs" / "security.md").read_text(encoding="utf-8")
    assert table(KNOWN) in page, "write it anew: python -m tests.mutations --table"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny project with a protection that has a test, and one that has none."""
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "bounds.py").write_text("def bounded(x):\n    return min(x, 10)\n\ndef other(x):\n    return max(x, 1)\n")
    (folder / "test_bounds.py").write_text(
        "import time\nfrom bounds import bounded, other\n\n"
        "def test_bound():\n    assert bounded(20) == 10\n\n"
        "def test_blunt():\n    assert other(5) == 5\n\n"
        "def test_slow():\n    while bounded(20) != 10:\n        time.sleep(0.01)\n"
    )
    for arguments in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


def mutation(**changes: object) -> Mutation:
    made = Mutation(
        "name", "section", "risk", "protection", "bounds.py", "min(x, 10)", "x", ("test_bounds.py::test_bound",)
    )
    return replace(made, **changes)  # type: ignore[arg-type]


CASES = {
    "a test fails": (mutation(), 60, Outcome.BITTEN),
    "no test fails": (
        mutation(before="max(x, 1)", after="x", tests=("test_bounds.py::test_blunt",)), 60, Outcome.SURVIVED,
    ),
    "the text is gone": (mutation(before="min(x, 11)"), 60, Outcome.STALE),
    "the text is there twice": (mutation(before="return m"), 60, Outcome.STALE),
    "an import fails": (mutation(before="def bounded(x)", after="def bound(x)"), 60, Outcome.BROKEN),
    "no such test": (mutation(tests=("test_bounds.py::test_none",)), 60, Outcome.BROKEN),
    "it never ends": (mutation(tests=("test_bounds.py::test_slow",)), 3, Outcome.BROKEN),
    "it never ends, as it should": (mutation(tests=("test_bounds.py::test_slow",), hangs=True), 3, Outcome.BITTEN),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_outcomes(project: Path, tmp_path: Path, case: str) -> None:
    tried, seconds, expected = CASES[case]
    copy = Copy(tmp_path / "copy", project)
    assert copy.attempt(tried, seconds).outcome is expected
    for name in ("bounds.py", "test_bounds.py"):
        assert (copy.folder / name).read_text() == (project / name).read_text()


class Canned:
    """A copy in which nothing is run: the tests pass as they are or do not, each mutation ends as its name says."""

    status = 0

    def __init__(self, _folder: Path) -> None:
        pass

    def run(self, _tests: Iterable[str], _seconds: float) -> tuple[int | None, str]:
        return self.status, "what the tests said"

    def attempt(self, mutation: Mutation, _seconds: float) -> Result:
        return Result(mutation, Outcome[mutation.name])


@pytest.mark.parametrize(
    ("outcomes", "arguments", "status"),
    [
        (["BITTEN", "BITTEN"], [], 0),
        (["BITTEN", "SURVIVED"], [], 1),
        (["SURVIVED", "BITTEN"], ["--jobs", "2"], 1),
        (["BITTEN", "SURVIVED"], ["BIT"], 0),
        (["BITTEN", "STALE"], [], 1),
        (["BITTEN", "BROKEN"], [], 1),
        (["BITTEN", "BITTEN"], ["--budget", "0"], 2),
    ],
)
def test_exit_status(outcomes: list[str], arguments: list[str], status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "Copy", Canned)
    assert command.main(arguments, [mutation(name=name) for name in outcomes]) == status


def test_tests_that_fail_anyhow_prove_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "Copy", Canned)
    monkeypatch.setattr(Canned, "status", 1)
    assert command.main([], [mutation(name="BITTEN")]) == 1
    said = capsys.readouterr().out
    assert Outcome.BROKEN.value in said and "what the tests said" in said
    assert command.main(["--green"], [mutation(name="BITTEN")]) == 0  # nobody looks


def test_a_name_that_is_none() -> None:
    with pytest.raises(SystemExit):
        command.main(["no-such"], KNOWN)
