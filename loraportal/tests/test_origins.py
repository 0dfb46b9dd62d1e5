"""Pages of other origins with a token, and host names that are not ours."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client, override_settings

ORIGIN = "http://localhost:3000"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os,x-stainless-retry-count",
}
pytestmark = pytest.mark.django_db


def preflight(path: str, **headers: str) -> Any:
    return Client().options(path, headers={**PREFLIGHT, **headers})


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/api/lora/models", "/api/inference/status"])
def test_a_preflight_of_an_allowed_origin(path: str, settings: Any) -> None:
    settings.CORS_ALLOWED_ORIGINS = [ORIGIN]
    answer = preflight(path)
    assert answer.status_code == 200
    assert answer["Access-Control-Allow-Origin"] == ORIGIN
    allowed = {name.strip() for name in answer["Access-Control-Allow-Headers"].lower().split(",")}
    assert allowed >= set(PREFLIGHT["Access-Control-Request-Headers"].split(","))
    assert "POST" in answer["Access-Control-Allow-Methods"]
    assert "Access-Control-Allow-Credentials" not in answer


def test_what_an_allowed_origin_may_read(settings: Any) -> None:
    settings.CORS_ALLOWED_ORIGINS = [ORIGIN]
    answer = Client().get("/v1/models", headers={"Origin": ORIGIN})
    assert answer.status_code == 401 and answer["Access-Control-Allow-Origin"] == ORIGIN  # so that it can read why
    assert "x-request-id" in answer["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Origin" not in Client().get("/login", headers={"Origin": ORIGIN})


def test_no_other_origin_may(settings: Any) -> None:
    assert "Access-Control-Allow-Origin" not in preflight("/v1/models")
    settings.CORS_ALLOWED_ORIGINS = [ORIGIN]
    assert "Access-Control-Allow-Origin" not in preflight("/v1/models", Origin="http://localhost:3001")
    settings.CORS_ALLOW_ALL_ORIGINS = True
    assert preflight("/v1/models", Origin="https://elsewhere.example")["Access-Control-Allow-Origin"] == "*"


@override_settings(ALLOWED_HOSTS=["portal.example.org"])
@pytest.mark.parametrize(("language", "word"), [("en", "does not accept requests"), ("zh-hans", "不接受")])
def test_a_host_that_is_not_allowed(language: str, word: str) -> None:
    head = {"Host": "192.0.2.7:8000", "Accept-Language": language}
    program = Client().get("/v1/models", headers=head)
    error = program.json()["error"]
    assert (program.status_code, error["code"]) == (400, "host_not_allowed")
    assert "ALLOWED_HOSTS" in error["message"] and "192.0.2.7:8000" in error["message"] and word in error["message"]
    page = Client().get("/login", headers={**head, "Host": "<b>"})
    assert page.status_code == 400 and "ALLOWED_HOSTS" in page.content.decode() and "<b>" not in page.content.decode()
    assert Client().get("/login", headers={**head, "Host": "portal.example.org"}).status_code == 200
