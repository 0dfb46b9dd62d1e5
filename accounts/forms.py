"""Sign-in forms that count attempts."""

from __future__ import annotations

import math
from typing import Any

from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.forms import AuthenticationForm
from django.core.exceptions import ValidationError
from django.utils.translation import ngettext

from . import throttle

TOO_MANY = "too_many_attempts"


class ThrottledForm(AuthenticationForm):
    retry_after: int | None = None

    def clean(self) -> dict[str, Any]:
        username = self.cleaned_data.get("username")
        if not username or not self.cleaned_data.get("password"):
            return super().clean()
        address = throttle.client_address(self.request) if self.request else ""
        try:
            throttle.book(username, address)
        except throttle.TooManyAttemptsError as refusal:
            self.retry_after = refusal.retry_after
            minutes = math.ceil(refusal.retry_after / 60)
            message = ngettext(
                "Too many attempts. Try again in %(minutes)d minute.",
                "Too many attempts. Try again in %(minutes)d minutes.",
                minutes,
            )
            raise ValidationError(message % {"minutes": minutes}, TOO_MANY) from None
        cleaned = super().clean()
        throttle.succeeded(username, address)
        return cleaned


class ThrottledAdminForm(AdminAuthenticationForm, ThrottledForm):
    """The admin's own sign-in page is the same door."""
