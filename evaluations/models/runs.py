"""Runs of a set's version over several models, and the answers that they came to."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from adapters.models import LoraAdapter

from .explaining import explained
from .queued import Queued, QueuedQuerySet
from .sets import Item, SetVersion


class TargetState(models.TextChoices):
    WAITING = "waiting", _("waiting")
    RUNNING = "running", _("running")
    DONE = "done", _("done")
    FAILED = "failed", _("failed")  # `code` says why; what was answered stays


class RunQuerySet(QueuedQuerySet["Run"]):
    def visible_to(self, user: Any) -> RunQuerySet:
        """One's own, those that are shared together with their set, and for operators those of gates."""
        seen = Q(owner_id=user.pk) | Q(shared=True, version__prompts__shared=True, owner__is_active=True)
        return self.filter(seen | Q(of_gate=True) if user.is_staff else seen)


class Run(Queued):
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="evaluation_runs", verbose_name=_("owner")
    )
    version = models.ForeignKey(SetVersion, models.CASCADE, related_name="runs", verbose_name=_("version"))
    params = models.JSONField(_("parameters"), default=dict, blank=True)
    shared = models.BooleanField(_("shared"), default=False)
    activates = models.BooleanField(_("activates adapters"), default=False)
    of_gate = models.BooleanField(_("of a gate"), default=False)  # made by `gates/`, not by its owner
    total = models.PositiveIntegerField(_("questions"), default=0)

    objects = RunQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        verbose_name = _("evaluation")
        verbose_name_plural = _("evaluations")
        indexes = [models.Index(fields=["state", "id"], name="evaluation_queue")]

    def __str__(self) -> str:
        return f"evaluation {self.pk}"


class RunTarget(models.Model):
    """A model of a run. Its digests are those of what answered, empty before its turn has come.

    `digest`: content hash of the adapter, or the base's key; `base_key`: of the base, its chat template included;
    `prompting`: hash of the template that the adapter brings along, or "".
    """

    run = models.ForeignKey(Run, models.CASCADE, related_name="targets", verbose_name=_("evaluation"))
    position = models.PositiveSmallIntegerField(_("position"))
    adapter = models.ForeignKey(LoraAdapter, models.SET_NULL, null=True, blank=True, related_name="+")
    slug = models.CharField(_("model"), max_length=128)
    name = models.CharField(_("model name"), max_length=255)
    group_hash = models.CharField(max_length=64, blank=True, default="")  # of the training run
    checkpoint = models.PositiveIntegerField(_("checkpoint"), null=True, blank=True)
    digest = models.CharField(_("digest"), max_length=64, blank=True, default="")
    base_key = models.CharField(max_length=64, blank=True, default="")
    base_name = models.CharField(max_length=255, blank=True, default="")
    # Its digests name a copy that is not served, which is asked for a gate alone.
    trial = models.BooleanField(_("not active"), default=False)
    prompting = models.CharField(max_length=64, blank=True, default="")
    state = models.CharField(_("state"), max_length=16, choices=TargetState.choices, default=TargetState.WAITING)
    code = models.CharField(_("error code"), max_length=64, blank=True, default="")
    detail = models.JSONField(default=dict, blank=True)  # that the code's sentence names

    class Meta:
        ordering = ["position"]
        verbose_name = _("model of an evaluation")
        verbose_name_plural = _("models of evaluations")
        constraints = [models.UniqueConstraint(fields=["run", "position"], name="one_target_a_place")]

    def __str__(self) -> str:
        return f"{self.slug} {self.digest[:12]}"

    @property
    def message(self) -> str:
        return explained(self.code, self.detail)


class Answer(models.Model):
    """What a model answered its owner to one question: computed once, used by every run that asks the same.

    `key` is the digest of everything that decides an answer (see `runs/keys.py`).
    """

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+", verbose_name=_("owner"))
    key = models.CharField(max_length=64)
    text = models.TextField(_("answer"), blank=True)
    finish_reason = models.CharField(max_length=16)
    prompt_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    seconds = models.FloatField(default=0.0)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = _("answer of an evaluation")
        verbose_name_plural = _("answers of evaluations")
        constraints = [models.UniqueConstraint(fields=["owner", "key"], name="one_evaluation_answer")]

    def __str__(self) -> str:
        return self.key[:12]


class Score(models.Model):
    """How likely a model holds an item's reference answer: computed once, as an `Answer` is.

    `logprob`: natural logarithm of the probability of its `tokens` together.
    """

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+", verbose_name=_("owner"))
    key = models.CharField(max_length=64)
    logprob = models.FloatField()
    tokens = models.PositiveIntegerField()
    prompt_tokens = models.PositiveIntegerField(default=0)  # that were computed, those of the reference included
    seconds = models.FloatField(default=0.0)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = _("score of an evaluation")
        verbose_name_plural = _("scores of evaluations")
        constraints = [models.UniqueConstraint(fields=["owner", "key"], name="one_evaluation_score")]

    def __str__(self) -> str:
        return self.key[:12]

    @property
    def loss(self) -> float:
        """Mean cross-entropy of a token, in nats."""
        return -self.logprob / self.tokens


class Result(models.Model):
    """What one model of a run came to at one item. The row is there once that is settled.

    `passed` is None for an item that nothing judges. Where the model could not be asked, `code` says why; an item whose
    only checks are losses has a score and no answer.
    """

    target = models.ForeignKey(RunTarget, models.CASCADE, related_name="results", verbose_name=_("model"))
    item = models.ForeignKey(Item, models.CASCADE, related_name="results", verbose_name=_("item"))
    answer = models.ForeignKey(Answer, models.RESTRICT, null=True, blank=True, related_name="results")
    reused = models.BooleanField(default=False)  # the answer was there already; without one, the score
    score = models.ForeignKey(Score, models.RESTRICT, null=True, blank=True, related_name="results")
    score_reused = models.BooleanField(default=False)
    passed = models.BooleanField(_("passed"), null=True)
    verdicts = models.JSONField(
        default=list, blank=True
    )  # of the item's checks in their order, see `checks/judging.py`
    code = models.CharField(_("error code"), max_length=64, blank=True, default="")
    detail = models.JSONField(default=dict, blank=True)  # that the code's sentence names

    class Meta:
        ordering = ["id"]
        verbose_name = _("result")
        verbose_name_plural = _("results")
        constraints = [models.UniqueConstraint(fields=["target", "item"], name="one_result")]

    def __str__(self) -> str:
        return f"{self.target_id} #{self.item_id}"

    @property
    def message(self) -> str:
        return explained(self.code, self.detail)
