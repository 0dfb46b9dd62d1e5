"""One line per record."""

from __future__ import annotations

import logging
import sys

import pytest
from django.contrib.auth.models import User
from django.test import Client

from common.logs import LineFormatter


@pytest.mark.parametrize("control", ["\n", "\r", "\x1b[31m", "\x00", "\x85", "\u2028", "\n2026-01-01 INFO"])
def test_a_name_forges_no_line(control: str) -> None:
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "adapter %s found", (f"a{control}b",), None)
    said = LineFormatter("%(levelname)s %(message)s").format(record)
    assert len(said.splitlines()) == 1 and all(character.isprintable() for character in said)
    assert said.startswith("INFO adapter a") and said.endswith("b found")


def test_a_traceback_keeps_its_lines() -> None:
    try:
        raise ValueError("reason")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "it failed", None, sys.exc_info())
    lines = LineFormatter("%(message)s").format(record).splitlines()
    assert lines[:2] == ["it failed", "Traceback (most recent call last):"] and lines[2].startswith("  File")


def test_a_refusal_is_one_line_without_a_traceback(
    client: Client, owner: User, caplog: pytest.LogCaptureFixture
) -> None:
    client.force_login(owner)
    assert client.get("/admin/login/").status_code == 403
    (record,) = [record for record in caplog.records if record.name == "django.request"]
    assert record.exc_info, "Django gives it one"
    assert LineFormatter("%(message)s").format(record) == "Forbidden (Permission denied): /admin/login/"
