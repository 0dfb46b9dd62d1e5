"""Forms that ask for a password, and count how often."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm
from django.core.exceptions import ValidationError
from django.utils.translation import ngettext

from . import browsers, throttle

TOO_MANY = "too_many_attempts"


class Counted:
    """`retry_after`: seconds, where an attempt was refused."""

    retry_after: int | None = None

    @contextmanager
    def counted(self) -> Iterator[None]:
        try:
            yield
        except throttle.TooManyAttemptsError as refusal:
            self.retry_after = refusal.retry_after
            raise ValidationError(wait_sentence(refusal.retry_after), TOO_MANY) from None


class SignInForm(Counted, AuthenticationForm):
    """`failures`: what others tried since the owner's last time, once the password was right."""

    failures: throttle.Failures | None = None

    def clean(self) -> dict[str, Any]:
        username = self.cleaned_data.get("username")
        if self.request is None or not username or not self.cleaned_data.get("password"):
            return super().clean()
        with self.counted():
            address, browser = throttle.client_address(self.request), browsers.known(self.request, username)
            attempt = throttle.Attempt(username, address, browser)
        try:
            cleaned = super().clean()
        except ValidationError:
            attempt.failed()
            raise
        self.failures = attempt.succeeded()
        return cleaned


class NewPasswordForm(Counted, PasswordChangeForm):  # type: ignore[type-arg]
    """Whoever finds an open session must not find out the password with it."""

    def clean_old_password(self) -> str:
        keys = [("change", throttle.key_of("change", str(self.user.pk)))]
        with self.counted():
            throttle.book(keys)
        old: str = super().clean_old_password()
        throttle.forget(keys)
        return old


def wait_sentence(seconds: int) -> str:
    if seconds < 60:
        text = ngettext(
            "Too many attempts. Try again in %(seconds)d second.",
            "Too many attempts. Try again in %(seconds)d seconds.",
            seconds,
        )
        return text % {"seconds": seconds}
    minutes = math.ceil(seconds / 60)
    text = ngettext(
        "Too many attempts. Try again in %(minutes)d minute.",
        "Too many attempts. Try again in %(minutes)d minutes.",
        minutes,
    )
    return text % {"minutes": minutes}
