"""What the queue of evaluations works on, whatever is asked: from waiting to its end."""

from __future__ import annotations

from typing import TypeVar

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from .explaining import explained


class RunState(models.TextChoices):
    QUEUED = "queued", _("queued")
    RUNNING = "running", _("running")
    DONE = "done", _("done")
    CANCELLED = "cancelled", _("cancelled")
    FAILED = "failed", _("failed")  # `code` says why


UNDER_WAY = (RunState.QUEUED, RunState.RUNNING)
M = TypeVar("M", bound=models.Model, covariant=True)


class QueuedQuerySet(models.QuerySet[M]):
    def under_way(self) -> QueuedQuerySet[M]:
        return self.filter(state__in=UNDER_WAY)


class Queued(models.Model):
    """`state` is written by guarded updates alone: here, and by the job that works on the row (`runs/job.py`)."""

    token_ref = models.BigIntegerField(default=0)  # the API token that it was made with; 0: signed in
    state = models.CharField(_("state"), max_length=16, choices=RunState.choices, default=RunState.QUEUED)
    code = models.CharField(_("error code"), max_length=64, blank=True, default="")
    detail = models.JSONField(default=dict, blank=True)  # that the code's sentence names
    waiting = models.CharField(max_length=64, blank=True, default="")  # code of what it waits for now
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    started_at = models.DateTimeField(_("started at"), null=True, blank=True)
    ended_at = models.DateTimeField(_("ended at"), null=True, blank=True)

    class Meta:
        abstract = True

    @property
    def message(self) -> str:
        return explained(self.code, self.detail)

    @property
    def is_under_way(self) -> bool:
        return self.state in UNDER_WAY

    def cancel(self) -> bool:
        """False where it has ended."""
        rows = type(self)._default_manager.filter(pk=self.pk, state__in=UNDER_WAY)
        return bool(rows.update(state=RunState.CANCELLED, ended_at=timezone.now(), waiting=""))
