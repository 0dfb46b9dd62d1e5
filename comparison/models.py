"""Votes: which of the answers of one comparison somebody found best, and what exactly had answered."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _


class Verdict(models.TextChoices):
    BEST = "best", _("one answer is best")  # the chosen candidate
    TIE = "tie", _("all equally good")
    NONE = "none", _("none is good")


class VoteQuerySet(models.QuerySet["Vote"]):
    def of(self, user: Any) -> VoteQuerySet:
        """Nobody sees another one's votes, operators neither."""
        return self.filter(user=user)


class Vote(models.Model):
    """One comparison's outcome. `run` is the client's id of it; each has one vote, which its owner may change."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="votes", verbose_name=_("user"))
    run = models.UUIDField(_("comparison"))
    verdict = models.CharField(_("verdict"), max_length=8, choices=Verdict.choices)
    blind = models.BooleanField(_("blind"), default=False)  # nobody could see which model had written what
    prompt = models.TextField(_("prompt"))
    system = models.TextField(_("system prompt"), blank=True, default="")
    params = models.JSONField(_("parameters"), default=dict, blank=True)
    size = models.PositiveSmallIntegerField(_("candidates"))
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated at"), auto_now=True)

    objects = VoteQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "-id"]
        verbose_name = _("vote")
        verbose_name_plural = _("votes")
        constraints = [models.UniqueConstraint(fields=["user", "run"], name="one_vote_a_run")]
        indexes = [models.Index(fields=["user", "-created_at"], name="vote_recent")]

    def __str__(self) -> str:
        return f"{self.verdict} {self.run}"


class Candidate(models.Model):
    """One answer of a comparison. `digest`: content hash of the adapter that wrote it, or the base's key.

    Of a blend `model` says the recipe, `digest` is the recipe's, and `adapters` lists it: {model, weight, digest}.
    """

    vote = models.ForeignKey(Vote, models.CASCADE, related_name="candidates", verbose_name=_("vote"))
    position = models.PositiveSmallIntegerField(_("position"))  # as shown, from 0
    model = models.CharField(_("model"), max_length=128)
    name = models.CharField(_("model name"), max_length=255)
    digest = models.CharField(_("digest"), max_length=64)
    params = models.JSONField(_("model-specific parameters"), default=dict, blank=True)  # beside the vote's
    adapters = models.JSONField(_("adapters of the blend"), default=list, blank=True)
    text = models.TextField(_("answer"), blank=True)
    chosen = models.BooleanField(_("chosen"), default=False)

    class Meta:
        ordering = ["position"]
        verbose_name = _("candidate")
        verbose_name_plural = _("candidates")
        constraints = [models.UniqueConstraint(fields=["vote", "position"], name="one_candidate_a_place")]

    def __str__(self) -> str:
        return f"{self.model} {self.digest[:12]}"
