from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _


class ScanState(models.TextChoices):
    RUNNING = "running", _("running")
    DONE = "done", _("done")
    FAILED = "failed", _("failed")  # ended by an error, or its process died


class Scan(models.Model):
    """One walk over the roots and what it found."""

    state = models.CharField(_("state"), max_length=16, choices=ScanState.choices, default=ScanState.RUNNING)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    stage = models.CharField(_("stage"), max_length=32, blank=True, default="")
    done = models.PositiveIntegerField(_("folders scanned"), default=0)
    total = models.PositiveIntegerField(_("folders in total"), default=0)
    found = models.PositiveIntegerField(_("found"), default=0)
    new = models.PositiveIntegerField(_("new"), default=0)
    changed = models.PositiveIntegerField(_("changed"), default=0)
    missing = models.PositiveIntegerField(_("missing"), default=0)
    incomplete = models.PositiveIntegerField(_("incomplete"), default=0)
    duration_ms = models.PositiveIntegerField(_("duration in ms"), default=0)
    notes = models.JSONField(default=list, blank=True)  # [{"code", "details"}]: roots or folders passed over
    started_at = models.DateTimeField(_("started at"), auto_now_add=True)
    finished_at = models.DateTimeField(_("finished at"), null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = _("scan")
        verbose_name_plural = _("scans")

    def __str__(self) -> str:
        return f"scan {self.pk}"
