"""The Chinese catalogues are whole: every text has a translation with the same placeholders."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings

CATALOGUES = sorted(Path(settings.BASE_DIR, "locale").rglob("*.po"))
PLACEHOLDER = re.compile(r"%\(\w+\)[sd]")
FIELD = re.compile(r'^(#, .*|msgid(?:_plural)?|msgstr(?:\[\d\])?) ?(".*")?$')
IGNORED = ("node_modules", ".venv", "var", "benchmarks", "tests", "demo")


def entries(path: Path) -> Iterator[dict[str, str]]:
    """msgid, msgid_plural, msgstr... of each entry after the header; `flags` where there are some."""
    for block in path.read_text(encoding="utf-8").split("\n\n")[1:]:
        entry: dict[str, str] = {}
        field = ""
        for line in block.splitlines():
            if line.startswith("#, "):
                entry["flags"] = line
            elif line.startswith('"'):
                entry[field] += line[1:-1]
            elif not line.startswith("#") and (match := FIELD.match(line)):
                field = match[1]
                entry[field] = (match[2] or '""')[1:-1]
        if "msgid" in entry:
            yield entry


def test_there_are_catalogues() -> None:
    assert [path.name for path in CATALOGUES] == ["django.po", "djangojs.po"]


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
def test_every_text_has_a_translation_with_its_placeholders(path: Path) -> None:
    wrong = []
    for entry in entries(path):
        source = set(PLACEHOLDER.findall(entry["msgid"] + entry.get("msgid_plural", "")))
        for key, value in entry.items():
            if key.startswith("msgstr") and (not value or set(PLACEHOLDER.findall(value)) != source):
                wrong.append(entry["msgid"])
        if "fuzzy" in entry.get("flags", ""):
            wrong.append(entry["msgid"])
    assert not wrong


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("xgettext") is None, reason="needs GNU gettext (Debian package gettext)")
@pytest.mark.parametrize(("domain", "more"), [("django", ()), ("djangojs", ("frontend", "adapters"))])
def test_the_catalogues_hold_what_the_source_says(domain: str, more: tuple[str, ...], tmp_path: Path) -> None:
    """`makemessages` on a copy finds no text that the committed catalogue lacks, and none that is gone."""
    source = Path(settings.BASE_DIR)
    copy = tmp_path / "copy"
    skip = shutil.ignore_patterns(*IGNORED, ".git", ".mypy_cache", ".ruff_cache", ".pytest_cache", "*.png", "*.mo")
    shutil.copytree(source, copy, ignore=skip, symlinks=True)
    ignore = [word for name in (*IGNORED, *more) for word in ("-i", name)]
    command = [sys.executable, "manage.py", "makemessages", "-l", "zh_Hans", "-d", domain, "--no-wrap", "--no-location"]
    subprocess.run([*command, *ignore], cwd=copy, check=True, capture_output=True, timeout=120)
    name = f"locale/zh_Hans/LC_MESSAGES/{domain}.po"
    before, after = ({entry["msgid"] for entry in entries(root / name)} for root in (source, copy))
    assert after - before == set()
    assert before - after == set()
