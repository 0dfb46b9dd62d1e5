from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from adapters.failures import render


class MergeState(models.TextChoices):
    RUNNING = "running", _("running")
    DONE = "done", _("done")
    FAILED = "failed", _("failed")
    CANCELLED = "cancelled", _("cancelled")


class MergeType(models.TextChoices):
    """Of the merged model's numbers."""

    BASE = "base", _("as the base model")
    FP32 = "fp32", _("fp32")


class Merge(models.Model):
    """An adapter merged into its base model: the job, and afterwards the folder `EXPORTS_DIR/<folder>/`."""

    adapter = models.ForeignKey(
        "adapters.LoraAdapter", on_delete=models.SET_NULL, null=True, blank=True, related_name="merges"
    )
    adapter_name = models.CharField(max_length=255)
    slug = models.CharField(max_length=128)  # of the adapter, when it was merged; names the archive
    digest = models.CharField(max_length=64)
    base_name = models.CharField(max_length=255)
    base_key = models.CharField(max_length=64, blank=True, default="")
    dtype = models.CharField(max_length=8, choices=MergeType.choices, default=MergeType.BASE)
    folder = models.CharField(max_length=32, unique=True)
    state = models.CharField(max_length=16, choices=MergeState.choices, default=MergeState.RUNNING)
    progress = models.FloatField(default=0.0)  # 0 to 1
    cancel_asked = models.BooleanField(default=False)
    size_bytes = models.BigIntegerField(default=0)
    files = models.JSONField(default=list)  # [{"name", "size", "sha256", "crc32"}], by name
    failure_code = models.CharField(max_length=64, blank=True, default="")
    failure_details = models.JSONField(default=dict)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    actor_name = models.CharField(max_length=150, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.adapter_name} + {self.base_name}"

    @property
    def failure_message(self) -> str:
        return render(self.failure_code, self.failure_details)
