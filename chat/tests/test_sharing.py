"""A conversation is read by others only by a link that its owner made, and no longer than that."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.test import Client

from chat.models import Conversation, Message

pytestmark = pytest.mark.django_db


@pytest.fixture
def conversation(owner: User) -> Conversation:
    made = Conversation.objects.create(user=owner, title="sea", system="a secret prompt")
    question = Message.objects.create(conversation=made, role="user", content="what is <b>it</b>?")
    Message.objects.create(conversation=made, parent=question, role="assistant", content="another version")
    made.leaf = Message.objects.create(
        conversation=made, parent=question, role="assistant", content="**wet**", target_name="Pirate"
    )
    made.save()
    return made


def as_user(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def test_a_link_shows_what_its_owner_sees_until_it_is_revoked(
    conversation: Conversation, owner: User, outsider: User
) -> None:
    mine, theirs = as_user(owner), as_user(outsider)
    url = f"/api/chat/conversations/{conversation.pk}/share"
    path = mine.post(url).json()["share"]
    assert mine.post(url).json()["share"] == path, "a link that was given away stays good"
    page = theirs.get(path)
    text = page.content.decode()
    assert page.status_code == 200 and "what is &lt;b&gt;it&lt;/b&gt;?" in text and "**wet**" in text
    assert "another version" not in text and "secret" not in text and 'data-act="' not in text
    assert Client().get(path).status_code == 302
    for changed in (theirs.delete(url), theirs.get(f"/chat/{conversation.pk}")):
        assert changed.status_code == 404
    assert mine.get(f"/api/chat/conversations/{conversation.pk}").json()["share"] == path

    assert mine.delete(url).status_code == 204
    assert theirs.get(path).status_code == 404
    again = mine.post(url).json()["share"]
    assert again != path and theirs.get(path).status_code == 404 and theirs.get(again).status_code == 200


def test_what_nobody_shares_has_no_address(conversation: Conversation, outsider: User) -> None:
    assert as_user(outsider).get(f"/chat/shared/{uuid4()}").status_code == 404


def test_a_closed_account_shares_nothing(conversation: Conversation, owner: User, outsider: User) -> None:
    path = as_user(owner).post(f"/api/chat/conversations/{conversation.pk}/share").json()["share"]
    User.objects.filter(pk=owner.pk).update(is_active=False)
    assert as_user(outsider).get(path).status_code == 404


def test_a_file_that_is_passed_on_has_no_link_in_it(conversation: Conversation, owner: User) -> None:
    mine = as_user(owner)
    path = mine.post(f"/api/chat/conversations/{conversation.pk}/share").json()["share"]
    exported = mine.get(f"/api/chat/conversations/{conversation.pk}/export.json")
    assert exported.json()["title"] == "sea"
    assert path.rpartition("/")[2] not in exported.content.decode()
