"""The list of conversations: what is pinned comes first, many are deleted at once, a search says where it found."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.db import connection
from django.db.migrations.state import ProjectState
from rest_framework.test import APIClient

from chat import api, search
from chat.models import Conversation, Message

pytestmark = pytest.mark.django_db
URL = "/api/chat/conversations"


@pytest.fixture
def client(owner: User) -> APIClient:
    client = APIClient()
    client.force_login(owner)
    return client


def begin(user: User, title: str, *contents: str) -> Conversation:
    made = Conversation.objects.create(user=user, title=title)
    for content in contents:
        last = Message.objects.create(conversation=made, parent=made.leaf, role="user", content=content)
        made.leaf = last
    made.save()
    return made


def titles(client: APIClient, **words: Any) -> list[str]:
    return [row["title"] for row in client.get(URL, words).json()["results"]]


def test_what_is_pinned_comes_first_and_pinning_is_no_news(client: APIClient, owner: User) -> None:
    first = begin(owner, "first")
    begin(owner, "second")
    assert titles(client) == ["second", "first"]
    changed = client.patch(f"{URL}/{first.pk}", {"pinned": True}, format="json").json()
    assert changed["pinned"] is True
    assert titles(client) == ["first", "second"]
    before = first.updated_at
    first.refresh_from_db()
    assert first.updated_at == before
    client.patch(f"{URL}/{first.pk}", {"pinned": False}, format="json")
    assert titles(client) == ["second", "first"]


def test_a_long_list_is_read_in_its_order_and_not_sorted(owner: User) -> None:
    """A page of the list costs the same of ten conversations and of ten thousand."""
    if connection.vendor != "sqlite":
        pytest.skip("other databases choose by what the table holds")
    plan = Conversation.objects.of(owner)[:100].explain()
    assert "conversation_listed" in plan and "B-TREE" not in plan, plan


def test_many_are_deleted_and_only_ones_own(client: APIClient, owner: User, outsider: User) -> None:
    mine = [begin(owner, name, "a", "b") for name in ("one", "two", "three")]
    theirs = begin(outsider, "theirs", "a")
    ids = [mine[0].pk, mine[2].pk, theirs.pk, 999_999]
    assert client.post(f"{URL}/delete", {"ids": ids}, format="json").json() == {"deleted": 2}
    assert set(Conversation.objects.values_list("title", flat=True)) == {"two", "theirs"}
    assert Message.objects.count() == 3


@pytest.mark.parametrize("ids", [[], [0], ["x"], [2**63], list(range(1, 202)), None])
def test_a_wrong_deletion_deletes_nothing(client: APIClient, owner: User, ids: Any) -> None:
    begin(owner, "one")
    refused = client.post(f"{URL}/delete", {"ids": ids}, format="json")
    assert refused.status_code == 400
    assert Conversation.objects.count() == 1
    assert api.MOST_DELETED == 200


def test_a_search_says_where_it_found(client: APIClient, owner: User, outsider: User) -> None:
    begin(owner, "far", "x" * 300, "y" * 100 + " so\n\nThe  SEA is\ndeep " + "z" * 200, "the sea again")
    begin(owner, "near", "sea")
    begin(owner, "the sea")
    begin(owner, "neither", "mountain")
    begin(outsider, "theirs", "sea")
    rows = client.get(URL, {"search": "sea"}).json()["results"]
    found = {row["title"]: row["snippet"] for row in rows}
    assert set(found) == {"far", "near", "the sea"}
    far = found["far"]
    assert far["before"].startswith("…y") and far["before"].endswith("y so The ") and len(far["before"]) <= 41
    assert far["match"] == "SEA" and far["after"].startswith(" is deep z") and far["after"].endswith("z…")
    assert len(far["after"]) <= search.AFTER + 1
    assert found["near"] == {"before": "", "match": "sea", "after": ""}
    assert found["the sea"] is None
    assert "snippet" not in client.get(URL).json()["results"][0]


def test_a_snippet_holds_letters_that_change_their_length(client: APIClient, owner: User) -> None:
    begin(owner, "turkish", "\u0130" * 60 + " \u6df1\u6d77 deep")
    (row,) = client.get(URL, {"search": "\u6df1\u6d77"}).json()["results"]
    assert (row["snippet"]["match"], row["snippet"]["after"]) == ("\u6df1\u6d77", " deep")


def test_folders_are_there_as_long_as_something_is_in_them(client: APIClient, owner: User, outsider: User) -> None:
    first, second = begin(owner, "first"), begin(owner, "second")
    theirs = begin(outsider, "theirs")
    Conversation.objects.filter(pk=theirs.pk).update(folder="sea")
    for one, folder in ((first, " sea "), (second, "land")):
        assert client.patch(f"{URL}/{one.pk}", {"folder": folder}, format="json").json()["folder"] == folder.strip()
    folders = "/api/chat/folders"
    assert client.get(folders).json() == {"results": [{"name": "land", "count": 1}, {"name": "sea", "count": 1}]}
    assert titles(client, folder="sea") == ["first"]
    assert titles(client, folder="nowhere") == []
    client.patch(f"{URL}/{first.pk}", {"folder": ""}, format="json")
    assert client.get(folders).json() == {"results": [{"name": "land", "count": 1}]}
    assert client.patch(f"{URL}/{first.pk}", {"folder": "x" * 81}, format="json").status_code == 400


@pytest.mark.django_db(transaction=True)
def test_the_index_is_replaced_both_ways_and_after_half_of_it() -> None:
    operation = import_module("chat.migrations.0006_list_order").Migration.operations[0]

    def indexes() -> set[str]:
        with connection.cursor() as cursor:
            there = connection.introspection.get_constraints(cursor, Conversation._meta.db_table)
        return {operation.old.name, operation.new.name} & set(there)

    def run(move: Any) -> None:
        state = ProjectState.from_apps(apps)
        with connection.schema_editor() as editor:
            move("chat", editor, state, state)

    run(operation.database_backwards)
    assert indexes() == {operation.old.name}
    with connection.schema_editor() as editor:  # as far as an interrupted run came
        editor.add_index(Conversation, operation.new)
    for _ in range(2):
        run(operation.database_forwards)
        assert indexes() == {operation.new.name}
