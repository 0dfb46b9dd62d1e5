"""The page *Settings*: all of them, with their sources and the README's words, and never a secret."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as live
from django.contrib.auth.models import User
from django.core.checks import Warning as CheckWarning
from django.test import Client
from django.utils import translation

from loraportal import guide, pages, settings

PROJECT = Path(settings.__file__).parent.parent
SOURCE = (PROJECT / "loraportal" / "settings.py").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([A-Z_]+)` \| .*? \| (.+?) \|$", re.MULTILINE)
NAMES = [one.name for _title, described in guide.GROUPS for one in described]


def plain(markdown: str) -> str:
    return re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", markdown).replace("\\|", "|")


def test_what_is_read_described_and_documented_is_the_same() -> None:
    read = re.findall(r'env_\w+\(\s*"([A-Z_]+)"', SOURCE)
    assert sorted(NAMES) == sorted(read) and set(read) <= settings.readings.keys()
    documented = dict(ROW.findall((PROJECT / "README.md").read_text(encoding="utf-8")))
    with translation.override("en"):
        described = {one.name: str(one.meaning) for _title, group in guide.GROUPS for one in group}
    assert described == {name: plain(meaning) for name, meaning in documented.items()}


def test_nothing_is_read_past_the_functions_that_note_it() -> None:
    assert re.findall(r"\benv\.\w+", SOURCE) == ["env.str", "env.db_url_config"]
    assert set(re.findall(r"os\.\w+\.?\w*", SOURCE)) == {"os.environ", "os.environ.get", "os.environ.setdefault"}


@pytest.mark.parametrize(
    ("before", "file", "now", "source"),
    [
        (None, None, None, "default"),
        ("1", None, "1", "environment"),
        (None, "1", "1", "file"),
        ("1", "1", "1", "file"),  # a start that read the file passed it on to the process after it
        ("2", "1", "2", "environment"),
    ],
)
def test_where_a_value_comes_from(
    monkeypatch: pytest.MonkeyPatch, before: str | None, file: str | None, now: str | None, source: str
) -> None:
    monkeypatch.setattr(settings.FileEnv, "ENVIRON", {} if file is None else {"X": file})
    monkeypatch.setattr(settings, "before_file", {} if file is None else {"X": before})
    monkeypatch.delenv("X", raising=False)
    if now is not None:
        monkeypatch.setenv("X", now)
    monkeypatch.setattr(settings, "readings", {})
    assert settings.env_int("X", 5, 0, 10) == int(now or 5)
    assert settings.readings["X"] == settings.Reading(int(now or 5), 5, source)


def reading(monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    monkeypatch.setitem(settings.readings, name, settings.Reading(value, "", "environment"))


@pytest.fixture
def office(admin: User) -> Client:
    client = Client()
    client.force_login(admin)
    return client


@pytest.mark.django_db
def test_no_secret_is_on_the_page(office: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "VLLM_API_KEY", "sk-Geheim1")
    for name, value in {
        "SECRET_KEY": "sk-Geheim2",
        "VLLM_API_KEY": "sk-Geheim1",
        "DATABASE_URL": "mysql://me:sk-Geheim3@db.example:3306/portal?passwd=sk-Geheim4",
        "REDIS_URL": "redis://:sk-Geheim5@redis.example:6379/0#sk-Geheim6",
    }.items():
        reading(monkeypatch, name, value)
    page = office.get("/settings").content.decode()
    assert "Geheim" not in page and live.SECRET_KEY not in page
    assert "mysql://…@db.example:3306/portal?…" in page and "redis://…@redis.example:6379/0" in page
    reading(monkeypatch, "DATABASE_URL", "mysql://[sk-Geheim7")
    assert "Geheim" not in office.get("/settings").content.decode()


def test_addresses_and_lists_are_written_as_one_sets_them() -> None:
    assert guide.written([("", "http://a"), ("Qwen", "http://b")]) == "http://a,Qwen=http://b"
    assert (guide.written(["a", "b"]), guide.written(False), guide.written(Path("/x")), guide.written(3.0)) == (
        "a,b", "false", "/x", "3.0",
    )  # fmt: skip


def shown(page: Any) -> list[str]:
    return re.findall(r'data-testid="setting" data-name="(\w+)"', page.content.decode())


@pytest.mark.django_db
def test_the_page_is_searched_in_the_readers_language(office: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(office.get("/settings")) == NAMES
    assert shown(office.get("/settings?search=max+RANK")) == ["FLEET_MAX_RANK"]
    assert shown(office.get("/settings?search=zzz")) == []
    reading(monkeypatch, "TIME_ZONE", "Europe/Berlin")
    changed = shown(office.get("/settings?show=changed"))
    assert "TIME_ZONE" in changed and "METRICS_MODELS" not in changed
    office.cookies["django_language"] = "zh-hans"
    assert shown(office.get("/settings?search=时区")) == ["TIME_ZONE"]


@pytest.mark.django_db
def test_what_the_checks_find_is_told(office: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = CheckWarning("Little <space>.", hint="Free some.", id="loraportal.W002")
    monkeypatch.setattr(live, "ALLOWED_HOSTS", ["*", "testserver"])
    assert "loraportal.W001" in office.get("/settings").content.decode(), "also what only `check --deploy` tells"
    monkeypatch.setattr(pages, "run_checks", lambda **_: [problem])
    page = office.get("/settings").content.decode()
    assert "Little &lt;space&gt;." in page and "Free some." in page and "loraportal.W002" in page


@pytest.mark.django_db
def test_every_page_has_an_icon(client: Client) -> None:
    answer = client.get("/favicon.ico")
    assert answer.status_code == 302 and re.search(r"img/favicon.*\.ico$", answer.headers["Location"])


@pytest.mark.django_db
def test_the_administration_wears_the_portals_dress(office: Client) -> None:
    office.cookies["theme"], office.cookies["django_language"] = "dark", "zh-hans"
    page = office.get("/admin/").content.decode()
    assert "css/admin" in page and 'class="theme-dark' in page.replace(" dashboard", "") and "LoRA Portal" in page
    assert 'href="/people"' in page and 'lang="zh-hans"' in page and "theme.js" not in page
    assert not re.search(r"<style|style=|<script(?![^>]*src=)|\son\w+=", page), "the policy forbids it"
