from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from .job import JobRow


class MergeType(models.TextChoices):
    """Of the merged model's numbers."""

    BASE = "base", _("as the base model")
    FP32 = "fp32", _("fp32")


class Merge(JobRow):
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
    size_bytes = models.BigIntegerField(default=0)
    files = models.JSONField(default=list)  # [{"name", "size", "sha256", "crc32"}], by name

    def __str__(self) -> str:
        return f"{self.adapter_name} + {self.base_name}"

    @property
    def lease(self) -> str:
        return "merging"
