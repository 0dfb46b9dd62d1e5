"""Who asked how much: daily usage for people to read, and the counters that limits rest on."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _


class UsageDay(models.Model):
    """What one account, through one token or its sessions, asked of one model on one day (UTC)."""

    day = models.DateField(_("day"))
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="usage_days", verbose_name=_("user")
    )
    token_ref = models.BigIntegerField(_("token"), default=0)  # id of the API token; 0: signed in
    model = models.CharField(_("model"), max_length=128)
    digest = models.CharField(_("digest"), max_length=64)
    requests = models.BigIntegerField(_("requests"), default=0)
    prompt_tokens = models.BigIntegerField(_("prompt tokens"), default=0)
    completion_tokens = models.BigIntegerField(_("completion tokens"), default=0)
    cached_tokens = models.BigIntegerField(_("cached tokens"), default=0)

    class Meta:
        ordering = ["-day", "model", "id"]
        verbose_name = _("usage of a day")
        verbose_name_plural = _("usage by day")
        constraints = [
            models.UniqueConstraint(fields=["user", "day", "token_ref", "model", "digest"], name="one_usage_row")
        ]

    def __str__(self) -> str:
        return f"{self.day} {self.model}"


class Meter(models.Model):
    """Requests of the running minute and tokens of the running day of one subject (`user:1`, `token:5`)."""

    key = models.CharField(max_length=40, unique=True)
    minute_start = models.DateTimeField()
    minute_requests = models.BigIntegerField(default=0)
    day = models.DateField()
    day_tokens = models.BigIntegerField(default=0)  # used and reserved

    class Meta:
        verbose_name = _("meter")
        verbose_name_plural = _("meters")

    def __str__(self) -> str:
        return self.key


class Slot(models.Model):
    """The right to one answer at a time; a subject has as many as its limit.

    Free once `expires_at` has passed, or where `process` can be seen to be gone.
    """

    key = models.CharField(max_length=40)
    number = models.PositiveIntegerField()
    holder = models.CharField(max_length=32, blank=True, default="", db_index=True)
    process = models.CharField(max_length=255, blank=True, default="")  # see adapters/processes.py
    expires_at = models.DateTimeField()

    class Meta:
        verbose_name = _("slot")
        verbose_name_plural = _("slots")
        constraints = [models.UniqueConstraint(fields=["key", "number"], name="one_slot_row")]

    def __str__(self) -> str:
        return f"{self.key} #{self.number}"


class Reservation(models.Model):
    """Tokens of a day that a running request may use, until what it used is written; given back like a slot."""

    key = models.CharField(max_length=40)  # of the meter
    holder = models.CharField(max_length=32)
    process = models.CharField(max_length=255)
    day = models.DateField()
    tokens = models.BigIntegerField()
    expires_at = models.DateTimeField()

    class Meta:
        verbose_name = _("reservation")
        verbose_name_plural = _("reservations")
        constraints = [models.UniqueConstraint(fields=["holder", "key"], name="one_reservation_row")]

    def __str__(self) -> str:
        return f"{self.key} {self.tokens}"


class LoadTime(models.Model):
    """Seconds that the engine's start, a base or an adapter on it took; the newest few of each.

    See `estimates/load_times.py`.
    """

    kind = models.CharField(max_length=16)  # start, base or adapter
    key = models.CharField(max_length=64, blank=True, default="")  # the base's
    seconds = models.FloatField()

    class Meta:
        verbose_name = _("load time")
        verbose_name_plural = _("load times")
        indexes = [models.Index(fields=["kind", "key"], name="load_time_of")]

    def __str__(self) -> str:
        return f"{self.kind} {self.seconds:.1f} s"
