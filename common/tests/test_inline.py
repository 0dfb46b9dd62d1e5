"""What every request passes makes no threads wait for each other."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import SyncToAsync, sync_to_async
from django.contrib.auth.models import User
from django.test import AsyncClient, Client

from accounts.tokens import issue_token

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is given to a thread while a request is answered."""
    given: list[str] = []
    real = SyncToAsync.__call__

    async def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        given.append(getattr(self.func, "__qualname__", repr(self.func)))
        return await real(self, *args, **kwargs)

    monkeypatch.setattr(SyncToAsync, "__call__", counted)
    return given


async def test_a_request_that_asks_no_database_asks_no_thread(async_client: AsyncClient, threads: list[str]) -> None:
    response = await async_client.get("/healthz", headers={"Accept-Language": "zh-hans", "Accept-Encoding": "gzip"})
    assert response.json() == {"status": "ok"}
    assert response.headers["X-Frame-Options"] == "DENY" and response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Language"] == "zh-hans"
    assert [name for name in threads if ".process_" in name] == [], "beside Django's signals and the answer's end"


async def test_what_is_kept_for_a_person_is_kept_as_ever(owner: User, settings: Any) -> None:
    """Sessions, their messages and the CSRF token, which wait for the database or the body."""
    token, _secret = await sync_to_async(issue_token)(owner, "old one")
    strict = AsyncClient(enforce_csrf_checks=True)
    await strict.aforce_login(owner)
    page = await strict.get("/tokens")
    assert page.status_code == 200 and "has been revoked" not in page.content.decode()
    sent = {"csrfmiddlewaretoken": strict.cookies[settings.CSRF_COOKIE_NAME].value}
    revoke = f"/tokens/{token.pk}/revoke"
    assert (await strict.post(revoke)).status_code == 403
    assert (await strict.post(revoke, sent)).status_code == 302
    told = [(await strict.get("/tokens")).content.decode().count("has been revoked") for _ in range(2)]
    assert told == [1, 0]
    assert (await strict.post("/logout", sent)).status_code == 302
    assert (await strict.get("/tokens")).status_code == 302


def test_the_same_over_wsgi(client: Client, owner: User) -> None:
    client.force_login(owner)
    assert client.get("/tokens").status_code == 200
    assert Client(enforce_csrf_checks=True).post("/login", {}).status_code == 403
