from __future__ import annotations

from django.db import models

from .job import JobRow


class HubImport(JobRow):
    """An adapter imported by name from a hub: the job, and afterwards what became of it."""

    slot = models.PositiveSmallIntegerField(default=0)  # which of those that run at once
    hub = models.CharField(max_length=255)  # host, and port where it is not the usual one
    repo = models.CharField(max_length=200)
    revision = models.CharField(max_length=200)  # as it was asked for
    commit = models.CharField(max_length=40, blank=True, default="")  # which that was
    upload_key = models.CharField(max_length=32, blank=True, default="")  # of what has arrived (uploads/arriving.py)
    file_count = models.PositiveIntegerField(default=0)
    size_bytes = models.BigIntegerField(default=0)  # in all, known before the first byte is fetched
    received_bytes = models.BigIntegerField(default=0)
    folder = models.CharField(max_length=255, blank=True, default="")  # below UPLOADS_DIR, once it lies there

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}"

    @property
    def lease(self) -> str:
        return f"importing:{self.slot}"
