"""The prompt library: system prompts, prompts and parameter sets that people keep to use them again."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models.functions import Left, Lower
from django.utils.translation import gettext_lazy as _

PARTS = ("system", "prompt", "params")  # what an entry may hold; at least one of them
PREVIEW = 240  # characters of a text that a list shows
MOST_WORDS = 10  # of a search


class SavedPromptQuerySet(models.QuerySet["SavedPrompt"]):
    def of(self, user: Any) -> SavedPromptQuerySet:
        """Those that this account may change: its own, for operators too."""
        return self.filter(owner=user)

    def visible_to(self, user_id: int) -> SavedPromptQuerySet:
        """One's own, and those that others share as long as their accounts are open."""
        return self.filter(models.Q(owner_id=user_id) | models.Q(shared=True, owner__is_active=True))

    def holding(self, parts: list[str]) -> SavedPromptQuerySet:
        """Those with at least one of these parts."""
        wanted = models.Q()
        for part in parts:
            wanted |= ~models.Q(**{part: {} if part == "params" else ""})
        return self.filter(wanted)

    def having(self, search: str) -> SavedPromptQuerySet:
        """Those in whose name, texts or owner's name every word occurs."""
        rows = self
        for word in search[:200].replace("\0", "").split()[:MOST_WORDS]:
            fields = ("name", "system", "prompt", "owner__username")
            rows = rows.filter(models.Q(*((f"{field}__icontains", word) for field in fields), _connector=models.Q.OR))
        return rows

    def listed(self, user_id: int) -> SavedPromptQuerySet:
        """One's own first, by name; of the texts only how they begin (`system_start`, `prompt_start`)."""
        foreign = models.Case(models.When(owner_id=user_id, then=0), default=1)
        starts = {"system_start": Left("system", PREVIEW), "prompt_start": Left("prompt", PREVIEW)}
        rows = self.select_related("owner").annotate(foreign=foreign, **starts)
        return rows.order_by("foreign", Lower("name"), "pk").defer("system", "prompt")


class SavedPrompt(models.Model):
    """An entry of the library. Its owner alone changes it."""

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="saved_prompts", verbose_name=_("owner")
    )
    name = models.CharField(_("name"), max_length=80)
    system = models.TextField(_("system prompt"), blank=True, default="")
    prompt = models.TextField(_("prompt"), blank=True, default="")
    params = models.JSONField(_("parameters"), default=dict, blank=True)
    shared = models.BooleanField(_("shared"), default=False)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated at"), auto_now=True)

    objects = SavedPromptQuerySet.as_manager()

    class Meta:
        verbose_name = _("saved prompt")
        verbose_name_plural = _("saved prompts")
        indexes = [models.Index(fields=["owner", "name"], name="saved_prompt_listed")]

    def __str__(self) -> str:
        return self.name
