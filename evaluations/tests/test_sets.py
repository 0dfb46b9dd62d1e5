"""Prompt sets: versions, files, who sees and changes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from demo.held_out import items
from demo.recipes import RECIPES
from evaluations.checks.judging import judged, passed
from evaluations.importing import read_file
from evaluations.models import Item, PromptSet

pytestmark = pytest.mark.django_db

SETS = "/api/evaluations/sets"


@pytest.fixture
def client(client: Client, owner: User) -> Client:
    client.force_login(owner)
    return client


def send(client: Client, method: str, path: str, data: Any = None) -> Any:
    return client.generic(method, f"{SETS}{path}", json.dumps(data or {}), content_type="application/json")


def asked(client: Client, pk: int, version: int) -> list[str]:
    found = client.get(f"{SETS}/{pk}/items?version={version}").json()
    return [f"{one['number']} {one['prompt']}" for one in found["results"]]


def test_every_change_makes_a_version_and_none_is_changed(client: Client) -> None:
    made = send(client, "POST", "", {"name": "greetings", "items": [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}]})
    pk = made.json()["id"]
    assert (made.status_code, made.json()["version"], made.json()["size"]) == (201, 1, 3)
    changed = send(client, "PUT", f"/{pk}/items/2", {"prompt": "b!", "checks": [{"kind": "json"}]})
    assert (changed.json()["version"], changed.json()["size"]) == (2, 3)
    assert send(client, "PUT", f"/{pk}/items/2", {"prompt": "b!", "checks": [{"kind": "json"}]}).json()["version"] == 2
    assert send(client, "DELETE", f"/{pk}/items/1").status_code == 204
    added = send(client, "POST", f"/{pk}/items", {"items": [{"prompt": "d"}]})
    assert (added.json()["version"], added.json()["added"]) == (4, 1)
    assert [asked(client, pk, version) for version in range(1, 5)] == [
        ["1 a", "2 b", "3 c"], ["1 a", "2 b!", "3 c"], ["2 b!", "3 c"], ["2 b!", "3 c", "4 d"]
    ]  # fmt: skip
    assert Item.objects.count() == 5  # versions share the rows that they have in common
    digests = {one["digest"] for one in client.get(f"{SETS}/{pk}/versions").json()["results"]}
    assert len(digests) == 4
    again = send(client, "POST", "", {"name": "copy", "items": [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}]})
    first = client.get(f"{SETS}/{again.json()['id']}/versions").json()["results"][0]["digest"]
    assert first in digests  # the content alone decides
    assert send(client, "POST", "", {"name": "copy"}).json()["error"]["code"] == "name_taken"
    assert send(client, "POST", f"/{pk}/items/remove", {"numbers": [2, 3]}).json()["size"] == 1


def test_others_read_a_shared_set_and_change_none(
    client: Client, outsider: User, make_set: Callable[..., PromptSet]
) -> None:
    pk = make_set("a").pk
    other = Client()
    other.force_login(outsider)
    assert other.get(f"{SETS}/{pk}").status_code == 404
    assert send(client, "PATCH", f"/{pk}", {"shared": True}).json()["version"] == 1  # no new version
    assert other.get(f"{SETS}/{pk}").json()["mine"] is False
    for method, path in (("PATCH", ""), ("DELETE", ""), ("POST", "/items"), ("PUT", "/items/1"), ("POST", "/import")):
        assert send(other, method, f"/{pk}{path}", {"name": "x"}).status_code == 404
    assert len(other.get(SETS).json()["results"]) == 1
    client.force_login(outsider)
    assert client.get(SETS).json()["results"][0]["owner"] == "owner"


CHAT = """{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, \
{"role": "assistant", "content": "r"}]}"""
SHAREGPT = '{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "r"}], "system": "s"}'
ALPACA = '[{"instruction": "q", "input": "", "output": "r", "system": "s"}]'
CSV = "\ufeffprompt,reference,system,equals\nq,r,s,\n"
MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]


@pytest.mark.parametrize("text", [CHAT, SHAREGPT, ALPACA, CSV], ids=["chat", "sharegpt", "alpaca", "csv"])
def test_files_of_trainers_ask_the_same(text: str) -> None:
    (item,) = read_file(text, checks=[{"kind": "equals"}])
    assert (item.messages, item.reference, item.checks) == (MESSAGES, "r", [{"kind": "equals"}])
    assert item.title == "q"


def test_an_export_comes_back_whole(client: Client) -> None:
    items = [
        {"messages": MESSAGES, "reference": "r\n=1", "checks": [{"kind": "contains"}, {"kind": "length", "most": 9}]},
        {"prompt": "Once upon", "checks": [{"kind": "schema", "schema": {"type": "object"}}]},
    ]
    pk = send(client, "POST", "", {"name": "one", "items": items}).json()["id"]
    text = client.get(f"{SETS}/{pk}/export.jsonl").content.decode()
    copy = send(client, "POST", "", {"name": "two"}).json()["id"]
    assert send(client, "POST", f"/{copy}/import", {"text": text}).json()["added"] == 2
    both = [client.get(f"{SETS}/{each}/items").json() for each in (pk, copy)]
    assert both[0]["digest"] == both[1]["digest"]
    assert "'=1" not in text and client.get(f"{SETS}/{pk}/export.csv").content.startswith(b"\xef\xbb\xbfnumber")


@pytest.mark.parametrize(
    ("text", "line", "code"),
    [
        ('{"prompt": "a"}\n{"prompt": }', 2, "malformed_json"),
        ('{"prompt": "a"}\n\n{"question": "b"}', 3, "invalid"),
        ('{"messages": [{"role": "tool", "content": "x"}, {"role": "assistant", "content": "y"}]}', 1, "invalid"),
        ('{"conversations": [{"from": "martian", "value": "x"}]}', 1, "invalid"),
        ('{"prompt": "a", "checks": [{"kind": "equals"}]}', 1, "required"),
        ('{"prompt": "a"}\n{"messages": [{"role": "user", "content": 7}]}', 2, "invalid_type"),
        ("prompt,equals\na,b\nc,d,e", 3, "columns"),
        ("question\na", 1, "columns"),
        ("prompt,pattern\na,(", 2, "pattern_invalid"),
    ],
)
def test_a_bad_line_is_named_and_nothing_comes_in(
    client: Client, make_set: Callable[..., PromptSet], text: str, line: int, code: str
) -> None:
    prompts = make_set("a")
    refused = send(client, "POST", f"/{prompts.pk}/import", {"text": text})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["line"]) == (400, code, line), error
    prompts.refresh_from_db()
    assert (prompts.version, prompts.size) == (1, 1)


def test_bounds(client: Client, settings: Any, make_set: Callable[..., PromptSet]) -> None:
    settings.EVALUATION_ITEMS, settings.EVALUATION_SETS = 2, 1
    prompts = make_set("a")
    refused = send(client, "POST", f"/{prompts.pk}/items", {"items": [{"prompt": "b"}, {"prompt": "c"}]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "too_many")
    assert (
        send(client, "POST", f"/{prompts.pk}/import", {"text": "prompt\na\nb\nc"}).json()["error"]["code"] == "too_many"
    )
    assert send(client, "POST", "", {"name": "second"}).status_code == 409


@pytest.mark.parametrize("name", ["pirate", "json-only"])
def test_what_a_demo_training_held_out_is_a_set(client: Client, name: str) -> None:
    made = items(RECIPES[name])
    pk = send(client, "POST", "", {"name": name}).json()["id"]
    text = "\n".join(json.dumps(item) for item in made)
    assert send(client, "POST", f"/{pk}/import", {"text": text}).json()["added"] == RECIPES[name].eval_rows
    for item in made:
        checks = [check for check in item["checks"] if check["kind"] != "loss"]
        assert passed(judged(item["reference"], item["reference"], checks)), "the trainer's own answer"
        assert not passed(judged("It is water with salt.", item["reference"], checks))
