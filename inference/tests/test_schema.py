"""The description of the API and the API agree: schemathesis asks everything, nothing answers with a 5xx."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from django.urls import get_resolver
from drf_spectacular.generators import SchemaGenerator

from .test_server import Site

PLAIN_CALLS = 150_000  # what all of it may take, in plain calls one after another; it makes about a tenth of them
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "ignored_auth,unsupported_method"
)


@pytest.fixture
def site(tmp_path: Path, registry: SimpleNamespace, operator: User, token_for: Callable[..., str]) -> Iterator[Site]:
    limits = {f"{who}_{what}": "0" for who in ("USER", "TOKEN") for what in ("CONCURRENT", "REQUESTS_PER_MINUTE")}
    site = Site(tmp_path, token_for(operator, "infer", "operate"), **limits)
    yield site
    site.process.kill()
    site.process.wait()


def test_description_is_valid_and_whole(tmp_path: Path) -> None:
    file = tmp_path / "schema.yaml"
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(file))
    described = {line[2:-1] for line in file.read_text().splitlines() if line.startswith("  /")}
    served = {
        "/"
        + str(entry.pattern)
        .replace("<int:pk>", "{id}")
        .replace("<str:model>", "{model}")
        .replace("<uuid:run>", "{run}")
        .replace("<int:number>", "{number}")
        .replace("<slug:key>", "{key}")
        .replace("<int:index>", "{index}")
        .replace("<str:name>", "{name}")
        for include in get_resolver().url_patterns
        for entry in getattr(include, "url_patterns", [include])
    }
    calls = {path for path in served if path.startswith(("/api/", "/v1/")) and not path.endswith("/")}
    assert calls - {"/api/schema", "/api/docs"} == described


@pytest.mark.django_db
def test_pages_need_nothing_from_elsewhere(client: Client) -> None:
    page = client.get("/api/docs")
    assert page.status_code == 200 and b"//" not in page.content.replace(b"<!doctype html>", b"")
    schema = client.get("/api/schema").json()
    chat = schema["paths"]["/v1/chat/completions"]["post"]
    assert "example" in str(chat["requestBody"]) and "text/event-stream" in chat["responses"]["200"]["content"]


@pytest.mark.django_db
def test_it_is_made_once_for_each_language(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is half a second of work, and anybody may ask for it."""
    expected = {language: client.get(f"/api/schema?lang={language}").json() for language in ("en", "zh-hans")}
    monkeypatch.setattr(SchemaGenerator, "get_schema", lambda *args, **kwargs: 1 / 0)
    for language, schema in expected.items():
        assert client.get(f"/api/schema?lang={language}").json() == schema
    assert client.get("/api/schema?lang=tlh&version=2").json() == expected["en"]


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_behaviour_agrees_with_the_description(site: Site, registry: SimpleNamespace, tmp_path: Path) -> None:
    changing = ("DELETE /api/lora/models/{id}", "POST /api/lora/models/{id}/deactivate")
    lines = [f'parameters = {{ "path.id" = {registry.pirate.pk}, "path.model" = "poet" }}']
    for name in changing:  # on an adapter that the other calls do not need
        lines += ["[[operations]]", f'include-name = "{name}"', f'parameters = {{ "path.id" = {registry.idle.pk} }}']
    (tmp_path / "schemathesis.toml").write_text("\n".join(lines))
    command: list[Any] = [Path(sys.executable).with_name("st"), "run", f"http://127.0.0.1:{site.port}/api/schema"]
    command += [
        "--checks",
        CHECKS,
        "-H",
        f"Authorization: Bearer {site.token}",
        "--phases",
        "examples,coverage,fuzzing",
    ]
    command += ["--max-examples", "25", "--seed", "1", "--no-color", "--generation-database", "none"]
    command += ["--generation-unique-inputs"]  # a request that is equal in everything is asked once
    # It reads the whole environment several times with each request.
    environment = {name: os.environ[name] for name in ("HOME", "LANG", "PATH", "TMPDIR") if name in os.environ}
    began = time.monotonic()
    for _call in range(100):
        site.call("GET", "/api/inference/status")
    patience = PLAIN_CALLS * (time.monotonic() - began) / 100
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout[-20_000:] + site.log.read_text()[-3000:]
