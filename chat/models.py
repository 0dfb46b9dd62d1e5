"""Conversations: trees of messages, so that editing and asking again lose nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import models
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from adapters.processes import is_dead

STALE = timedelta(seconds=30)  # a running answer shows itself every few seconds; without that its process is gone


class State(models.TextChoices):
    DONE = "done", _("done")
    RUNNING = "running", _("running")
    STOPPED = "stopped", _("stopped")  # by its reader, or with the process that wrote it
    FAILED = "failed", _("failed")


class AssistantQuerySet(models.QuerySet["Assistant"]):
    def visible_to(self, user_id: int) -> AssistantQuerySet:
        """One's own and those that others share."""
        return self.filter(models.Q(owner_id=user_id) | models.Q(shared=True))


class Assistant(models.Model):
    """A model with a purpose: its instructions, how it samples, what one may ask it. Its owner alone changes it."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="assistants")
    name = models.CharField(_("name"), max_length=80)
    description = models.CharField(_("description"), max_length=300, blank=True, default="")
    icon = models.CharField(_("icon"), max_length=32, default="robot")
    system = models.TextField(_("system prompt"), blank=True, default="")
    target = models.CharField(_("model"), max_length=128)
    params = models.JSONField(_("parameters"), default=dict, blank=True)
    samples = models.JSONField(_("sample questions"), default=list, blank=True)
    shared = models.BooleanField(_("shared"), default=False)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated at"), auto_now=True)

    objects = AssistantQuerySet.as_manager()

    class Meta:
        ordering = ["name", "id"]
        verbose_name = _("assistant")
        verbose_name_plural = _("assistants")

    def __str__(self) -> str:
        return self.name


class ConversationQuerySet(models.QuerySet["Conversation"]):
    def of(self, user: Any) -> ConversationQuerySet:
        """Nobody sees another one's conversations, operators neither."""
        return self.filter(user=user)

    def folders(self) -> list[dict[str, Any]]:
        """{name, count} of each folder, by name. A folder is there as long as something is in it."""
        named = self.exclude(folder="").order_by("folder").values(name=models.F("folder"))
        return list(named.annotate(count=models.Count("pk")))

    def shared(self) -> ConversationQuerySet:
        """Those whose owners have made a link, as long as their accounts are open."""
        return self.filter(share__isnull=False, user__is_active=True)


class Conversation(models.Model):
    """`leaf` is the end of the branch that is shown; `target` is the slug that the next message goes to."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="conversations")
    assistant = models.ForeignKey(
        Assistant, models.SET_NULL, null=True, blank=True, related_name="conversations", verbose_name=_("assistant")
    )
    title = models.CharField(_("title"), max_length=200, blank=True, default="")
    system = models.TextField(_("system prompt"), blank=True, default="")
    target = models.CharField(_("model"), max_length=128, blank=True, default="")
    params = models.JSONField(_("parameters"), default=dict, blank=True)
    pinned = models.BooleanField(_("pinned"), default=False)
    folder = models.CharField(_("folder"), max_length=80, blank=True, default="")
    # Whoever is signed in and knows this may read the conversation
    share = models.UUIDField(_("share link"), null=True, blank=True, unique=True, editable=False)
    leaf = models.ForeignKey("Message", models.SET_NULL, null=True, blank=True, related_name="+")
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated at"), default=timezone.now)

    objects = ConversationQuerySet.as_manager()

    class Meta:
        ordering = ["-pinned", "-updated_at", "-id"]
        verbose_name = _("conversation")
        verbose_name_plural = _("conversations")
        indexes = [models.Index(fields=["user", "-pinned", "-updated_at", "-id"], name="conversation_listed")]

    def __str__(self) -> str:
        return self.title or f"conversation {self.pk}"

    @property
    def share_path(self) -> str | None:
        return reverse("shared-conversation", args=[self.share]) if self.share else None


class Message(models.Model):
    """One turn. `digest`: content hash of the adapter that answered, or the base's key."""

    conversation = models.ForeignKey(Conversation, models.CASCADE, related_name="messages")
    parent = models.ForeignKey("self", models.CASCADE, null=True, blank=True, related_name="children")
    role = models.CharField(_("role"), max_length=16)
    content = models.TextField(_("content"), blank=True, default="")
    state = models.CharField(_("state"), max_length=16, choices=State.choices, default=State.DONE)
    target = models.CharField(_("model"), max_length=128, blank=True, default="")
    target_name = models.CharField(_("model name"), max_length=255, blank=True, default="")
    digest = models.CharField(_("digest"), max_length=64, blank=True, default="")
    stop_asked = models.BooleanField(default=False)  # for the process that writes the answer
    # That process while it does, see adapters/processes.py
    writer = models.CharField(max_length=255, blank=True, default="", db_index=True)
    # finish_reason (also "interrupted": its process was killed), usage, timings, trimmed (earlier messages left out),
    # error {code, message}
    info = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(_("created at"), default=timezone.now)
    updated_at = models.DateTimeField(_("updated at"), default=timezone.now)

    class Meta:
        ordering = ["id"]
        verbose_name = _("message")
        verbose_name_plural = _("messages")

    def __str__(self) -> str:
        return f"{self.role} {self.pk}"

    @property
    def live_state(self) -> str:
        """`state`, except that an answer whose process is gone is stopped."""
        if self.state != State.RUNNING:
            return self.state
        gone = is_dead(self.writer) or timezone.now() - self.updated_at > STALE
        return State.STOPPED if gone else State.RUNNING
