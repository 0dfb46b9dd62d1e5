"""What administrators do to accounts, through the pages: what changes, whom it ends, what is refused and remembered."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from accounts import people
from accounts.access import withdrawn
from accounts.decorators import AdministratorsOnlyError
from accounts.grants import Grant
from accounts.models import AccountEvent, ApiToken, Role
from accounts.tokens import issue_token
from chat.models import Conversation
from tests.fixtures.people import PASSWORD

pytestmark = pytest.mark.django_db
NEW_PASSWORD = "a quite different passphrase"  # noqa: S105


@pytest.fixture
def office(admin: User) -> Client:
    """A browser in which the administrator has signed in."""
    client = Client()
    client.force_login(admin)
    return client


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def post(client: Client, name: str, user: User, **body: str) -> Any:
    return client.post(reverse(f"person-{name}", args=[user.pk]), body, follow=True)


def kinds() -> list[str]:
    return list(AccountEvent.objects.order_by("id").values_list("kind", flat=True))


def link_on(page: Any) -> str:
    found = re.search(r'data-testid="link">http://testserver(/set-password/[^<]+)<', page.content.decode())
    assert found
    return found[1]


def test_an_account_with_a_password(office: Client) -> None:
    body = {"username": "new", "role": "operator", "password": NEW_PASSWORD}
    page = office.post("/people/new", body, follow=True)
    assert page.redirect_chain and b"link-made" not in page.content
    made = User.objects.get(username="new")
    assert (made.is_staff, made.is_superuser) == (True, False) and made.check_password(NEW_PASSWORD)
    event = AccountEvent.objects.get()
    assert (event.kind, event.actor_name, event.told) == ("created", "admin", "Operator")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"username": "OWNER", "role": "user"}, "already is an account"),
        ({"username": "new", "role": "user", "password": "12345678"}, "too common"),
        ({"username": "new", "role": "owner"}, "not one of the available"),
        ({"username": "<script>", "role": "user"}, "valid username"),
        ({"username": "new person", "role": "user", "password": "new person"}, "valid username"),
    ],
)
def test_an_account_that_is_refused(office: Client, owner: User, body: dict[str, str], says: str) -> None:
    page = office.post("/people/new", body)
    assert page.status_code == 400 and says in page.content.decode()
    assert User.objects.count() == 2 and not AccountEvent.objects.exists()


def test_a_link_is_shown_once_and_sets_one_password(office: Client) -> None:
    page = office.post("/people/new", {"username": "new", "role": "user"}, follow=True)
    made, path = User.objects.get(username="new"), link_on(page)
    assert not made.has_usable_password()
    assert b"link-made" not in office.get(f"/people/{made.pk}").content
    stranger = Client()
    shown = stranger.get(path, follow=True)
    secret = path.rsplit("/", 1)[1]
    assert shown.status_code == 200 and secret not in shown.redirect_chain[0][0]
    form = shown.redirect_chain[0][0]
    weak = stranger.post(form, {"new_password1": "12345678", "new_password2": "12345678"})
    assert weak.status_code == 400 and b"too common" in weak.content
    both = {"new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD}
    assert stranger.post(form, both).headers["Location"] == "/login"
    made.refresh_from_db()
    assert made.check_password(NEW_PASSWORD)
    assert Client().get(path).status_code == 410 and stranger.post(form, both).status_code == 410
    assert kinds() == ["created", "link_made", "link_used"]


def test_what_ends_a_link(admin: User, owner: User) -> None:
    def works(path: str) -> bool:
        return Client().get(path).status_code == 302

    invited = people.create(admin, "invited", Role.USER, None)
    first = people.make_link(admin, invited.pk)
    second = people.make_link(admin, invited.pk)
    assert works(second) and not works(first), "a new one ends those before it"
    forgotten = people.make_link(admin, owner.pk)
    assert works(forgotten) and owner.check_password(PASSWORD), "the old password works until then"
    people.deactivate(admin, owner.pk)
    assert not works(forgotten)
    with pytest.raises(people.RefusedError):
        people.make_link(admin, owner.pk)
    people.reactivate(admin, owner.pk)
    people.set_password(admin, owner.pk, NEW_PASSWORD)
    assert not works(forgotten)
    assert not works("/set-password/AAAA/abc-def") and not works(f"/set-password/{'9' * 300}/x-y")
    stale = User.objects.get(pk=owner.pk)
    assert people.use_link(User.objects.get(pk=owner.pk), "the first of two at once")
    assert not people.use_link(stale, "the second"), "two that use it at the same time"
    assert User.objects.get(pk=owner.pk).check_password("the first of two at once")


def test_roles(office: Client, owner: User) -> None:
    for role, flags in (("operator", (True, False)), ("admin", (True, True)), ("user", (False, False))):
        assert post(office, "role", owner, role=role).status_code == 200
        owner.refresh_from_db()
        assert (owner.is_staff, owner.is_superuser) == flags
    assert [event.told for event in AccountEvent.objects.all()][::-1] == [
        "User → Operator", "Operator → Administrator", "Administrator → User",
    ]  # fmt: skip
    assert b"The role has been changed" not in post(office, "role", owner, role="user").content
    assert post(office, "role", owner, role="king").status_code == 400
    assert len(kinds()) == 3


def test_nobody_takes_away_their_own_rights(office: Client, admin: User) -> None:
    refused = {"role": {"role": "user"}, "deactivate": {}, "delete": {"confirm": "admin"}, "link": {}}
    refused["password"] = {"new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD}
    for name, body in refused.items():
        page = post(office, name, admin, **body)
        assert b"note-bad" in page.content, name
    page = office.get(f"/people/{admin.pk}").content
    assert b"own-account" in page and b"role-save" not in page and b"delete-dialog" not in page
    admin.refresh_from_db()
    assert admin.is_superuser and admin.is_active and admin.check_password(PASSWORD) and kinds() == []


def test_of_two_who_demote_each_other_one_stays(admin: User, owner: User) -> None:
    """As the second of two requests that began at the same time: its `actor` was an administrator when it began."""
    other = people.create(admin, "other", Role.ADMIN, NEW_PASSWORD)
    people.set_role(admin, other.pk, Role.USER)
    for change in (
        lambda: people.set_role(other, admin.pk, Role.USER),
        lambda: people.delete(other, admin.pk, "admin"),
        lambda: people.deactivate(other, admin.pk),
        lambda: people.create(other, "mine", Role.ADMIN, NEW_PASSWORD),
    ):
        with pytest.raises(AdministratorsOnlyError):
            change()
    assert [user.username for user in User.objects.filter(is_superuser=True, is_active=True)] == ["admin"]


def test_deactivating_ends_everything_and_reactivating_brings_tokens_back(
    office: Client, owner: User, token_for: Callable[..., str]
) -> None:
    browser, bearer = signed_in(owner), {"Authorization": f"Bearer {token_for(owner)}"}
    grant = Grant(owner.pk, None, browser.session.session_key)
    assert browser.get("/account").status_code == 200 and not withdrawn([grant])
    post(office, "deactivate", owner)
    assert browser.get("/account").status_code == 302 and withdrawn([grant]) == {grant}
    assert Client().get("/api/lora/models", headers=bearer).status_code == 401
    assert b"person-token" in office.get(f"/people/{owner.pk}").content, "what would work again is shown"
    post(office, "reactivate", owner)
    assert browser.get("/account").status_code == 302, "a session that was ended stays so"
    assert Client().get("/api/lora/models", headers=bearer).status_code == 200
    post(office, "reactivate", owner)
    post(office, "deactivate", owner)
    assert b"1 token revoked" in post(office, "sign-out", owner, tokens="on").content
    assert kinds() == ["deactivated", "reactivated", "deactivated", "signed_out"]


def test_a_new_password_ends_sessions(office: Client, owner: User) -> None:
    browser = signed_in(owner)
    grant = Grant(owner.pk, None, browser.session.session_key)
    bad = post(office, "password", owner, new_password1=NEW_PASSWORD, new_password2="another")
    assert bad.status_code == 400 and not withdrawn([grant])
    post(office, "password", owner, new_password1=NEW_PASSWORD, new_password2=NEW_PASSWORD)
    owner.refresh_from_db()
    assert owner.check_password(NEW_PASSWORD) and withdrawn([grant]) == {grant} and kinds() == ["password_set"]


def test_signing_out_everywhere(office: Client, owner: User, teammate: User, admin: User) -> None:
    first, second, bystander = signed_in(owner), signed_in(owner), signed_in(teammate)
    token = issue_token(owner, "laptop")[0]
    page = post(office, "sign-out", owner)
    assert b"2 sessions ended" in page.content and token in ApiToken.objects.usable()
    assert [one.get("/account").status_code for one in (first, second, bystander)] == [302, 302, 200]
    page = post(office, "sign-out", owner, tokens="on")
    assert b"1 token revoked" in page.content and token not in ApiToken.objects.usable()
    elsewhere = signed_in(admin)
    assert post(office, "sign-out", admin).status_code == 200, "one's own session here goes on"
    assert elsewhere.get("/account").status_code == 302 and office.get("/people").status_code == 200


def test_a_token_is_revoked_on_its_owners_page_alone(office: Client, owner: User, teammate: User) -> None:
    token = issue_token(owner, "laptop")[0]
    for wrong in (str(token.pk + 1), "x", "", "9" * 30):
        post(office, "token-revoke", owner, token=wrong)
    post(office, "token-revoke", teammate, token=str(token.pk))
    assert token in ApiToken.objects.usable()
    post(office, "token-revoke", owner, token=str(token.pk))
    assert token not in ApiToken.objects.usable()
    assert [(event.kind, event.told) for event in AccountEvent.objects.all()] == [("token_revoked", "laptop")]


def test_deleting_says_what_goes_and_needs_the_name(office: Client, owner: User) -> None:
    Conversation.objects.bulk_create(Conversation(user=owner, title="t") for _ in range(3))
    issue_token(owner, "laptop")
    grant = Grant(owner.pk, None, signed_in(owner).session.session_key)
    page = office.get(f"/people/{owner.pk}").content.decode()
    assert "conversations: 3" in page and "API tokens: 1" in page and "account events" not in page
    assert b"note-bad" in post(office, "delete", owner, confirm="Owner").content
    assert User.objects.filter(pk=owner.pk).exists() and not withdrawn([grant])
    assert post(office, "delete", owner, confirm="owner").status_code == 200
    assert not User.objects.filter(pk=owner.pk).exists() and not Conversation.objects.exists()
    assert withdrawn([grant]) == {grant}
    event = AccountEvent.objects.get()
    assert (event.kind, event.account, event.account_name, event.actor_name) == ("deleted", None, "owner", "admin")
    assert b"owner" in office.get("/people").content, "what happened is told after that"
    for name in ("role", "deactivate", "reactivate", "password", "link", "sign-out", "token-revoke", "delete"):
        assert post(office, name, owner, role="user", token="1").status_code == 404, name


def test_ones_own_new_password_is_remembered(owner: User) -> None:
    body = {"old_password": PASSWORD, "new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD}
    assert signed_in(owner).post("/account", body).status_code == 302
    assert [(event.kind, event.actor_name) for event in AccountEvent.objects.all()] == [("password_changed", "owner")]


def names_on(page: Any) -> list[str]:
    return re.findall(r'data-testid="person-row" data-name="([^"]+)"', page.content.decode())


def test_the_list_is_searched_narrowed_sorted_and_paged(
    office: Client, owner: User, operator: User, django_assert_max_num_queries: Any
) -> None:
    User.objects.bulk_create(User(username=f"p{number:03}", password="!") for number in range(60))
    User.objects.filter(username="p007").update(is_active=False, email="bond@example.org")
    token = issue_token(owner, "laptop")[0]
    token.touch()
    with django_assert_max_num_queries(8):
        page = office.get("/people")
    assert names_on(page)[:3] == ["admin", "operator", "owner"] and len(names_on(page)) == 50
    assert len(names_on(office.get("/people?page=2"))) == 13 == len(names_on(office.get("/people?page=99")))
    for query, wanted in {
        "show=admin": ["admin"],
        "show=operator": ["operator"],
        "show=inactive": ["p007"],
        "search=BOND@": ["p007"],
        "search=p00+7": ["p007"],
        "search=nobody": [],
        "show=user&search=owner": ["owner"],
        "ordering=-seen&search=er": ["owner", "operator"],
        "ordering=-tokens&search=er": ["owner", "operator"],
        "ordering=-role&show=nonsense&search=ad": ["admin"],
        "search=%00": names_on(page),
    }.items():
        assert names_on(office.get(f"/people?{query}")) == wanted, query
    assert set(names_on(office.get("/people?ordering=-seen"))[:2]) == {"admin", "owner"}


def test_who_may_not(owner: User, operator: User) -> None:
    for user in (owner, operator):
        page = signed_in(user).get("/people")
        assert page.status_code == 403 and b"administrator account" in page.content
        assert b'href="/people"' not in signed_in(user).get("/account").content


def test_the_administration_leaves_access_to_these_pages(office: Client, owner: User, admin: User) -> None:
    there = f"/admin/auth/user/{owner.pk}"
    body = {"username": "owner", "first_name": "Ann", "is_superuser": "on", "is_staff": "on", "is_active": ""}
    assert office.post(f"{there}/change/", body).status_code == 302
    owner.refresh_from_db()
    assert (owner.first_name, owner.is_superuser, owner.is_staff, owner.is_active) == ("Ann", False, False, True)
    assert office.get("/admin/auth/user/add/").status_code == 403
    assert office.post(f"{there}/delete/", {"post": "yes"}).status_code == 403
    assert office.get(f"{there}/password/").headers["Location"] == f"/people/{owner.pk}"
    assert office.get("/admin/password_change/").headers["Location"] == "/account"
    people.set_role(admin, owner.pk, Role.OPERATOR)
    assert office.get("/admin/accounts/accountevent/").status_code == 200
