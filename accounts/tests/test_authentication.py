from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import AsyncClient, Client
from django.urls import reverse
from rest_framework.test import APIClient

from accounts.models import ApiToken
from accounts.tokens import issue_token, revoke

pytestmark = pytest.mark.urls("accounts.tests.urls")
Make = Callable[..., APIClient]


def test_bearer(api: Make, owner: User) -> None:
    answer = api(owner).get("/api/who")
    assert answer.status_code == 200 and answer.json() == {"user": "owner", "token": "test"}
    assert api(owner).post("/api/who/", {}, format="json").status_code == 200, "no CSRF for tokens"


def test_nobody_hears_401_and_how(api: Make, db: None) -> None:
    answer = api().get("/api/who")
    assert answer.status_code == 401 and answer.json()["error"]["code"] == "not_authenticated"
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer ", "Bearer lp_wrong", "bearer x y", "Bearer \xff", "Bearer " + "a" * 10_000]
)
def test_bad_tokens(owner: User, header: str) -> None:
    client = APIClient()
    client.force_login(owner)
    answer = client.get("/api/who", HTTP_AUTHORIZATION=header)
    assert answer.status_code == 401, "a bad token is refused although the session would do"
    assert answer.json()["error"]["code"] == "invalid_token"


def test_token_beats_the_cookie(browser_of: Make, token_for: Callable[..., str], owner: User, teammate: User) -> None:
    client = browser_of(owner)
    header: dict[str, Any] = {"HTTP_AUTHORIZATION": f"Bearer {token_for(teammate)}"}
    assert client.get("/api/who", **header).json()["user"] == "teammate"
    assert client.post("/api/who", {}, format="json", **header).status_code == 200
    assert client.get("/api/who", HTTP_AUTHORIZATION="Bearer lp_unknown").status_code == 401


def test_session_needs_csrf(browser_of: Make, owner: User) -> None:
    client = browser_of(owner)
    assert client.get("/api/who").json() == {"user": "owner", "token": None}
    assert client.post("/api/who", {}, format="json").status_code == 403


def test_another_scheme_is_not_ours(browser_of: Make, owner: User) -> None:
    """A proxy may ask for Basic credentials of its own; the browser then sends them with every request."""
    assert browser_of(owner).get("/api/who", HTTP_AUTHORIZATION="Basic eDp5").json()["user"] == "owner"


def test_revoked_and_expired(owner: User) -> None:
    for end in ("revoke", "expire"):
        token, secret = issue_token(owner)
        client = APIClient()
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
        assert client.get("/api/who").status_code == 200
        if end == "revoke":
            revoke(token)
        else:
            ApiToken.objects.filter(pk=token.pk).update(expires_at=token.created_at)
        assert client.get("/api/who").status_code == 401


@pytest.mark.django_db(transaction=True)
async def test_async_views_know_tokens_too(db: None) -> None:
    user = await User.objects.acreate(username="owner")
    from asgiref.sync import sync_to_async

    _token, secret = await sync_to_async(issue_token)(user)
    client = AsyncClient()
    good = await client.get("/api/who-async", headers={"authorization": f"Bearer {secret}"})
    assert good.json() == {"user": "owner"}
    bad = await client.get("/api/who-async", headers={"authorization": "Bearer lp_no"})
    assert bad.status_code == 401 and bad.json()["error"]["code"] == "invalid_token"


def test_operate_needs_role_and_scope(api: Make, owner: User, operator: User, browser_of: Make) -> None:
    assert api().get("/api/operate").status_code == 401
    assert api(owner).get("/api/operate").status_code == 403
    assert api(operator, "infer").get("/api/operate").status_code == 403
    assert api(operator, "operate").get("/api/operate").status_code == 200
    assert browser_of(operator).get("/api/operate").status_code == 200
    client = api(operator)
    User.objects.filter(pk=operator.pk).update(is_staff=False)
    assert client.get("/api/operate").status_code == 403, "a former operator's token lost the right"


def test_infer_scope(api: Make, owner: User, operator: User) -> None:
    assert api(owner).get("/api/infer").status_code == 200
    assert api(operator, "operate").get("/api/infer").status_code == 403


@pytest.mark.parametrize("address", ["/page", "/async-page"])
def test_operators_pages(client: Client, owner: User, operator: User, address: str) -> None:
    visitor = client.get(address)
    assert visitor.status_code == 302 and visitor.headers["Location"] == f"/login?next={address}"
    client.force_login(owner)
    assert client.get(address).status_code == 403
    client.force_login(operator)
    assert client.get(address).content == b"operators only"


def test_both_spellings(api: Make, owner: User) -> None:
    assert reverse("who") == "/api/who"
    client = api(owner)
    assert client.get("/api/who").content == client.get("/api/who/").content
