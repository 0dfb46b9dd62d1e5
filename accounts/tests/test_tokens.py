from __future__ import annotations

import io
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from accounts.models import ApiToken, digest_of
from accounts.signals import token_revoked
from accounts.tokens import find_usable, issue_token, revoke, still_usable


def test_only_the_hash_is_kept(owner: User) -> None:
    token, secret = issue_token(owner, "laptop")
    token.refresh_from_db()
    assert secret.startswith("lp_") and len(secret) == 46
    assert token.digest == digest_of(secret) and secret.startswith(token.prefix)
    assert all(secret not in str(value) for value in ApiToken.objects.values().get(pk=token.pk).values())
    assert issue_token(owner)[1] != secret


def test_secret_and_token_stay_out_of_the_log(owner: User, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    token, secret = issue_token(owner, "laptop")
    revoke(token)
    assert "issued" in caplog.text and "revoked" in caplog.text
    assert secret not in caplog.text and token.digest not in caplog.text


def test_found_until_revoked(owner: User) -> None:
    token, secret = issue_token(owner)
    heard: list[Any] = []

    def listen(token: ApiToken, **_kwargs: Any) -> None:
        heard.append(token.pk)

    token_revoked.connect(listen)
    found = find_usable(secret)
    assert found is not None and found.user == owner and still_usable(found)
    assert revoke(token) is True
    assert revoke(token) is False
    assert find_usable(secret) is None and not still_usable(found)
    assert token.state == "revoked" and heard == [token.pk]
    token_revoked.disconnect(listen)


def test_expiry(owner: User) -> None:
    token, secret = issue_token(owner, days=1)
    assert find_usable(secret) is not None
    ApiToken.objects.filter(pk=token.pk).update(expires_at=timezone.now())
    token.refresh_from_db()
    assert find_usable(secret) is None and token.state == "expired"


def test_switched_off_account(owner: User) -> None:
    _token, secret = issue_token(owner)
    User.objects.filter(pk=owner.pk).update(is_active=False)
    assert find_usable(secret) is None


@pytest.mark.parametrize("secret", ["", "lp_", "x" * 1_000_000, "lp_\udcff", "a b", "\x00"])
def test_odd_secrets(db: None, secret: str) -> None:
    assert find_usable(secret) is None


def test_use_is_noted_at_most_once_a_minute(owner: User, django_assert_num_queries: Callable[..., Any]) -> None:
    token, secret = issue_token(owner)
    find_usable(secret)
    token.refresh_from_db()
    first = token.last_used_at
    assert first is not None
    with django_assert_num_queries(1):
        find_usable(secret)
    ApiToken.objects.filter(pk=token.pk).update(last_used_at=first - timedelta(minutes=2))
    find_usable(secret)
    token.refresh_from_db()
    assert token.last_used_at is not None and token.last_used_at >= first


def test_scopes_follow_the_role(owner: User, operator: User) -> None:
    assert issue_token(owner)[0].scope_list == ["infer"]
    assert issue_token(operator)[0].scope_list == ["infer", "operate"]
    assert issue_token(operator, scopes=["infer"])[0].scope_list == ["infer"]
    with pytest.raises(ValidationError, match="operators"):
        issue_token(owner, scopes=["operate"])
    for wrong in (["everything"], []):
        with pytest.raises(ValidationError):
            issue_token(operator, scopes=wrong)
    for days in (0, -1, 10**6):
        with pytest.raises(ValidationError):
            issue_token(owner, days=days)
    for name in ("x" * 101, "a\nb", "a\x1b[31m"):
        with pytest.raises(ValidationError):
            issue_token(owner, name)


def test_command_prints_the_token_and_nothing_else(operator: User) -> None:
    out = io.StringIO()
    call_command("issue_token", "operator", "--name", "ci", "--days", "7", stdout=out)
    secret = out.getvalue().strip()
    assert "\n" not in secret
    token = find_usable(secret)
    assert token is not None and token.name == "ci" and token.has_scope("operate") and token.expires_at is not None
    call_command("issue_token", "operator", "--scope", "infer", stdout=(narrow := io.StringIO()))
    found = find_usable(narrow.getvalue().strip())
    assert found is not None and not found.has_scope("operate")


def test_command_refuses_in_a_sentence(owner: User) -> None:
    with pytest.raises(CommandError, match="no user 'nobody'"):
        call_command("issue_token", "nobody")
    with pytest.raises(CommandError, match="operators"):
        call_command("issue_token", "owner", "--scope", "operate")
    User.objects.filter(pk=owner.pk).update(is_active=False)
    with pytest.raises(CommandError, match="disabled"):
        call_command("issue_token", "owner")


def test_admin_is_made_and_told_once(db: None) -> None:
    out = io.StringIO()
    call_command("ensure_admin", stdout=out)
    words = out.getvalue().split()
    user = User.objects.get(is_superuser=True)
    assert user.username in words and user.check_password(words[-1])
    again = io.StringIO()
    call_command("ensure_admin", stdout=again)
    assert again.getvalue() == "" and User.objects.count() == 1


def test_admin_leaves_an_ordinary_account_of_that_name_alone(db: None) -> None:
    User.objects.create_user("admin")
    call_command("ensure_admin", stdout=io.StringIO())
    assert not User.objects.get(username="admin").is_superuser
    assert User.objects.filter(is_superuser=True, username__startswith="admin-").count() == 1


def test_a_reload_of_the_page_makes_no_other_token(client: Client, owner: User) -> None:
    client.force_login(owner)
    made = client.post("/tokens", {"name": "laptop", "scopes": ["infer"], "days": "30"})
    assert (made.status_code, made.headers["Location"]) == (302, "/tokens")
    cookie = made.cookies["made_token"]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["max-age"]) == (
        True,
        "Strict",
        "/tokens",
        60,
    )
    shown = client.get("/tokens").content.decode()
    secret = re.search(r'data-testid="token-secret">(lp_[\w-]{43})<', shown)
    assert secret and find_usable(secret[1]) == ApiToken.objects.get()
    again = client.get("/tokens").content.decode()
    assert secret[1] not in again and "token-secret" not in again
    assert ApiToken.objects.count() == 1


def test_nobody_is_shown_a_secret_that_is_not_theirs(client: Client, owner: User, teammate: User) -> None:
    client.force_login(owner)
    client.post("/tokens", {"name": "laptop", "scopes": ["infer"], "days": "30"})
    kept = client.cookies["made_token"].value
    client.force_login(teammate)
    client.cookies["made_token"] = kept
    assert "token-secret" not in client.get("/tokens").content.decode()
    client.cookies["made_token"] = "lp_forged"
    assert "token-secret" not in client.get("/tokens").content.decode()
