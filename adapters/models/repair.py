from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import models
from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from .adapter import LoraAdapter


class Repair(models.Model):
    """What the doctor found in an adapter's files: offered, until an operator has accepted it.

    It holds for the files that `content` tells and for the very changes that `plan` tells; of other files it says
    nothing, and they are looked at anew.
    """

    adapter = models.OneToOneField("adapters.LoraAdapter", on_delete=models.CASCADE, related_name="repair")
    plan = models.CharField(max_length=64)
    content = models.CharField(max_length=64)
    kinds = models.JSONField(default=list)  # codes of failures.py
    changes = models.PositiveIntegerField(default=0)
    # Of weights that had to be converted first: what the result's header says, {name: [dtype, shape]}.
    header = models.JSONField(default=dict)
    accepted_at = models.DateTimeField(_("accepted at"), null=True, blank=True)
    found_at = models.DateTimeField(_("found at"), auto_now=True)

    def __str__(self) -> str:
        return f"repair of adapter {self.adapter_id}"


def repair_of(adapter: LoraAdapter) -> Repair | None:
    """What was found for this adapter; asks the database unless it was fetched with the row."""
    try:
        return adapter.repair
    except Repair.DoesNotExist:
        return None
