from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from adapters.failures import render


class JobState(models.TextChoices):
    RUNNING = "running", _("running")
    DONE = "done", _("done")
    FAILED = "failed", _("failed")
    CANCELLED = "cancelled", _("cancelled")


class JobRow(models.Model):
    """What is known of work that goes on beside the requests, see `adapters/jobs.py`: any process can tell and cancel
    it."""

    state = models.CharField(max_length=16, choices=JobState.choices, default=JobState.RUNNING)
    progress = models.FloatField(default=0.0)  # 0 to 1
    cancel_asked = models.BooleanField(default=False)
    failure_code = models.CharField(max_length=64, blank=True, default="")
    failure_details = models.JSONField(default=dict)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    actor_name = models.CharField(max_length=150, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        abstract = True
        ordering = ["-id"]

    @property
    def lease(self) -> str:
        """The lock that is held while it runs."""
        raise NotImplementedError

    @property
    def failure_message(self) -> str:
        return render(self.failure_code, self.failure_details)
