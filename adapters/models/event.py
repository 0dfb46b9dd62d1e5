from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from adapters.failures import render


class EventKind(models.TextChoices):
    DISCOVERED = "discovered", _("discovered")
    CHANGED = "changed", _("files changed")
    MISSING = "missing", _("files missing")
    RETURNED = "returned", _("files restored")
    MOVED = "moved", _("folder moved or renamed")
    ACTIVATED = "activated", _("activated")
    DEACTIVATED = "deactivated", _("deactivated")
    FAILED = "failed", _("failed")
    REFUSED = "refused", _("activation rejected")  # the status stays as it was
    RECOVERED = "recovered", _("failure cleared")
    PROVEN = "proven", _("effect verified")
    REPAIRED = "repaired", _("repair accepted")
    MERGED = "merged", _("merged into the base model")  # a model of its own, to be fetched; the adapter stays
    MAPPED = "mapped", _("base model set")
    EDITED = "edited", _("edited")
    FORGOTTEN = "forgotten", _("entry removed")
    FILES_DELETED = "files_deleted", _("files deleted")
    IMPORTED = "imported", _("imported")  # from a hub, or from an older database


class AdapterEvent(models.Model):
    """Who did what to an adapter, when, from which status to which, and why. Outlives the adapter's row."""

    adapter = models.ForeignKey(
        "adapters.LoraAdapter", on_delete=models.SET_NULL, null=True, blank=True, related_name="events"
    )
    adapter_name = models.CharField(_("adapter"), max_length=255, blank=True, default="")
    kind = models.CharField(_("event type"), max_length=32, choices=EventKind.choices)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    actor_name = models.CharField(_("performed by"), max_length=150, blank=True, default="")
    from_status = models.CharField(_("previous status"), max_length=16, blank=True, default="")
    to_status = models.CharField(_("new status"), max_length=16, blank=True, default="")
    code = models.CharField(_("code"), max_length=64, blank=True, default="")
    details = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(_("time"), auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = _("event")
        verbose_name_plural = _("events")

    def __str__(self) -> str:
        return f"{self.kind} {self.adapter_name}"

    @property
    def message(self) -> str:
        """Why, as a sentence in the reader's language; "" where the kind says all."""
        return render(self.code, self.details)
