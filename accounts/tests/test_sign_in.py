from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import patch

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.translation import override

from accounts import browsers, throttle
from accounts.models import SignInCounter
from tests.fixtures.people import PASSWORD

PAGES = {"accounts/login.html": "{{ form.errors }}", "accounts/account.html": "{{ form.errors }}"}
pytestmark = pytest.mark.urls("accounts.tests.urls")


@pytest.fixture(autouse=True)
def plain_login_page(settings: Any) -> None:
    """The page itself is tested with the pages; here the form is what counts."""
    loaders: list[Any] = [("django.template.loaders.locmem.Loader", PAGES)]
    loaders += ["django.template.loaders.app_directories.Loader"]
    template = settings.TEMPLATES[0]
    options = {**template["OPTIONS"], "loaders": loaders}
    settings.TEMPLATES = [{**template, "APP_DIRS": False, "DIRS": [], "OPTIONS": options}]


def attempt(username: str, password: str, address: str = "192.0.2.1", browser: Client | None = None) -> Any:
    data = {"username": username, "password": password}
    return (browser or Client()).post("/login", data, REMOTE_ADDR=address)


def known_browser(username: str = "owner") -> Client:
    """One that has signed in to this account before, and has signed out."""
    browser = Client()
    assert attempt(username, PASSWORD, "203.0.113.1", browser).status_code == 302
    browser.post("/logout")
    return browser


class Clock:
    """The counters' time, which stands still until a test moves it."""

    def __init__(self) -> None:
        self.time = timezone.now()

    def now(self) -> datetime:
        return self.time

    def advance(self, **span: float) -> None:
        self.time += timedelta(**span)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throttle, "timezone", clock)
    return clock


def exhaust_the_name(username: str) -> None:
    for number in range(throttle.BOUNDS["name"].free):
        assert attempt(username, "wrong", f"198.51.{number}.1").status_code == 200


def delay_the_name(username: str) -> None:
    """As `exhaust_the_name`, without a hundred passwords."""
    now, free = throttle.timezone.now(), throttle.BOUNDS["name"].free
    counts = {"started_at": now, "attempts": free, "next_at": now + timedelta(seconds=1)}
    SignInCounter.objects.update_or_create(key=throttle.key_of("name", username), defaults=counts)


def messages_of(browser: Client) -> list[str]:
    """What the next page would show."""
    return [str(message) for message in get_messages(browser.get("/page").wsgi_request)]


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


def test_a_guesser_elsewhere_locks_nobody_out(owner: User) -> None:
    codes = [attempt("owner", "wrong", "192.0.2.66").status_code for _ in range(40)]
    assert codes == [200] * throttle.BOUNDS["pair"].free + [429] * (40 - throttle.BOUNDS["pair"].free)
    assert attempt("owner", PASSWORD, "192.0.2.66").status_code == 429, "also for the right password"
    assert attempt("owner", PASSWORD, "192.0.2.1").status_code == 302


def test_each_wait_is_twice_as_long_up_to_a_quarter_of_an_hour(owner: User, clock: Clock) -> None:
    waits: list[int] = []
    for number in range(throttle.BOUNDS["pair"].free + 12):
        clock.advance(seconds=waits[-1] if waits else 0)
        assert attempt("owner", "wrong").status_code == 200
        if number >= throttle.BOUNDS["pair"].free - 1:
            refused = attempt("OWNER ", PASSWORD)
            assert refused.status_code == 429 and b"Too many attempts" in refused.content
            waits.append(int(refused.headers["Retry-After"]))
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]
    clock.advance(days=1)
    assert attempt("owner", "wrong").status_code == 200, "a day later all is forgotten"


def test_an_address_is_bounded_over_many_names(db: None) -> None:
    free = throttle.BOUNDS["address"].free
    codes = [attempt(f"user{number}", "wrong").status_code for number in range(free + 3)]
    assert codes == [200] * free + [429] * 3
    assert attempt("user1", "wrong", "192.0.2.2").status_code == 200


def test_guessing_from_everywhere_delays_unknown_browsers_for_seconds_and_known_ones_never(
    owner: User, clock: Clock
) -> None:
    browser = known_browser()
    exhaust_the_name("owner")
    refused = attempt("owner", PASSWORD, "192.0.2.1")
    assert refused.status_code == 429 and int(refused.headers["Retry-After"]) <= throttle.BOUNDS["name"].longest
    assert attempt("owner", PASSWORD, "192.0.2.1", browser).status_code == 302
    clock.advance(seconds=throttle.BOUNDS["name"].longest)
    assert attempt("owner", PASSWORD, "192.0.2.1").status_code == 302


def test_a_known_browser_passes_its_own_address(owner: User) -> None:
    browser = known_browser()
    for _ in range(throttle.BOUNDS["pair"].free):
        attempt("owner", "wrong")
    assert attempt("owner", PASSWORD).status_code == 429
    assert attempt("owner", PASSWORD, browser=browser).status_code == 302


def test_a_known_browser_guesses_no_faster_than_others(owner: User) -> None:
    browser = known_browser()
    codes = [attempt("owner", "wrong", browser=browser).status_code for _ in range(40)]
    allowed = throttle.BOUNDS["browser"].free + throttle.BOUNDS["pair"].free
    assert codes == [200] * allowed + [429] * (40 - allowed)


def test_the_cookie_of_known_browsers(owner: User, teammate: User, settings: Any) -> None:
    settings.HTTPS = True
    browser = known_browser()
    cookie = browser.cookies[browsers.cookie_name()]
    assert cookie["httponly"] and cookie["samesite"] == "Lax" and cookie["secure"]
    assert "owner" not in cookie.value and owner.password not in cookie.value
    delay_the_name("owner")
    delay_the_name("teammate")
    assert attempt("teammate", PASSWORD, browser=browser).status_code == 429, "known to another account"
    forged = Client()
    forged.cookies[browsers.cookie_name()] = cookie.value[:-2] + "xx"
    assert attempt("owner", PASSWORD, browser=forged).status_code == 429
    owner.set_password("another long password")
    owner.save()
    assert attempt("owner", "another long password", browser=browser).status_code == 429, "a new password"


def test_a_browser_stays_known_to_several_accounts(owner: User, rf: Any) -> None:
    browser = known_browser()
    people = [User.objects.create_user(f"user{number}", password=PASSWORD) for number in range(browsers.ACCOUNTS)]
    known = []
    for person in people:
        attempt(person.username, PASSWORD, browser=browser)
        browser.post("/logout")
    request = rf.get("/")
    request.COOKIES = {browsers.cookie_name(): browser.cookies[browsers.cookie_name()].value}
    known = [browsers.known(request, name) is not None for name in ("owner", *(person.username for person in people))]
    assert known == [False] + [True] * browsers.ACCOUNTS, "the latest; the cookie stays small"


def test_a_changed_password_keeps_this_browser_known(owner: User) -> None:
    browser, other = known_browser(), known_browser()
    attempt("owner", PASSWORD, browser=browser)
    new = "another long password"
    data = {"old_password": PASSWORD, "new_password1": new, "new_password2": new}
    assert browser.post("/account", data).status_code == 302
    browser.post("/logout")
    delay_the_name("owner")
    assert attempt("owner", new, browser=other).status_code == 429
    assert attempt("owner", new, browser=browser).status_code == 302


@pytest.mark.parametrize(
    ("language", "told"),
    [
        ("en", r"3 failed sign-in attempts since your last sign-in, the latest on .+ from 192\.0\.2\.66\."),
        ("zh-hans", r"自你上次登录以来有 3 次登录失败，最近一次时间为 .+，来源：192\.0\.2\.66。"),
    ],
)
def test_the_owner_is_told(owner: User, language: str, told: str) -> None:
    first, second = (Client(HTTP_ACCEPT_LANGUAGE=language) for _ in range(2))
    for address in ("192.0.2.7", "192.0.2.7", "192.0.2.66"):
        attempt("owner", "wrong", address)
    with override("en"):  # a request leaves its language to the thread
        attempt("owner", PASSWORD, browser=first)
        (message,) = messages_of(first)
        assert re.fullmatch(told, message), message
        attempt("owner", PASSWORD, browser=second)
        assert not messages_of(second), "once"


def test_names_that_exist_cost_the_same_as_others(owner: User) -> None:
    def work(name: str) -> list[str]:
        with CaptureQueriesContext(connection) as queries:
            attempt(name, "wrong", "192.0.2.9")
        return [query["sql"].partition(" ")[0] for query in queries]

    attempt("somebody", "wrong", "192.0.2.9")  # the address has its row
    assert work("owner") == work("nobody")
    assert work("owner") == work("nobody"), "the second time as well"


def test_neighbours_in_one_ipv6_network_share_a_counter() -> None:
    one, other, far = (throttle.network(f"2001:db8:0:{net}::{host}") for net, host in ((1, 1), (1, 2), (2, 1)))
    assert one == other != far
    assert throttle.network("::ffff:192.0.2.1") == throttle.network("192.0.2.1")
    assert throttle.network("192.0.2.1:50123") == throttle.network("192.0.2.1"), "some proxies add the port"
    assert throttle.network("[2001:db8:0:1::1]:50123") == one


def test_address_behind_a_proxy(rf: Any, settings: Any) -> None:
    request = rf.get("/", REMOTE_ADDR="192.0.2.9", HTTP_X_FORWARDED_FOR="203.0.113.1, 198.51.100.7")
    assert throttle.client_address(request) == "192.0.2.9", "anybody can send that header"
    settings.HTTPS = True
    assert throttle.client_address(request) == "198.51.100.7", "what the proxy saw, not what the client claimed"
    assert throttle.client_address(rf.get("/", REMOTE_ADDR="192.0.2.9")) == "192.0.2.9"


def test_success_starts_afresh_but_buys_no_guesses(owner: User) -> None:
    for _ in range(4):
        attempt("owner", "wrong")
    attempt("owner", PASSWORD)
    assert SignInCounter.objects.get(key=throttle.key_of("address", "192.0.2.1")).attempts == 4
    assert not SignInCounter.objects.filter(key=throttle.key_of("pair", "192.0.2.1 owner")).exists()


def test_sign_ins_that_meet_do_not_refuse_each_other(owner: User, teammate: User, clock: Clock) -> None:
    """Two people behind one address: the second request looked at its clock before the first one was done."""
    assert attempt("owner", PASSWORD).status_code == 302
    clock.advance(seconds=-1)
    assert attempt("teammate", PASSWORD).status_code == 302
    assert attempt("owner", PASSWORD).status_code == 302


def test_counters_are_swept_and_bounded(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    now = timezone.now()

    def row(key: str, days: float, failures: int = 0) -> None:
        SignInCounter.objects.create(key=key, started_at=now - timedelta(days=days), failures=failures)

    row("counts no more", 2)
    row("to be told", 30, failures=1)
    row("never asked for", 91, failures=1)
    for number in range(5):
        row(f"fresh {number}", 0.001 * number)
    throttle.sweep(now)
    assert set(SignInCounter.objects.values_list("key", flat=True)) == {"to be told", *(f"fresh {n}" for n in range(5))}
    monkeypatch.setattr(throttle, "MOST_ROWS", 3)
    throttle.sweep(now)
    assert set(SignInCounter.objects.values_list("key", flat=True)) == {f"fresh {n}" for n in range(3)}
    monkeypatch.setattr(throttle, "SWEEP_EVERY", 1)
    attempt("owner", "wrong")
    assert SignInCounter.objects.count() <= 3, "new rows sweep by themselves"


def test_the_admin_has_the_same_door(owner: User, operator: User) -> None:
    there = "/admin/auth/user/"
    client = Client()
    door = client.get(there, follow=True)
    assert door.redirect_chain[-1][0] == f"/login?next={there}"
    assert client.post("/admin/login/", {"username": "operator", "password": PASSWORD}).status_code == 302
    assert "_auth_user_id" not in client.session, "no password is looked at there"
    data = {"username": "operator", "password": PASSWORD}
    assert client.post(door.redirect_chain[-1][0], data).headers["Location"] == there
    client.force_login(owner)
    assert client.get("/admin/", follow=True).status_code == 403


def test_an_open_session_does_not_find_out_the_password(owner: User, clock: Clock) -> None:
    client = Client()
    client.force_login(owner)
    new = "another long password"
    data = {"old_password": "wrong", "new_password1": new, "new_password2": new}
    codes = [client.post("/account", data).status_code for _ in range(7)]
    assert codes == [400] * throttle.BOUNDS["change"].free + [429] * (7 - throttle.BOUNDS["change"].free)
    assert client.post("/account", {**data, "old_password": PASSWORD}).headers["Retry-After"] == "1"
    clock.advance(seconds=1)
    assert client.post("/account", {**data, "old_password": PASSWORD}).status_code == 302


@pytest.mark.django_db(transaction=True)
def test_parallel_guesses_do_not_slip_past() -> None:
    get_user_model().objects.create_user("owner", password=PASSWORD)
    looked_at: list[str] = []

    def guess(number: int) -> int:
        try:
            return int(attempt("owner", f"wrong{number}").status_code)
        finally:
            connection.close()

    def note(request: Any, username: str, password: str) -> None:
        looked_at.append(password)

    with (
        patch("django.contrib.auth.forms.authenticate", side_effect=note),
        ThreadPoolExecutor(12) as pool,
    ):
        codes = list(pool.map(guess, range(40)))
    assert codes.count(200) == len(looked_at) == throttle.BOUNDS["pair"].free
    assert codes.count(429) == 40 - throttle.BOUNDS["pair"].free
