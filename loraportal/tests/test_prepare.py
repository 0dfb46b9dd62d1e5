"""What happens between the packages and the server: translations, static files, database, each once and quickly."""

from __future__ import annotations

import gettext
import io
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from django.db import OperationalError
from django.utils import translation

from common.messages import compile_messages
from loraportal import prepare
from loraportal.management.commands.serve import hold_database, hold_var_dir
from loraportal.setup.console import SetupError

PO = r"""
msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\n"
"Plural-Forms: nplurals=1; plural=0;\n"

msgid "Scan"
msgstr "扫描"

#, fuzzy
msgid "Guess"
msgstr "猜"

msgid "long "
"text\n"
msgstr "长"
"文本\n"

msgid "%(n)d adapter"
msgid_plural "%(n)d adapters"
msgstr[0] "%(n)d 个"
"""


@pytest.fixture
def locale(tmp_path: Path) -> Path:
    folder = tmp_path / "locale" / "zh_Hans" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    (folder / "django.po").write_text(PO, encoding="utf-8")
    return tmp_path / "locale"


def test_translations_compile_without_gettext_tools(locale: Path) -> None:
    (target,) = compile_messages([locale])
    with target.open("rb") as file:
        catalogue = gettext.GNUTranslations(file)
    assert catalogue.gettext("Scan") == "扫描" and catalogue.gettext("long text\n") == "长文本\n"
    assert catalogue.ngettext("%(n)d adapter", "%(n)d adapters", 3) == "%(n)d 个"
    assert catalogue.gettext("Guess") == "Guess", "an unchecked guess is not shown"


def test_translations_follow_their_source(locale: Path) -> None:
    assert len(compile_messages([locale])) == 1
    assert compile_messages([locale]) == []
    source = locale / "zh_Hans" / "LC_MESSAGES" / "django.po"
    os.utime(source, (0, 0))  # an older file that was checked out
    assert len(compile_messages([locale])) == 1
    assert [path.name for path in source.parent.iterdir() if path.name.startswith(".")] == []


def test_broken_translation_is_told_in_a_sentence(locale: Path, settings: Any) -> None:
    (locale / "zh_Hans" / "LC_MESSAGES" / "django.po").write_text("no translation at all", encoding="utf-8")
    settings.LOCALE_PATHS = [locale]
    with pytest.raises(SetupError, match="translation cannot be compiled"):
        prepare.translate()


def test_static_files_are_collected_when_they_changed(settings: Any, tmp_path: Path) -> None:
    source = tmp_path / "static"
    source.mkdir()
    (source / "a.css").write_text("body { color: red }")
    settings.STATICFILES_DIRS = [source]
    settings.STATIC_ROOT = tmp_path / "collected"
    calls: list[str] = []

    def collect(name: str, **_options: Any) -> None:
        calls.append(name)
        settings.STATIC_ROOT.mkdir(exist_ok=True)

    with patch.object(prepare, "call_command", side_effect=collect):
        prepare.collect_static()
        prepare.collect_static()
        assert calls == ["collectstatic"]
        (source / "b.css").write_text("")
        times = (source / "b.css").stat()
        prepare.collect_static()
        assert calls == ["collectstatic"] * 2
        (source / "b.css").write_text("changed")
        with patch.object(prepare, "call_command", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
            prepare.collect_static()
        (source / "b.css").write_text("")
        os.utime(source / "b.css", ns=(times.st_atime_ns, times.st_mtime_ns))
        # As it was; but half of the other collection lies there.
        prepare.collect_static()
        assert calls == ["collectstatic"] * 3


def test_static_files_that_no_page_shows_are_left_where_they_are(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path / "collected"
    prepare.collect_static()
    library = settings.STATIC_ROOT / "drf_spectacular_sidecar"
    assert (library / "swagger-ui-dist" / "swagger-ui-bundle.js").exists() and not (library / "redoc").exists()
    assert (settings.STATIC_ROOT / "admin" / "css").exists() and not (settings.STATIC_ROOT / "rest_framework").exists()


def test_static_files_that_name_a_missing_one(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path / "collected"
    missing = ValueError("The file 'x.png' could not be found")
    with patch.object(prepare, "call_command", side_effect=missing), pytest.raises(SetupError, match="make css"):
        prepare.collect_static()


def test_settings_that_cannot_work_stop_the_start(settings: Any, db: None) -> None:
    settings.REDIS_URL = "nonsense"
    with (
        translation.override("en"),
        pytest.raises(SetupError, match=r"REDIS_URL is not a Redis address\. .*loraportal\.E006"),
    ):
        prepare.check()


def test_database_that_does_not_answer(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.DATABASE_URL = "mysql://root:secret@db.example/portal"
    monkeypatch.setattr(prepare, "connection", SimpleNamespace(ensure_connection=_refuses))
    with pytest.raises(SetupError, match="check DATABASE_URL") as trouble:
        prepare.migrate()
    assert "secret" not in str(trouble.value)


def _refuses() -> None:
    raise OperationalError(2002, "Can't connect to server on 'db.example'")


def test_admin_is_announced_once(db: None, capsys: pytest.CaptureFixture[str]) -> None:
    prepare.ensure_admin()
    prepare.ensure_admin()
    out = capsys.readouterr().out
    assert out.count("Admin account created") == 1


def test_var_dir_belongs_to_one_portal(settings: Any) -> None:
    with hold_var_dir() as held:
        assert isinstance(held, io.TextIOWrapper)
        with pytest.raises(SetupError, match=rf"process {os.getpid()}"):
            hold_var_dir()
    hold_var_dir().close()


def test_a_database_in_a_file_belongs_to_one_portal(tmp_path: Path) -> None:
    """Whatever their VAR_DIR."""
    with (
        hold_database(tmp_path / "db.sqlite3"),
        pytest.raises(SetupError, match=rf"process {os.getpid()}.*MySQL or MariaDB"),
    ):
        hold_database(tmp_path / "db.sqlite3")
    with pytest.raises(SetupError, match="cannot be written"):
        hold_database(tmp_path / "nowhere" / "db.sqlite3")
