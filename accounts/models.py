"""API tokens, the counters that slow password guessing down, and what administrators did to accounts."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from common.database import dispensable

TOKEN_START = "lp_"  # noqa: S105  (what every token starts with, so that secret scanners can find it)
SHOWN = 10  # characters of the token that lists show
LAST_USED_EVERY = timedelta(minutes=1)


class Scope(models.TextChoices):
    """What a token may do on top of reading: the owner's own rights are the upper bound."""

    INFER = "infer", _("send prompts to models")
    OPERATE = "operate", _("scan, activate and delete adapters")


class Role(models.TextChoices):
    """What an account may do: Django's flags `is_staff` and `is_superuser` under the portal's names."""

    USER = "user", _("User")
    OPERATOR = "operator", _("Operator")
    ADMIN = "admin", _("Administrator")

    @classmethod
    def of(cls, user: Any) -> Role:
        if user.is_superuser:
            return cls.ADMIN
        return cls.OPERATOR if user.is_staff else cls.USER


def new_secret() -> str:
    """A token with 256 random bits."""
    return TOKEN_START + secrets.token_urlsafe(32)


def digest_of(secret: str) -> str:
    """The form in which a token is stored. A plain hash suffices: 256 random bits cannot be guessed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class ApiTokenQuerySet(models.QuerySet["ApiToken"]):
    def unended(self) -> ApiTokenQuerySet:
        """Neither revoked nor expired: usable as soon as the account is active."""
        in_time = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
        return self.filter(in_time, revoked_at=None)

    def usable(self) -> ApiTokenQuerySet:
        """Neither revoked nor expired, of an account that may sign in."""
        return self.unended().filter(user__is_active=True)

    def for_user(self, user: Any) -> ApiTokenQuerySet:
        return self.filter(user=user)


class ApiToken(models.Model):
    """A key to the API. Only its SHA-256 is kept; the token itself is shown once, when it is issued."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="api_tokens", verbose_name=_("user")
    )
    name = models.CharField(_("name"), max_length=100)
    prefix = models.CharField(_("prefix"), max_length=16, editable=False)
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
        with dispensable():
            ApiToken.objects.filter(stale, pk=self.pk).update(last_used_at=now)
        self.last_used_at = now


class SignInCounter(models.Model):
    """Attempts to sign in within one window: of an address, an account name, both together, a browser (`throttle.py`).

    An account name's row also holds what its owner is told: the failures since they last signed in.
    """

    key = models.CharField(max_length=64, unique=True)  # SHA-256 of kind and value: no names are kept
    started_at = models.DateTimeField(db_index=True)
    attempts = models.PositiveIntegerField(default=0)
    next_at = models.DateTimeField(default=timezone.now)  # the next attempt is possible then
    failures = models.PositiveIntegerField(default=0)
    failed_at = models.DateTimeField(null=True)
    address = models.CharField(max_length=45, default="")  # of the last failure

    class Meta:
        verbose_name = _("sign-in counter")
        verbose_name_plural = _("sign-in counters")

    def __str__(self) -> str:
        return f"{self.attempts} since {self.started_at:%Y-%m-%d %H:%M}"


class AccountEventKind(models.TextChoices):
    CREATED = "created", _("account created")
    ROLE = "role", _("role changed")
    DEACTIVATED = "deactivated", _("account deactivated")
    REACTIVATED = "reactivated", _("account reactivated")
    PASSWORD_SET = "password_set", _("password set by an administrator")  # noqa: S105
    PASSWORD_CHANGED = "password_changed", _("password changed")  # noqa: S105  (by its owner)
    LINK_MADE = "link_made", _("link to set a password created")
    LINK_USED = "link_used", _("password set with the link")
    SIGNED_OUT = "signed_out", _("signed out everywhere")
    TOKEN_REVOKED = "token_revoked", _("API token revoked")  # noqa: S105
    DELETED = "deleted", _("account deleted")


class AccountEvent(models.Model):
    """Who did what to an account, and when. Outlives both accounts: the names are copies.

    `details`: `from` and `to` (values of `Role`) of a changed role, `to` of a new account, `name` of a token.
    """

    kind = models.CharField(_("event type"), max_length=32, choices=AccountEventKind.choices)
    account = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="account_events"
    )
    account_name = models.CharField(_("account"), max_length=150)
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+")
    actor_name = models.CharField(_("performed by"), max_length=150, blank=True, default="")
    details = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(_("time"), auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = _("account event")
        verbose_name_plural = _("account events")

    def __str__(self) -> str:
        return f"{self.kind} {self.account_name}"

    @property
    @admin.display(description=_("details"))
    def told(self) -> str:
        """What the kind leaves open, in the reader's language; "" where it says all."""
        given = self.details
        if self.kind == AccountEventKind.ROLE:
            return f"{Role(given['from']).label} → {Role(given['to']).label}"
        return str(Role(given["to"]).label) if "to" in given else str(given.get("name", ""))
