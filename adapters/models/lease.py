from __future__ import annotations

from django.db import models


class Lease(models.Model):
    """A lock between processes: the row's existence is the lock, `expires_at` frees it after a crash.

    Only `adapters/leases.py` touches it.
    """

    name = models.CharField(max_length=100, unique=True)
    token = models.CharField(max_length=64)
    holder = models.CharField(max_length=255, blank=True, default="")  # host, boot, process and its start time
    expires_at = models.DateTimeField()
    progress = models.FloatField(null=True)  # 0..1 of what its holder does, where it says so

    def __str__(self) -> str:
        return self.name
