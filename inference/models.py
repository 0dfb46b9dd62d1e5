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
        verbose_name = _("daily usage")
        verbose_name_plural = _("daily usage")
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
        verbose_name = _("quota counter")
        verbose_name_plural = _("quota counters")

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
        verbose_name = _("concurrency slot")
        verbose_name_plural = _("concurrency slots")
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
        verbose_name = _("token reservation")
        verbose_name_plural = _("token reservations")
        constraints = [models.UniqueConstraint(fields=["holder", "key"], name="one_reservation_row")]

    def __str__(self) -> str:
        return f"{self.key} {self.tokens}"


class AdapterUse(models.Model):
    """One process has requests running with a stored copy, see `uses.py`.

    Void once `expires_at` has passed, or where `process` can be seen to be gone.
    """

    digest = models.CharField(_("digest"), max_length=64)
    process = models.CharField(max_length=255)  # see adapters/processes.py
    expires_at = models.DateTimeField()

    class Meta:
        verbose_name = _("adapter in use")
        verbose_name_plural = _("adapters in use")
        constraints = [models.UniqueConstraint(fields=["digest", "process"], name="one_adapter_use_row")]

    def __str__(self) -> str:
        return f"{self.digest[:12]} {self.process}"


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


class Series(models.Model):
    """What one process measured of one subject from `start` on, for `step` seconds; 0: since the portal's beginning.

    Subjects by `kind`: "all" requests, those of one "model" (`name`: its slug) or one "user" (`name`: the id), and the
    "engine". Processes write rows of their own, which readers add up; those of step 0 alone belong to all together, and
    among them the model "" stands for all without a row of their own.
    """

    step = models.PositiveIntegerField()
    kind = models.CharField(max_length=8)
    name = models.CharField(max_length=128, blank=True, default="")
    start = models.DateTimeField()
    process = models.CharField(max_length=16)
    requests = models.BigIntegerField(default=0)
    data = models.JSONField()  # of `measuring.figures.Figures`

    class Meta:
        verbose_name = _("measurement interval")
        verbose_name_plural = _("measurement intervals")
        constraints = [
            models.UniqueConstraint(fields=["step", "kind", "name", "start", "process"], name="one_series_row")
        ]
        indexes = [models.Index(fields=["step", "kind", "start", "requests"], name="series_by_requests")]

    def __str__(self) -> str:
        return f"{self.kind} {self.name} {self.start} +{self.step}"


class RequestFacts(models.Model):
    """A request that failed or was among the slowest of its moment: its facts, its text only by MONITORING_TEXTS."""

    at = models.DateTimeField(db_index=True)  # its end
    request_id = models.CharField(max_length=64)
    user_ref = models.BigIntegerField()  # no foreign keys: what happened stays when an account goes
    token_ref = models.BigIntegerField(default=0)  # 0: signed in
    model = models.CharField(max_length=128)
    digest = models.CharField(max_length=64)
    reason = models.CharField(max_length=16)  # as in `Done`, or "error"
    code = models.CharField(max_length=64, blank=True, default="")  # of the error
    detail = models.CharField(max_length=200, blank=True, default="")  # of the error
    total = models.FloatField()  # seconds
    ttft = models.FloatField(null=True)  # seconds; null where there was no token
    stages = models.JSONField(default=dict)  # seconds by stage of `measuring.trace`
    prompt_tokens = models.BigIntegerField(default=0)
    cached_tokens = models.BigIntegerField(default=0)
    completion_tokens = models.BigIntegerField(default=0)
    prompt = models.TextField(blank=True, default="")  # its end
    answer = models.TextField(blank=True, default="")  # its beginning

    class Meta:
        verbose_name = _("slow or failed request")
        verbose_name_plural = _("slow and failed requests")
        indexes = [models.Index(fields=["user_ref", "at"], name="facts_of_user")]

    def __str__(self) -> str:
        return f"{self.request_id} {self.code or self.reason}"


class Happening(models.Model):
    """What the engine told of itself: starts, crashes, loads with their times, what left memory and why."""

    at = models.DateTimeField(db_index=True)
    kind = models.CharField(max_length=32)
    key = models.CharField(max_length=64, blank=True, default="")
    name = models.CharField(max_length=255, blank=True, default="")
    seconds = models.FloatField(default=0.0)
    reason = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        verbose_name = _("engine event")
        verbose_name_plural = _("engine events")

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"
