"""Gates: what a family of adapters has to show before one of it may become active, and what each came to."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from adapters.models import LoraAdapter
from adapters.models.adapter import AdapterQuerySet

from .explaining import explained
from .runs import Run
from .sets import PromptSet, SetVersion


class Family(models.TextChoices):
    RUN = "run", _("run")  # adapters of a training run of this name
    TAG = "tag", _("tag")  # adapters with this tag


class GateQuerySet(models.QuerySet["Gate"]):
    def concerning(self, adapter: LoraAdapter) -> GateQuerySet:
        """In a fixed order: of several objections the first is told."""
        of_run = Q(kind=Family.RUN, name=adapter.run_name) if adapter.run_name else Q(pk=None)
        tags = [*adapter.tags.values_list("name", flat=True)]
        rows = self.filter(of_run | Q(kind=Family.TAG, name__in=tags))
        return rows.select_related("prompts__owner", "owner").order_by("pk")


class Gate(models.Model):
    """`owner`: who saved it last; what is asked for it is asked, and counted, as theirs.

    Without its set or its owner it lets nothing through: what protects something does not go with what it names.
    """

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", verbose_name=_("saved by")
    )
    kind = models.CharField(_("family by"), max_length=8, choices=Family.choices)
    name = models.CharField(_("name"), max_length=255)
    prompts = models.ForeignKey(
        PromptSet, models.SET_NULL, null=True, related_name="gates", verbose_name=_("prompt set")
    )
    least = models.FloatField(_("lowest pass rate"), null=True, blank=True)  # 0 to 1
    not_worse = models.BooleanField(_("not worse than the active adapter"), default=False)
    max_tokens = models.PositiveIntegerField(_("max tokens"), default=256)
    webhook = models.CharField(_("webhook"), max_length=500, blank=True, default="")
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated at"), auto_now=True)

    objects = GateQuerySet.as_manager()

    class Meta:
        ordering = ["kind", "name", "pk"]
        verbose_name = _("gate")
        verbose_name_plural = _("gates")

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.name}"

    def members(self) -> AdapterQuerySet:
        """The adapters of its family as it is now."""
        rows = LoraAdapter.objects.all()
        return rows.filter(run_name=self.name) if self.kind == Family.RUN else rows.filter(tags__name=self.name)

    def params(self) -> dict[str, Any]:
        """What its questions are asked with: always the likeliest token, so that a verdict is no matter of chance."""
        return {"temperature": 0.0, "max_tokens": self.max_tokens}


class VerdictState(models.TextChoices):
    WAITING = "waiting", _("waiting")
    RUNNING = "running", _("running")
    JUDGED = "judged", _("judged")
    FAILED = "failed", _("failed")  # `code` says why there are no figures


PENDING = (VerdictState.WAITING, VerdictState.RUNNING)


class GateVerdict(models.Model):
    """What one adapter's content came to. Figures, not a judgement: that is made of the gate's bar when it is needed.

    `files`: the half of the adapter's signature that tells its files; `digest`, `base_key`: of the copy that was asked.
    `passed` and `against_passed` are of the same `judged` items; `against_*` is empty where nothing was active.
    """

    gate = models.ForeignKey(Gate, models.CASCADE, related_name="verdicts", verbose_name=_("gate"))
    adapter = models.ForeignKey(LoraAdapter, models.CASCADE, related_name="+", verbose_name=_("adapter"))
    files = models.CharField(max_length=64, blank=True, default="")
    digest = models.CharField(_("digest"), max_length=64, blank=True, default="", db_index=True)
    base_key = models.CharField(max_length=64, blank=True, default="")
    max_tokens = models.PositiveIntegerField(default=0)  # that its answers could have
    version = models.ForeignKey(SetVersion, models.SET_NULL, null=True, related_name="+", verbose_name=_("version"))
    run = models.ForeignKey(
        Run, models.SET_NULL, null=True, blank=True, related_name="verdicts", verbose_name=_("evaluation")
    )
    state = models.CharField(
        _("state"), max_length=16, choices=VerdictState.choices, default=VerdictState.WAITING, db_index=True
    )
    passed = models.PositiveIntegerField(_("passed"), default=0)
    judged = models.PositiveIntegerField(_("judged"), default=0)
    against_name = models.CharField(max_length=255, blank=True, default="")
    against_digest = models.CharField(max_length=64, blank=True, default="")
    against_passed = models.PositiveIntegerField(default=0)
    code = models.CharField(_("error code"), max_length=64, blank=True, default="")
    detail = models.JSONField(default=dict, blank=True)  # that the code's sentence names
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    ended_at = models.DateTimeField(_("ended at"), null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = _("verdict of a gate")
        verbose_name_plural = _("verdicts of gates")
        indexes = [models.Index(fields=["gate", "adapter", "id"], name="verdict_of_adapter")]

    def __str__(self) -> str:
        return f"{self.gate_id} {self.adapter_id} {self.state}"

    @property
    def message(self) -> str:
        return explained(self.code, self.detail)


class NoticeState(models.TextChoices):
    WAITING = "waiting", _("waiting")
    DELIVERED = "delivered", _("delivered")
    GIVEN_UP = "given_up", _("given up")  # `code` says why


class Notice(models.Model):
    """A verdict on its way to a gate's webhook, kept until it is delivered or given up.

    `status`: HTTP status of the last attempt, 0 where there was no answer; `code`: what went wrong with it.
    """

    key = models.UUIDField(unique=True, default=uuid4, editable=False)
    gate = models.ForeignKey(Gate, models.CASCADE, related_name="notices", verbose_name=_("gate"))
    adapter_name = models.CharField(_("adapter"), max_length=255)
    url = models.CharField(_("address"), max_length=500)
    body = models.TextField()
    state = models.CharField(_("state"), max_length=16, choices=NoticeState.choices, default=NoticeState.WAITING)
    attempts = models.PositiveSmallIntegerField(_("attempts"), default=0)
    status = models.PositiveSmallIntegerField(_("HTTP status"), default=0)
    code = models.CharField(_("error code"), max_length=64, blank=True, default="")
    next_at = models.DateTimeField(_("next attempt"), default=timezone.now)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    ended_at = models.DateTimeField(_("ended at"), null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = _("webhook notice")
        verbose_name_plural = _("webhook notices")
        indexes = [models.Index(fields=["state", "next_at"], name="notices_due")]

    def __str__(self) -> str:
        return f"{self.key} {self.state}"
