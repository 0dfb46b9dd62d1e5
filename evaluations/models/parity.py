"""Parity reports: does what was trained arrive here? One adapter, and the samples that its trainer evaluated by."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from adapters.models import LoraAdapter

from .explaining import explained
from .queued import Queued, QueuedQuerySet
from .sets import Item, SetVersion


class ParityQuerySet(QueuedQuerySet["Parity"]):
    def of(self, user: Any) -> ParityQuerySet:
        return self.filter(owner_id=user.pk)


class Parity(Queued):
    """The digests are those of what was asked.

    `recorded`: what the trainer evaluated at `step`: {"loss", "samples", "batches"}, the latter None where that cannot
    be told; or nothing. `implied`: whose template and tokenizer training had, {"template", "tokenizer"}: "adapter",
    "base" or "". `outcome`: {"verdict", "values"} once it is done (see `parity/verdict.py`). `precision`: of the base
    in the engine, as it was measured; "" where that is not known. `wanted`: further ones, and `others` what became of
    those whose turn came: {precision: {"state", "code", "detail"}} (see `runs/parity_apart.py`).
    """

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+", verbose_name=_("owner"))
    version = models.ForeignKey(SetVersion, models.CASCADE, related_name="parities", verbose_name=_("version"))
    adapter = models.ForeignKey(LoraAdapter, models.SET_NULL, null=True, blank=True, related_name="+")
    slug = models.CharField(_("model"), max_length=128)
    name = models.CharField(_("model name"), max_length=255)
    step = models.PositiveIntegerField(_("step"), null=True, blank=True)
    digest = models.CharField(_("digest"), max_length=64)
    base_key = models.CharField(max_length=64)
    base_name = models.CharField(max_length=255)
    prompting = models.CharField(max_length=64, blank=True, default="")
    recorded = models.JSONField(default=dict, blank=True)
    implied = models.JSONField(default=dict, blank=True)
    outcome = models.JSONField(default=dict, blank=True)
    precision = models.CharField(_("precision"), max_length=32, blank=True, default="")
    wanted = models.JSONField(_("further precisions"), default=list, blank=True)
    others = models.JSONField(default=dict, blank=True)
    total = models.PositiveIntegerField(_("samples"), default=0)

    objects = ParityQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        verbose_name = _("parity report")
        verbose_name_plural = _("parity reports")
        indexes = [models.Index(fields=["state", "id"], name="parity_queue")]

    def __str__(self) -> str:
        return f"parity {self.pk}"


class Sample(models.Model):
    """What one sample of a report came to. The row is there once that is settled.

    `facts`: {"tokens": of question and reference, "trained_tokens" or "untold": why there are none, "difference" (see
    `parity/comparing.py`), "ending": text of the token that ends the answer, "served", "trained": {way: [loss in nats,
    tokens]} (see `parity/figures.py`)}. Without facts `code` says why the sample could not be measured.

    `asked`: what other precisions are asked, {"ids", "first", "after", "ended", "whole"}, until the report is done (see
    `runs/parity_apart.py`). `elsewhere`: {precision: sums, or {"code", "detail"}}.
    """

    parity = models.ForeignKey(Parity, models.CASCADE, related_name="samples", verbose_name=_("parity report"))
    item = models.ForeignKey(Item, models.CASCADE, related_name="+", verbose_name=_("item"))
    facts = models.JSONField(default=dict, blank=True)
    asked = models.JSONField(default=dict, blank=True)
    elsewhere = models.JSONField(default=dict, blank=True)
    code = models.CharField(_("error code"), max_length=64, blank=True, default="")
    detail = models.JSONField(default=dict, blank=True)  # that the code's sentence names

    class Meta:
        ordering = ["item__number"]
        verbose_name = _("sample of a parity report")
        verbose_name_plural = _("samples of parity reports")
        constraints = [models.UniqueConstraint(fields=["parity", "item"], name="one_parity_sample")]

    def __str__(self) -> str:
        return f"{self.parity_id} #{self.item_id}"

    @property
    def message(self) -> str:
        return explained(self.code, self.detail)
