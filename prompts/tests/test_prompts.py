"""`/api/prompts` and its pages: what may be kept, how it is found, whose is whose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from rest_framework.test import APIClient

from prompts import flows
from prompts.models import PREVIEW, SavedPrompt

pytestmark = pytest.mark.django_db
GOOD: dict[str, Any] = {
    "name": "Brief",
    "system": "Answer in one sentence.",
    "prompt": "",
    "params": {"temperature": 0.2, "stop": ["END"]},
    "shared": False,
}


@pytest.fixture
def client(api: Callable[..., APIClient], owner: User) -> APIClient:
    return api(owner, "infer")


@pytest.fixture
def stranger(api: Callable[..., APIClient], outsider: User) -> APIClient:
    return api(outsider, "infer")


def save(client: APIClient, **fields: Any) -> Any:
    return client.post("/api/prompts", {**GOOD, **fields}, format="json")


def change(client: APIClient, pk: int, **fields: Any) -> Any:
    return client.patch(f"/api/prompts/{pk}", fields, format="json")


def names(client: APIClient, query: str = "") -> list[str]:
    return [row["name"] for row in client.get(f"/api/prompts?{query}").json()["results"]]


def test_saved_read_changed_and_deleted(client: APIClient) -> None:
    made = save(client, name="  Brief ")
    assert made.status_code == 201
    body = made.json()
    assert {name: body[name] for name in GOOD} == GOOD
    assert (body["owner"], body["mine"]) == ("owner", True)

    changed = change(client, body["id"], prompt="Explain LoRA.", params={"top_p": 0.9}).json()
    assert (changed["prompt"], changed["params"]) == ("Explain LoRA.", {"top_p": 0.9})
    assert changed["system"] == GOOD["system"]  # what was not named stays
    assert client.get(f"/api/prompts/{body['id']}").json() == changed
    assert client.delete(f"/api/prompts/{body['id']}").status_code == 204
    assert not SavedPrompt.objects.exists()


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"name": " "}, "empty", "name"),
        ({"name": "x" * 81}, "too_long", "name"),
        ({"name": "two\nlines"}, "invalid", "name"),
        ({"name": "nul \0"}, "invalid", "name"),
        ({"system": 5}, "invalid_type", "system"),
        ({"system": "nul \0"}, "invalid", "system"),
        ({"prompt": "x" * 201}, "too_long", "prompt"),
        ({"params": {"temperature": 3}}, "out_of_range", "params.temperature"),
        ({"params": {"max_tokens": 10**6}}, "out_of_range", "params.max_tokens"),
        ({"params": {"json_object": True}}, "unknown_parameter", "params.json_object"),
        ({"shared": "yes"}, "invalid_type", "shared"),
        ({"owner": "me"}, "unknown_parameter", "owner"),
        ({"system": " ", "params": {}}, "empty", "system"),
    ],
)
def test_bad_values(client: APIClient, settings: Any, fields: dict[str, Any], code: str, param: str) -> None:
    settings.MAX_PROMPT_CHARS = 200
    before = save(client).json()
    for response in (save(client, **fields), change(client, before["id"], **fields)):
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (400, code, param)
    assert client.get(f"/api/prompts/{before['id']}").json() == before
    assert SavedPrompt.objects.count() == 1


def test_a_new_one_needs_a_name_and_room(client: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    unnamed = client.post("/api/prompts", {"system": "x"}, format="json")
    assert (unnamed.status_code, unnamed.json()["error"]["param"]) == (400, "name")
    monkeypatch.setattr(flows, "MOST", 1)
    first = save(client).json()["id"]
    full = save(client)
    assert (full.status_code, full.json()["error"]["code"]) == (409, "too_many")
    assert change(client, first, name="Other").status_code == 200


def test_others_see_shared_ones_and_change_none(client: APIClient, stranger: APIClient, owner: User) -> None:
    kept = save(client).json()["id"]
    assert names(stranger) == []
    assert stranger.get(f"/api/prompts/{kept}").status_code == 404

    change(client, kept, shared=True)
    seen = stranger.get(f"/api/prompts/{kept}").json()
    assert (seen["system"], seen["owner"], seen["mine"]) == (GOOD["system"], "owner", False)
    assert change(stranger, kept, name="Mine").status_code == 404
    assert stranger.delete(f"/api/prompts/{kept}").status_code == 404

    User.objects.filter(pk=owner.pk).update(is_active=False)
    assert names(stranger) == []
    owner.delete()
    assert not SavedPrompt.objects.exists()


def test_lists_are_searched_and_hold_no_whole_texts(client: APIClient, stranger: APIClient) -> None:
    save(stranger, name="A foreign one", shared=True)
    save(client, name="zebra", system="", prompt="Ask the OWL " + "x" * 1000, params={})
    save(client, name="Ant", system="the owl answers", params={"seed": 1})
    assert names(client) == ["Ant", "zebra", "A foreign one"]  # one's own first
    assert names(client, "search=owl the") == ["Ant", "zebra"]
    assert names(client, "search=outsider") == ["A foreign one"]
    assert names(client, "part=prompt") == ["zebra"]
    assert names(client, "part=prompt,params&whose=mine") == ["Ant", "zebra"]
    assert names(client, "part=params") == ["Ant", "A foreign one"]
    assert names(client, "whose=others") == ["A foreign one"]
    row = client.get("/api/prompts?search=zebra").json()["results"][0]
    assert (row["parts"], len(row["preview"]), "prompt" in row) == (["prompt"], PREVIEW, False)
    for wrong in ("part=nose", "whose=nobody"):
        refused = client.get(f"/api/prompts?{wrong}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_choice")


def test_the_pages_show_what_one_may_see(client: APIClient, owner: User, outsider: User) -> None:
    private = save(client, name="Kept to myself").json()["id"]
    shared = save(client, name="For <all>", shared=True).json()["id"]
    mine, theirs = Client(), Client()
    mine.force_login(owner)
    theirs.force_login(outsider)
    assert "Kept to myself" in mine.get("/prompts").content.decode()
    page = theirs.get("/prompts").content.decode()
    assert "For &lt;all&gt;" in page and "Kept to myself" not in page
    assert theirs.get("/prompts?search=&part=nose&page=x").status_code == 200
    assert theirs.get(f"/prompts/{private}").status_code == 404
    assert 'data-testid="prompt-save"' in mine.get(f"/prompts/{shared}").content.decode()
    read_only = theirs.get(f"/prompts/{shared}").content.decode()
    assert 'data-testid="prompt-copy"' in read_only and 'data-testid="prompt-save"' not in read_only
