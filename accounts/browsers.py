"""Browsers that an account has signed in with before: those are let in whatever others guess (see `throttle.py`).

A signed cookie holds for each account the browser's random id and a mark of the account's password, so that a new
password makes all browsers unknown. It proves nothing else: nobody is signed in by it.
"""

from __future__ import annotations

import secrets
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core import signing
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.crypto import constant_time_compare, salted_hmac

AGE = 365 * 24 * 3600  # seconds, from the last time that one signed in
ACCOUNTS = 5  # of one browser, the latest first: a cookie is sent with every request
SALT = "accounts.browsers"

Entry = tuple[int, str, str]  # account, the browser's id, mark of the password


def cookie_name() -> str:
    """As the other cookies' names: portals on one host differ, those behind one proxy do not."""
    return f"loraportal_browser_{settings.SITE_NAME}"


def known(request: HttpRequest, username: str) -> str | None:
    """The id of a browser that has signed in to this account since its password was set.

    The account is looked up only for a cookie of ours, so that strangers cannot measure whether it exists.
    """
    entries = _entries(request)
    if not entries:
        return None
    user = get_user_model()._default_manager.filter(username=username).first()
    return _id_of(entries, user) if user else None


def remember(request: HttpRequest, response: HttpResponseBase, user: Any) -> None:
    entries = _entries(request)
    browser = _id_of(entries, user) or secrets.token_urlsafe(12)
    others = [entry for entry in entries if entry[0] != user.pk]
    value = signing.dumps([(user.pk, browser, _mark(user)), *others[: ACCOUNTS - 1]], salt=SALT, compress=True)
    response.set_cookie(cookie_name(), value, AGE, secure=settings.HTTPS, httponly=True, samesite="Lax")


def _entries(request: HttpRequest) -> list[Entry]:
    try:
        return list(signing.loads(request.COOKIES.get(cookie_name(), ""), salt=SALT, max_age=AGE))
    except signing.BadSignature:
        return []


def _id_of(entries: list[Entry], user: Any) -> str | None:
    mark = _mark(user)
    return next(
        (browser for pk, browser, given in entries if pk == user.pk and constant_time_compare(given, mark)), None
    )


def _mark(user: Any) -> str:
    return salted_hmac(SALT, user.password, algorithm="sha256").hexdigest()[:32]
