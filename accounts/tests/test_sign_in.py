from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.utils import timezone

from accounts import throttle
from accounts.models import SignInCounter
from tests.fixtures.people import PASSWORD

pytestmark = pytest.mark.urls("accounts.tests.urls")


@pytest.fixture(autouse=True)
def plain_login_page(settings: Any) -> None:
    """The page itself is tested with the pages; here the form is what counts."""
    loaders: list[Any] = [("django.template.loaders.locmem.Loader", {"accounts/login.html": "{{ form.errors }}"})]
    loaders += ["django.template.loaders.app_directories.Loader"]
    template = settings.TEMPLATES[0]
    options = {**template["OPTIONS"], "loaders": loaders}
    settings.TEMPLATES = [{**template, "APP_DIRS": False, "DIRS": [], "OPTIONS": options}]


def attempt(username: str, password: str, address: str = "192.0.2.1", where: str = "/login") -> Any:
    data = {"username": username, "password": password}
    return Client(REMOTE_ADDR=address).post(where, data)


def test_in_and_out(owner: User) -> None:
    client = Client()
    assert client.post("/login", {"username": "owner", "password": PASSWORD}).headers["Location"] == "/models"
    assert client.session["_auth_user_id"] == str(owner.pk)
    assert client.post("/logout").status_code == 302
    assert "_auth_user_id" not in client.session
    assert client.get("/logout").status_code == 405, "a link elsewhere cannot sign anybody out"


def test_next_stays_on_this_site(owner: User) -> None:
    credentials = {"username": "owner", "password": PASSWORD}
    assert Client().post("/login?next=/page", credentials).headers["Location"] == "/page"
    for evil in ("https://evil.example/", "//evil.example/", "javascript:alert(1)"):
        assert Client().post("/login", {**credentials, "next": evil}).headers["Location"] == "/models"


def test_account_limit_holds_from_many_addresses(owner: User) -> None:
    for number in range(throttle.LIMITS["account"]):
        assert attempt("owner", "wrong", f"192.0.2.{number}").status_code == 200
    refused = attempt("OWNER ", PASSWORD, "192.0.2.200")
    assert refused.status_code == 429 and 0 < int(refused.headers["Retry-After"]) <= 900
    assert b"Too many attempts" in refused.content


def test_address_limit_holds_over_many_accounts(db: None) -> None:
    limit = throttle.LIMITS["address"]
    codes = [attempt(f"user{number}", "wrong").status_code for number in range(limit + 3)]
    assert codes == [200] * limit + [429] * 3
    assert attempt("user1", "wrong", "192.0.2.2").status_code == 200


def test_neighbours_in_one_ipv6_network_share_a_counter() -> None:
    one, other, far = (throttle.address_key(f"2001:db8:0:{net}::{host}") for net, host in ((1, 1), (1, 2), (2, 1)))
    assert one == other != far
    assert throttle.address_key("::ffff:192.0.2.1") == throttle.address_key("192.0.2.1")


def test_address_behind_a_proxy(rf: Any, settings: Any) -> None:
    request = rf.get("/", REMOTE_ADDR="192.0.2.9", HTTP_X_FORWARDED_FOR="203.0.113.1, 198.51.100.7")
    assert throttle.client_address(request) == "192.0.2.9", "anybody can send that header"
    settings.HTTPS = True
    assert throttle.client_address(request) == "198.51.100.7", "what the proxy saw, not what the client claimed"
    assert throttle.client_address(rf.get("/", REMOTE_ADDR="192.0.2.9")) == "192.0.2.9"


def test_success_clears_the_account_but_buys_no_guesses(owner: User) -> None:
    for _ in range(5):
        attempt("owner", "wrong")
    attempt("owner", PASSWORD)
    assert not SignInCounter.objects.filter(key=throttle.account_key("owner")).exists()
    assert SignInCounter.objects.get(key=throttle.address_key("192.0.2.1")).attempts == 5


def test_window_passes(owner: User) -> None:
    for _ in range(throttle.LIMITS["account"]):
        attempt("owner", "wrong")
    assert attempt("owner", PASSWORD).status_code == 429
    SignInCounter.objects.update(started_at=timezone.now() - throttle.WINDOW - timedelta(seconds=1))
    assert attempt("owner", PASSWORD).status_code == 302


def test_admins_door_is_the_same(admin: User) -> None:
    for _ in range(throttle.LIMITS["account"]):
        attempt("admin", "wrong", where="/admin/login/")
    answer = attempt("admin", PASSWORD, where="/admin/login/")
    assert answer.status_code == 200 and b"Too many attempts" in answer.content
    assert attempt("admin", PASSWORD).status_code == 429


@pytest.mark.django_db(transaction=True)
def test_parallel_guesses_do_not_slip_past() -> None:
    get_user_model().objects.create_user("owner", password=PASSWORD)
    looked_at: list[str] = []

    def guess(number: int) -> int:
        try:
            return int(attempt("owner", f"wrong{number}", f"192.0.2.{number}").status_code)
        finally:
            connection.close()

    def note(request: Any, username: str, password: str) -> None:
        looked_at.append(password)

    with (
        patch("django.contrib.auth.forms.authenticate", side_effect=note),
        ThreadPoolExecutor(12) as pool,
    ):
        codes = list(pool.map(guess, range(40)))
    assert codes.count(200) == len(looked_at) == throttle.LIMITS["account"]
    assert codes.count(429) == 40 - throttle.LIMITS["account"]
