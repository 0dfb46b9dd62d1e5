"""The JSON calls: an answer, every refusal with its code and parameter, roles, status, unload."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User

from inference.manager import ModelManager

pytestmark = pytest.mark.django_db(transaction=True)


def post(client: Any, pk: int, body: Any, slash: str = "") -> Any:
    return client.post(f"/api/lora/models/{pk}/test{slash}", body, format="json")


@pytest.fixture
def user(api: Callable[..., Any], owner: User) -> Any:
    return api(owner, "infer")


@pytest.mark.parametrize("slash", ["", "/"])
def test_answer(user: Any, registry: SimpleNamespace, manager: ModelManager, slash: str) -> None:
    response = post(user, registry.pirate.pk, {"prompt": "ahoy", "max_tokens": 8, "temperature": 0}, slash)
    assert response.status_code == 200
    body = response.json()
    assert body["response"] == "pirate says ahoy "
    assert body["response_length"] == len(body["response"])
    assert (body["model"], body["digest"], body["finish_reason"]) == ("pirate", "d" * 64, "stop")
    assert set(body["usage"]) >= {"prompt_tokens", "completion_tokens"}
    assert set(body["timings"]) == {"queue", "load", "ttft", "total", "tokens_per_second"}
    messages = [{"role": "user", "content": "mate"}]
    assert post(user, registry.poet.pk, {"messages": messages}).json()["response"] == "poet says mate "


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"prompt": "x", "temperature": -1}, 400, "out_of_range", "temperature"),
        ({"prompt": "x", "max_tokens": 0}, 400, "out_of_range", "max_tokens"),
        ({"prompt": "x", "max_tokens": 10**9}, 400, "out_of_range", "max_tokens"),
        ({"prompt": ""}, 400, "empty", "prompt"),
        ({}, 400, "required", "prompt"),
        ([], 400, "invalid_type", None),
        ({"prompt": "fail"}, 400, "context_length_exceeded", "prompt"),
        ({"messages": [{"role": "user", "content": "fail"}]}, 400, "context_length_exceeded", "messages"),
        ({"prompt": "crash"}, 503, "engine_crashed", None),
        ({"prompt": "x", "surprise": 1}, 400, "unknown_parameter", "surprise"),
    ],
)
def test_refusals(
    user: Any,
    registry: SimpleNamespace,
    manager: ModelManager,
    body: Any,
    status: int,
    code: str,
    param: str | None,
) -> None:
    response = post(user, registry.pirate.pk, body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
    assert (status == 503) == ("Retry-After" in response.headers)
    assert post(user, registry.pirate.pk, {"prompt": "ahoy"}).status_code == 200


@pytest.mark.parametrize("body", ["{", '{"prompt": NaN}', "[" * 100_000, b"\xff\xfe", "1" * 5000])
def test_malformed_json(user: Any, registry: SimpleNamespace, body: Any) -> None:
    response = user.post(f"/api/lora/models/{registry.pirate.pk}/test", body, content_type="application/json")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "malformed_json")


@pytest.mark.parametrize("path", ["/v1/completions", "/api/lora/models/{pk}/test"])
def test_a_field_whose_name_is_no_text(user: Any, registry: SimpleNamespace, path: str) -> None:
    data = r'{"prompt": "ahoy", "\ud800": 1, "model": "pirate"}'
    response = user.post(path.format(pk=registry.pirate.pk), data, content_type="application/json")
    assert response.status_code == 400 and response.json()["error"]["code"]


def test_body_beyond_the_limit(user: Any, registry: SimpleNamespace, settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 4096
    response = post(user, registry.pirate.pk, {"prompt": "x" * 5000})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")


def test_unknown_and_inactive(user: Any, registry: SimpleNamespace) -> None:
    assert post(user, registry.idle.pk, {"prompt": "x"}).json()["error"]["code"] == "adapter_inactive"
    assert post(user, registry.idle.pk, {"prompt": "x"}).status_code == 409
    for pk in (999_999, 2**63, 10**30):
        response = post(user, pk, {"prompt": "x"})
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


def test_missing_base(user: Any, registry: SimpleNamespace) -> None:
    registry.base.missing = True
    registry.base.save()
    response = post(user, registry.pirate.pk, {"prompt": "x"})
    assert (response.status_code, response.json()["error"]["code"]) == (409, "base_missing")


def test_who_may(
    api: Callable[..., Any],
    browser_of: Callable[..., Any],
    owner: User,
    operator: User,
    registry: SimpleNamespace,
    manager: ModelManager,
) -> None:
    body = {"prompt": "x"}
    assert post(api(), registry.pirate.pk, body).status_code == 401
    assert post(browser_of(owner), registry.pirate.pk, body).status_code == 403  # no CSRF token
    assert post(api(operator, "operate"), registry.pirate.pk, body).status_code == 403  # no scope for it
    assert api(owner, "infer").post("/api/inference/load", {"model": "tiny"}).status_code == 403
    for path, call in (("status", "get"), ("unload", "post")):
        url = f"/api/inference/{path}"
        assert getattr(api(), call)(url).status_code == 401
        assert getattr(api(owner, "infer"), call)(url).status_code == 403
        assert getattr(api(operator, "infer"), call)(url).status_code == 403
        assert getattr(api(operator, "operate"), call)(url).status_code == 200


def test_status_and_unload(
    api: Callable[..., Any], operator: User, registry: SimpleNamespace, manager: ModelManager
) -> None:
    client = api(operator, "infer", "operate")
    assert client.get("/api/inference/status").json() == {
        "worker": {"state": "stopped", "pid": None, "device": "", "restarts": 0, "in_flight": 0},
        "engine": None,
    }
    post(client, registry.pirate.pk, {"prompt": "x"})
    status = client.get("/api/inference/status").json()
    assert status["worker"]["state"] == "ready" and status["worker"]["pid"] > 0
    assert status["engine"]["base"] == "tiny"
    assert [item["name"] for item in status["engine"]["adapters"]] == ["pirate"]
    assert client.post("/api/inference/unload").json() == {"freed_bytes": 1000}
    assert client.get("/api/inference/status").json()["engine"]["base"] is None


def test_load_before_anybody_asks_and_keep(
    api: Callable[..., Any], operator: User, registry: SimpleNamespace, manager: ModelManager
) -> None:
    client = api(operator, "infer", "operate")

    def load(**body: Any) -> Any:
        return client.post("/api/inference/load", body, format="json")

    engine = load(model="pirate").json()["engine"]
    assert (engine["base"], engine["pinned"]) == ("tiny", False)
    assert [item["name"] for item in engine["adapters"]] == ["pirate"]
    assert load(model="tiny", pin=True).json()["engine"]["pinned"] is True
    assert load(model="tiny").json()["engine"]["pinned"] is True, "left as it is"
    assert load(model="tiny", pin=False).json()["engine"]["pinned"] is False


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "model"),
        ({"model": "nobody"}, 404, None),
        ({"model": "idle"}, 409, None),
        ({"model": "tiny", "pin": "yes"}, 400, "pin"),
        ({"model": "tiny", "keep": True}, 400, "keep"),
    ],
)
def test_loads_that_are_refused(
    api: Callable[..., Any], operator: User, registry: SimpleNamespace, manager: ModelManager,
    body: dict[str, Any], status: int, param: str | None,
) -> None:  # fmt: skip
    answer = api(operator, "operate").post("/api/inference/load", body, format="json")
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
