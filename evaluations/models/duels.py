"""Head to head: a judge compares the answers of a run that has ended, two at a time."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from .explaining import explained
from .queued import Queued, QueuedQuerySet
from .runs import Run, RunTarget
from .sets import Item


class Duel(Queued):
    """The comparisons of one run by one judge. It belongs to the run's owner, and is seen by whoever sees the run.

    `judge` is the slug of a model of this portal, or "" for the judge model of the settings. The digests are those of
    what judges, as in `RunTarget`, empty before its turn has come.
    """

    run = models.ForeignKey(Run, models.CASCADE, related_name="duels", verbose_name=_("evaluation"))
    judge = models.CharField(_("judge"), max_length=128, blank=True, default="")
    name = models.CharField(_("judge's name"), max_length=255)
    criteria = models.TextField(_("criteria"), blank=True, default="")
    params = models.JSONField(_("parameters"), default=dict, blank=True)
    digest = models.CharField(_("digest"), max_length=64, blank=True, default="")
    base_key = models.CharField(max_length=64, blank=True, default="")
    base_name = models.CharField(max_length=255, blank=True, default="")
    prompting = models.CharField(max_length=64, blank=True, default="")
    total = models.PositiveIntegerField(_("comparisons"), default=0)

    objects = QueuedQuerySet["Duel"].as_manager()

    class Meta:
        ordering = ["-id"]
        verbose_name = _("head to head")
        verbose_name_plural = _("head to head")
        indexes = [models.Index(fields=["state", "id"], name="duel_queue")]

    def __str__(self) -> str:
        return f"head to head {self.pk}"


class Choice(models.TextChoices):
    """Which of the two answers, in the order in which they were shown, a judge found better."""

    FIRST = "first", _("the first")
    SECOND = "second", _("the second")
    TIE = "tie", _("equally good")
    UNREADABLE = "unreadable", _("unreadable")  # what it said is no verdict


class Judgement(models.Model):
    """What a judge said of two answers in one order: asked once, used by every comparison that asks the same.

    `key` is the digest of everything that decides it (see `runs/duels/questions.py`).
    """

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+", verbose_name=_("owner"))
    key = models.CharField(max_length=64)
    choice = models.CharField(_("verdict"), max_length=16, choices=Choice.choices)
    text = models.TextField(_("answer"), blank=True)
    prompt_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    seconds = models.FloatField(default=0.0)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = _("judgement")
        verbose_name_plural = _("judgements")
        constraints = [models.UniqueConstraint(fields=["owner", "key"], name="one_judgement")]

    def __str__(self) -> str:
        return self.key[:12]


class Outcome(models.TextChoices):
    WAITING = "waiting", _("waiting")
    ONE = "one", _("the first is better")
    OTHER = "other", _("the second is better")
    TIE = "tie", _("tie")  # the judge said so, its two verdicts differ, or the answers are the same
    NONE = "none", _("no verdict")  # unreadable, or `code` says why


class Bout(models.Model):
    """Two models' answers to one item. `forward` shows the answer of `one` first, `backward` that of `other`.

    Both are None where the answers are the same text: then nobody was asked.
    """

    duel = models.ForeignKey(Duel, models.CASCADE, related_name="bouts", verbose_name=_("head to head"))
    item = models.ForeignKey(Item, models.CASCADE, related_name="+", verbose_name=_("item"))
    one = models.ForeignKey(RunTarget, models.CASCADE, related_name="+", verbose_name=_("first model"))
    other = models.ForeignKey(RunTarget, models.CASCADE, related_name="+", verbose_name=_("second model"))
    outcome = models.CharField(_("outcome"), max_length=16, choices=Outcome.choices, default=Outcome.WAITING)
    forward = models.ForeignKey(Judgement, models.RESTRICT, null=True, blank=True, related_name="forward_bouts")
    backward = models.ForeignKey(Judgement, models.RESTRICT, null=True, blank=True, related_name="backward_bouts")
    asked = models.PositiveSmallIntegerField(default=0)  # judgements that were asked for it; the others were there
    code = models.CharField(_("error code"), max_length=64, blank=True, default="")
    detail = models.JSONField(default=dict, blank=True)  # that the code's sentence names

    class Meta:
        ordering = ["id"]
        verbose_name = _("comparison")
        verbose_name_plural = _("comparisons")
        constraints = [models.UniqueConstraint(fields=["duel", "item", "one", "other"], name="one_bout")]
        indexes = [models.Index(fields=["duel", "outcome"], name="bout_outcomes")]

    def __str__(self) -> str:
        return f"{self.one_id} {self.other_id} #{self.item_id}"

    @property
    def message(self) -> str:
        return explained(self.code, self.detail)
