"""API tokens and the counters that slow password guessing down."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

TOKEN_START = "lp_"  # noqa: S105  (what every token starts with, so that secret scanners can find it)
SHOWN = 10  # characters of the token that lists show
LAST_USED_EVERY = timedelta(minutes=1)


class Scope(models.TextChoices):
    """What a token may do on top of reading: the owner's own rights are the upper bound."""

    INFER = "infer", _("ask models")
    OPERATE = "operate", _("scan, activate and delete adapters")


def new_secret() -> str:
    """A token with 256 random bits."""
    return TOKEN_START + secrets.token_urlsafe(32)


def digest_of(secret: str) -> str:
    """The form in which a token is stored. A plain hash suffices: 256 random bits cannot be guessed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class ApiTokenQuerySet(models.QuerySet["ApiToken"]):
    def usable(self) -> ApiTokenQuerySet:
        """Neither revoked nor expired, of an account that may sign in."""
        in_time = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
        return self.filter(in_time, revoked_at=None, user__is_active=True)

    def for_user(self, user: Any) -> ApiTokenQuerySet:
        return self.filter(user=user)


class ApiToken(models.Model):
    """A key to the API. Only its SHA-256 is kept; the token itself is shown once, when it is issued."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="api_tokens", verbose_name=_("user")
    )
    name = models.CharField(_("name"), max_length=100)
    prefix = models.CharField(_("starts with"), max_length=16, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    scopes = models.CharField(_("scopes"), max_length=100, default=Scope.INFER.value)  # words, as in RFC 6749
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)
    last_used_at = models.DateTimeField(_("last used"), null=True, blank=True, editable=False)
    revoked_at = models.DateTimeField(_("revoked"), null=True, blank=True, editable=False)

    objects = ApiTokenQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "-pk"]
        verbose_name = _("API token")
        verbose_name_plural = _("API tokens")

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    @property
    def scope_list(self) -> list[str]:
        return self.scopes.split()

    def has_scope(self, scope: str) -> bool:
        return scope in self.scope_list

    @property
    def state(self) -> str:
        """`usable`, `expired` or `revoked`, for lists."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= timezone.now():
            return "expired"
        return "usable"

    def touch(self) -> None:
        """Note the use, at most once a minute so that a busy token does not write with every request."""
        now = timezone.now()
        if self.last_used_at is not None and now - self.last_used_at < LAST_USED_EVERY:
            return
        stale = Q(last_used_at=None) | Q(last_used_at__lte=now - LAST_USED_EVERY)
        ApiToken.objects.filter(stale, pk=self.pk).update(last_used_at=now)
        self.last_used_at = now


class SignInCounter(models.Model):
    """Attempts to sign in within one window, of one account name or of one address (see `throttle.py`)."""

    key = models.CharField(max_length=64, unique=True)  # SHA-256 of kind and value: no names or addresses are kept
    started_at = models.DateTimeField()
    attempts = models.PositiveIntegerField(default=0)

    class Meta:
        verbose_name = _("sign-in counter")
        verbose_name_plural = _("sign-in counters")

    def __str__(self) -> str:
        return f"{self.attempts} since {self.started_at:%Y-%m-%d %H:%M}"
