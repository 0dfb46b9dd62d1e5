"""What lies beside an adapter is read in steps that let other threads run, however it was written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters import services
from adapters.discovery import intake
from adapters.failures import Refused
from adapters.formats import files
from adapters.formats.files import QUICK_JSON, parse_json
from adapters.leases import HeldLease
from adapters.models import LoraAdapter
from adapters.tests import layouts as make
from adapters.training import readers

LARGE = [{"step": number, "loss": 1.5, "text": "a\u00e9\u6a21\U0001f600\n"} for number in range(QUICK_JSON // 40)]


@pytest.fixture
def no_decoder_in_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the interpreter from the first byte to the last."""

    def refused(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("read by the decoder in C")

    monkeypatch.setattr(files.json, "loads", refused)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_large_json_is_read_in_small_steps(no_decoder_in_c: None, encoding: str, ascii_only: bool) -> None:
    data = json.dumps(LARGE, ensure_ascii=ascii_only).encode(encoding)
    assert len(data) > QUICK_JSON
    assert parse_json(data, "file") == LARGE


@pytest.mark.parametrize("head", [b'{"a": NaN, ', b'{"a": 1, "a": 2, ', b'{"a": -Infinity, ', b"{'a': 1, "])
def test_large_json_is_as_strict(head: bytes) -> None:
    data = head + b'"rest": "' + b"x" * QUICK_JSON + b'"}'
    with pytest.raises(Refused) as caught:
        parse_json(data, "file")
    assert caught.value.code == "config_malformed"


@pytest.mark.parametrize(
    "data", [b"[" * 2 * QUICK_JSON, b'{"a":' * QUICK_JSON, b"\xff" * 2 * QUICK_JSON, b" " * 2 * QUICK_JSON]
)
def test_large_nonsense(data: bytes) -> None:
    with pytest.raises(Refused):
        parse_json(data, "file")


def card(text: str) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    readers.from_card(text.encode(), summary, {})
    return summary


@pytest.mark.parametrize(
    "text",
    [
        "---" + "\n" * 2**20,  # quadratic, and for minutes, where an expression looks for the end from every line
        "---\n" * 2**18 + "x",
        "---" + " " * 2**20,
        "---\n" + "- " + " " * 2**19 + "\n---\n",
        "---\ntags:\n" + "- a\n" * 2**17 + "---\n",
    ],
    ids=["lines", "marks", "blanks", "item", "items"],
)
def test_a_model_card_is_read_in_one_pass(text: str) -> None:
    assert card(text) == {}


@pytest.mark.parametrize("mark", ["---", "\ufeff---", "---  "])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_front_matter(mark: str, end: str) -> None:
    lines = [mark, "", "license: mit", "datasets:", "- one", "- 'two'", "tags: [a, trl]", "---", "", "tags: [b]"]
    assert card(end.join(lines)) == {"license": "mit", "dataset": "one, two", "tags": ["a", "trl"], "trainer": "TRL"}
    assert card(end.join(lines[:7])) == {}, "it has no end"
    assert card(end.join(["# Title", *lines])) == {}


def test_a_log_of_too_many_lines() -> None:
    summary: dict[str, Any] = {}
    line = b'{"current_steps": 5, "total_steps": 9}\n'
    readers.from_log(b"\n" * 7 + line + b"\n" * readers.MAX_LINES + line.replace(b"5", b"6"), summary, {})
    assert (summary["steps"], summary["max_steps"]) == (5, 9)


@pytest.mark.django_db
def test_patterns_of_a_scan_are_not_matched_in_its_process(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import re
    from re import _compiler  # type: ignore[attr-defined]

    wanted = {
        "bounded": "(?:.{1,16}){1,16}!",
        "nested": r"([\w.]+)+!",
        "ahead": r"^(?!.*vision).*self_attn\.(?:q_proj|v_proj)$",
        "plain": r".*\.(q_proj|v_proj)",
    }
    for name, pattern in wanted.items():
        make.adapter(registry / name, target_modules=pattern)
    seen: list[str] = []
    compile_ = _compiler.compile

    def noted(pattern: Any, flags: int = 0) -> Any:
        seen.append(str(pattern))
        return compile_(pattern, flags)

    monkeypatch.setattr(_compiler, "compile", noted)
    re.purge()
    services.scan(None)
    re.compile("something that is compiled")
    assert "something that is compiled" in seen and not any(text in each for text in wanted.values() for each in seen)
    codes = dict(LoraAdapter.objects.values_list("name", "failure_code"))
    assert codes == {"bounded": "tensors_untargeted", "nested": "tensors_untargeted", "ahead": "", "plain": ""}


@pytest.mark.django_db
def test_a_scan_keeps_its_lock_while_it_judges(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of slow patterns takes minutes, and a lock that shows no life for one is taken away."""
    for number in range(5):
        make.adapter(registry / f"a{number}")
    order: list[str] = []

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            order.append(name)
            return function(*args)

        return call

    monkeypatch.setattr(intake, "validate", noted("judge", intake.validate))
    monkeypatch.setattr(HeldLease, "touch", noted("touch", HeldLease.touch))
    services.scan(None)
    places = [place for place, what in enumerate(order) if what == "judge"]
    assert len(places) == 5
    assert all(order[place - 1] == "touch" for place in places)
