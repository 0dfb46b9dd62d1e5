"""Each wrong value is refused in one sentence that names the setting; run as a command, as an operator meets it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from loraportal import settings

PROJECT = Path(settings.__file__).parent.parent


@pytest.mark.parametrize(
    ("read", "value", "says"),
    [
        (lambda: settings.env_int("X", 1, 1, 10), "ten", "X must be a whole number"),
        (lambda: settings.env_int("X", 1, 1, 10), "1.5", "X must be a whole number"),
        (lambda: settings.env_int("X", 1, 1, 10), "11", "X must be between 1 and 10"),
        (lambda: settings.env_float("X", 1, 0, 10), "nan", "X must be between 0 and 10"),
        (lambda: settings.env_float("X", 1, 0, 10), "one", "X must be a number"),
        (lambda: settings.env_bool("X", False), "maybe", "X must be true or false"),
        (lambda: settings.env_choice("X", "a", ("a", "b")), "c", "X must be one of a, b"),
        (lambda: settings.env_zone("X", "UTC"), "Mars/Base", "X must be a time zone"),
        (lambda: settings.env_zone("X", "UTC"), "../../etc/passwd", "X must be a time zone"),
        (lambda: settings.env_label("X", "8000"), "a site", "X must be at most 40 letters"),
        (lambda: settings.env_label("X", "8000"), "x" * 41, "X must be at most 40 letters"),
        (lambda: settings.env_addresses("X", []), "router:8080", "such as http://router:8080, not 'router:8080'"),
        (lambda: settings.env_addresses("X", []), "http://", "X must hold addresses"),
        (lambda: settings.env_addresses("X", []), "http://h:99999", "X must hold addresses"),
        (lambda: settings.env_addresses("X", []), "ftp://u:secret@h", "not 'h'"),
        (lambda: settings.env_addresses("X", []), "http://h?x=1", "X must hold addresses"),
        (lambda: settings.env_addresses("X", []), "http://h,http://h/v1/", "X names one address twice"),
        (lambda: settings.env_secret("a b", "X", ""), "", "X must be one word"),
        (lambda: settings.env_secret("a", "X", "file"), "", "either X or X_FILE"),
        (lambda: settings.env_secret("", "X", "/no/such/file"), "", "X_FILE /no/such/file cannot be read"),
        (lambda: settings.env_secret("", "X", "/dev/null"), "", "X_FILE /dev/null is empty"),
    ],
)
def test_wrong_values(monkeypatch: pytest.MonkeyPatch, read: object, value: str, says: str) -> None:
    monkeypatch.setenv("X", value)
    with pytest.raises(ImproperlyConfigured, match=says):
        read()  # type: ignore[operator]


def test_relative_paths_count_from_the_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("X", "elsewhere/var")
    assert settings.env_path("X", tmp_path) == PROJECT / "elsewhere" / "var"


def test_addresses_and_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("X", "http://router:8080/v1/, Qwen2.5-1.5B=https://other.example/vllm,http://[::1]:8000")
    assert settings.env_addresses("X", []) == [
        ("", "http://router:8080"),
        ("Qwen2.5-1.5B", "https://other.example/vllm"),
        ("", "http://[::1]:8000"),
    ]
    (tmp_path / "key").write_text("sk-secret\n")
    assert settings.env_secret("", "X", str(tmp_path / "key")) == "sk-secret"
    assert settings.env_secret("given", "X", "") == "given"


def manage(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, PROJECT / "manage.py", "check"],
        env={**os.environ, "VAR_DIR": str(tmp_path / "var"), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("query", "kept"), [("", 60), ("?conn_max_age=5", 5)])
def test_the_address_of_the_database_says_how_long_connections_are_kept(tmp_path: Path, query: str, kept: int) -> None:
    program = "from loraportal.settings import DATABASES; print(DATABASES['default']['CONN_MAX_AGE'])"
    url = f"mysql://u:p@127.0.0.1:3306/x{query}"
    environment = {**os.environ, "VAR_DIR": str(tmp_path), "DATABASE_URL": url}
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) == kept


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENGINE_DEVICE", "tpu"),
        ("INFERENCE_BACKEND", "vllm"),
        ("DATABASE_URL", "postgres://x/y"),
        ("VAR_DIR", "/dev/null/var"),
        ("PORT", "99999"),
    ],
)
def test_commands_say_it_in_one_line(tmp_path: Path, name: str, value: str) -> None:
    result = manage(tmp_path, **{name: value})
    assert result.returncode == 1 and result.stderr.startswith("Settings: ") and name in result.stderr
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr


def test_secret_key_is_made_once_and_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SECRET_KEY", raising=False)
    monkeypatch.setattr(settings, "VAR_DIR", tmp_path / "new")
    first = settings.secret_key()
    path = tmp_path / "new" / "secret_key"
    assert len(first) >= 50 and settings.secret_key() == first == path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600 and [p.name for p in path.parent.iterdir()] == ["secret_key"]
    settings.write_once(path, "another process came second")
    assert settings.secret_key() == first
