"""Prompt sets. A version is what a set held at one time; every change makes the next one, and none is ever changed."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class PromptSetQuerySet(models.QuerySet["PromptSet"]):
    def visible_to(self, user: Any) -> PromptSetQuerySet:
        """One's own and those that others share. Operators see no more than anybody else."""
        return self.filter(Q(owner_id=user.pk) | Q(shared=True, owner__is_active=True))

    def of(self, user: Any) -> PromptSetQuerySet:
        return self.filter(owner_id=user.pk)


class PromptSet(models.Model):
    """`version` and `size` are those of the newest version. Its owner alone changes it."""

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="prompt_sets", verbose_name=_("owner")
    )
    name = models.CharField(_("name"), max_length=120)
    description = models.CharField(_("description"), max_length=500, blank=True, default="")
    shared = models.BooleanField(_("shared"), default=False)
    version = models.PositiveIntegerField(_("version"), default=1)
    size = models.PositiveIntegerField(_("items"), default=0)
    next_number = models.PositiveIntegerField(default=1, editable=False)  # of the next item
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated at"), default=timezone.now)

    objects = PromptSetQuerySet.as_manager()

    class Meta:
        ordering = ["-updated_at", "-id"]
        verbose_name = _("prompt set")
        verbose_name_plural = _("prompt sets")
        constraints = [models.UniqueConstraint(fields=["owner", "name"], name="one_set_of_a_name")]

    def __str__(self) -> str:
        return self.name


class SetVersion(models.Model):
    """`digest` is made of the numbers and digests of its items."""

    prompts = models.ForeignKey(PromptSet, models.CASCADE, related_name="versions", verbose_name=_("prompt set"))
    number = models.PositiveIntegerField(_("version"))
    digest = models.CharField(_("digest"), max_length=64)
    size = models.PositiveIntegerField(_("items"))
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)

    class Meta:
        ordering = ["-number"]
        verbose_name = _("version of a prompt set")
        verbose_name_plural = _("versions of prompt sets")
        constraints = [models.UniqueConstraint(fields=["prompts", "number"], name="one_set_version")]

    def __str__(self) -> str:
        return f"{self.prompts_id} v{self.number}"

    @property
    def items(self) -> ItemQuerySet:
        return Item.objects.of_version(self.prompts_id, self.number)


class ItemQuerySet(models.QuerySet["Item"]):
    def of_version(self, prompts_id: int, number: int) -> ItemQuerySet:
        """In the order of their numbers."""
        until = Q(until=None) | Q(until__gte=number)
        return self.filter(until, prompts_id=prompts_id, since__lte=number).order_by("number")


class Item(models.Model):
    """A question and how its answer is judged, in the versions `since` to `until` of its set (None: to the newest).

    A changed item is a new row of the same `number`, so that versions share the rows that they have in common.
    """

    prompts = models.ForeignKey(PromptSet, models.CASCADE, related_name="items", verbose_name=_("prompt set"))
    number = models.PositiveIntegerField(_("number"))
    since = models.PositiveIntegerField(_("since version"))
    until = models.PositiveIntegerField(_("until version"), null=True, blank=True)
    digest = models.CharField(_("digest"), max_length=64)  # of question, reference and checks
    asked_digest = models.CharField(max_length=64)  # of the question alone
    title = models.CharField(_("title"), max_length=200)  # the beginning of what is asked
    messages = models.JSONField(_("messages"), null=True, blank=True)  # this or `prompt`
    prompt = models.TextField(_("prompt"), null=True, blank=True)  # noqa: DJ001  (null: it has messages)
    reference = models.TextField(_("reference answer"), blank=True, default="")
    checks = models.JSONField(_("checks"), default=list, blank=True)

    objects = ItemQuerySet.as_manager()

    class Meta:
        ordering = ["number"]
        verbose_name = _("item")
        verbose_name_plural = _("items")
        constraints = [models.UniqueConstraint(fields=["prompts", "number", "since"], name="one_item_row")]
        indexes = [models.Index(fields=["prompts", "until", "number"], name="item_of_version")]

    def __str__(self) -> str:
        return f"#{self.number} {self.title}"
