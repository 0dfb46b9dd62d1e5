"""`/api/inference/count`: tokens of a prompt before it is sent."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User

from inference.manager import ModelManager

pytestmark = pytest.mark.django_db(transaction=True)
URL = "/api/inference/count"
HELLO = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello there"}]


@pytest.fixture
def client(api: Callable[..., Any], owner: User, registry: SimpleNamespace, manager: ModelManager) -> Any:
    return api(owner, "infer")


@pytest.mark.parametrize("model", ["pirate", "tiny"])
def test_words_of_a_prompt_and_of_messages(client: Any, model: str) -> None:
    counted = client.post(URL, {"model": model, "prompt": "one two three"}, format="json")
    assert counted.json() == {"tokens": 3, "context_length": 2048}
    assert client.post(URL, {"model": model, "messages": HELLO}, format="json").json()["tokens"] == 4


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"prompt": "x"}, 400, "invalid_type", "model"),
        ({"model": "nobody", "prompt": "x"}, 404, "unknown_target", None),
        ({"model": "idle", "prompt": "x"}, 409, "adapter_inactive", None),
        ({"model": "pirate"}, 400, "required", "prompt"),
        ({"model": "pirate", "prompt": ""}, 400, "empty", "prompt"),
        ({"model": "pirate", "prompt": "x", "temperature": 1}, 400, "unknown_parameter", "temperature"),
        ([], 400, "invalid_type", None),
    ],
)
def test_refusals(client: Any, body: Any, status: int, code: str, param: str | None) -> None:
    response = client.post(URL, body, format="json")
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
