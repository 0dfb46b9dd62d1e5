"""Whatever a pattern says, matching it takes bounded time and memory, and never Python's `re` in this process."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import patterns
from patterns import confined, linear
from patterns.errors import InvalidPatternError, SlowPatternError
from patterns.rules import MAX_LENGTH, MAX_NAME, MAX_TOTAL

NAMES = [f"model.layers.{layer}.self_attn.{name}_proj" for layer in range(40) for name in "qkvo"]
SLOW = r"(?=([\w.]+)+!)x"  # looks ahead, so RE2 cannot; and backtracks without end on every name

ASKED: list[Callable[[str], Any]] = [
    lambda pattern: patterns.whole(pattern, NAMES),
    lambda pattern: patterns.endings([pattern], NAMES),
    lambda pattern: patterns.layers([pattern], NAMES),
]


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    confined._outcomes.clear()
    yield
    confined._outcomes.clear()


@pytest.fixture
def compiled_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Patterns that Python's `re` compiles in this process; what it never compiled it never matched."""
    from re import _compiler  # type: ignore[attr-defined]

    seen: list[str] = []
    compile_ = _compiler.compile

    def noted(pattern: Any, flags: int = 0) -> Any:
        seen.append(str(pattern))
        return compile_(pattern, flags)

    re.purge()
    monkeypatch.setattr(_compiler, "compile", noted)
    re.compile("the fixture sees this")
    assert seen == ["the fixture sees this"]
    seen.clear()
    return seen


@pytest.mark.parametrize(
    "pattern", ["(?:.{1,16}){1,16}!", r"([\w.]+)+!", "(?:.+.*.*)+!", "(a|aa|.)+(a|aa|.)+!", "(?:(?:.+)+.+)+!"]
)
@pytest.mark.parametrize("ask", ASKED, ids=["whole", "endings", "layers"])
def test_patterns_that_backtrack_match_nothing_at_once(
    ask: Callable[[str], Any], pattern: str, compiled_here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confined, "_ask", None)  # no child process is needed
    assert set(ask(pattern)) <= {None, False, -1}
    assert not compiled_here


@pytest.mark.parametrize("ask", ASKED, ids=["whole", "endings", "layers"])
def test_the_child_process_is_ended_by_its_processor_time(ask: Callable[[str], Any], compiled_here: list[str]) -> None:
    with pytest.raises(SlowPatternError):
        ask(SLOW)
    assert not compiled_here


def test_outcomes_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    ask = confined._ask

    def counted(request: bytes) -> Any:
        asked.append(request)
        return ask(request)

    monkeypatch.setattr(confined, "_ask", counted)
    for _ in range(3):
        with pytest.raises(SlowPatternError):
            patterns.whole(SLOW, NAMES)
        with pytest.raises(InvalidPatternError):
            patterns.whole("(?<=a+)b", NAMES)
        assert sum(patterns.whole("(?!x).*q_proj", NAMES)) == 40
    assert len(asked) == 3
    assert not any(patterns.whole("(?!x).*q_proj", ["other"]))  # other names are another question
    for number in range(confined.REMEMBERED + 5):
        monkeypatch.setattr(confined, "_ask", lambda request: b"[[0, null]]")
        patterns.whole(f"(?!{number}).*", ["name"])
    assert len(confined._outcomes) == confined.REMEMBERED


def test_a_child_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too busy a machine is no reason to remember a refusal."""
    program = tmp_path / "child.py"
    program.write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setattr(confined, "PROGRAM", program)
    monkeypatch.setattr(confined, "WALL_SECONDS", 0.1)
    with pytest.raises(SlowPatternError):
        patterns.whole("(?!x).*", NAMES)
    assert not confined._outcomes


def test_a_child_that_fails_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "child.py"
    program.write_text("raise MemoryError\n")
    monkeypatch.setattr(confined, "PROGRAM", program)
    with pytest.raises(SlowPatternError):
        patterns.whole("(?!x).*", NAMES)


@pytest.mark.parametrize(
    "attempt", ["bytearray(300 << 20)", "open(sys.argv[1], 'wb').write(b'x' * 100_000)", "while True: pass"]
)
def test_what_the_child_gives_up(attempt: str, tmp_path: Path) -> None:
    written = tmp_path / "written"
    code = f"import sys\nfrom patterns import child\nchild.confine(1)\n{attempt}\nsys.exit(0)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(written)],
        cwd=Path(patterns.__file__).parents[1],
        capture_output=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert not written.exists() or written.stat().st_size == 0


def test_what_is_too_long_is_not_even_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patterns.rules.parse", None)
    for ask in (
        lambda: patterns.whole("a" * (MAX_LENGTH + 1), NAMES),
        lambda: patterns.endings(["a" * MAX_LENGTH] * (MAX_TOTAL // MAX_LENGTH + 1), NAMES),
        lambda: patterns.layers(["a" * (MAX_LENGTH + 1)], NAMES),
        lambda: patterns.whole("a", ["a" * (MAX_NAME + 1)]),
    ):
        with pytest.raises(SlowPatternError):
            ask()


@pytest.mark.parametrize("ask", ASKED, ids=["whole", "endings", "layers"])
def test_processor_time_is_bounded_here_too(ask: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "SECONDS", -1.0)
    with pytest.raises(SlowPatternError):
        ask(".*q_proj")


def test_the_budget_counts_from_its_beginning() -> None:
    now = 100.0
    budget = linear.Budget(lambda: now)
    now += linear.SECONDS
    budget.check()
    now += 0.01
    with pytest.raises(SlowPatternError):
        budget.check()


@pytest.mark.parametrize("depth", [300, 900])
def test_depth(depth: int) -> None:
    """What is too deep for the parser here may be so for the child process as well."""
    try:
        assert not any(patterns.whole("(" * depth + "a" + ")" * depth, NAMES))
    except InvalidPatternError:
        assert depth == 900


def test_nothing_is_written_to_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    for pattern in ("(?:.{1,100}){1,100}!", "[^a]{1000}" * 300, "(?:[ab]{900}|" * 5 + "x" + ")" * 5):
        try:
            patterns.whole(pattern, NAMES)
        except SlowPatternError:
            pass
    hard = "|".join(f".*[ab].{{{n}}}c" for n in range(20, 80))
    assert not any(patterns.whole(hard, ["ab" * 200]))
    assert capfd.readouterr() == ("", "")
