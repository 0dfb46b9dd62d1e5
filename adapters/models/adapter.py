from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import models, transaction
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from adapters.failures import render
from adapters.identifiers import UNKNOWN

from .base import BaseModel, MatchedBy
from .event import AdapterEvent, EventKind

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser


class Status(models.TextChoices):
    DISCOVERED = "discovered", _("discovered")  # found on disk, not served
    ACTIVE = "active", _("active")  # a verified copy is in the store and is served
    FAILED = "failed", _("failed")  # refused; failure_code says why


class AdapterQuerySet(models.QuerySet["LoraAdapter"]):
    def active(self) -> AdapterQuerySet:
        """What may be served: active and with a stored copy."""
        return self.filter(status=Status.ACTIVE).exclude(digest="")

    def discovered(self) -> AdapterQuerySet:
        return self.filter(status=Status.DISCOVERED)

    def failed(self) -> AdapterQuerySet:
        return self.filter(status=Status.FAILED)

    def visible_to(self, user: Any) -> AdapterQuerySet:
        """Operators see every adapter, other signed-in users the active ones, strangers none."""
        if not getattr(user, "is_authenticated", False):
            return self.none()
        return self if user.is_staff else self.active()

    def apart(self) -> AdapterQuerySet:
        """Without twins: of rows of the same files in several runs the one that is served, or the first, stays."""
        others = LoraAdapter.objects.filter(content_key=OuterRef("content_key"), missing=False)
        others = others.exclude(group_hash=OuterRef("group_hash"))
        earlier = others.filter(Q(pk__lt=OuterRef("pk")) | Q(status=Status.ACTIVE))
        keyed = Q(content_key="") | Q(content_key=UNKNOWN)
        return self.filter(keyed | Q(missing=True) | Q(status=Status.ACTIVE) | ~Exists(earlier))


class Tag(models.Model):
    name = models.CharField(_("name"), max_length=64, unique=True)

    class Meta:
        ordering = ["name"]
        verbose_name = _("tag")
        verbose_name_plural = _("tags")

    def __str__(self) -> str:
        return self.name


class LoraAdapter(models.Model):
    """One adapter folder that training left on disk. `status` is written by the named methods below alone."""

    name = models.CharField(_("name"), max_length=255)
    slug = models.CharField(_("slug"), max_length=128, unique=True, help_text=_("The model id in the API."))
    root = models.CharField(_("root"), max_length=1024, blank=True, default="")
    path = models.CharField(_("path"), max_length=1024, blank=True, default="")
    path_hash = models.CharField(max_length=64, unique=True, editable=False)
    signature = models.CharField(max_length=64, blank=True, default="", editable=False)
    content_key = models.CharField(max_length=64, blank=True, default="", db_index=True, editable=False)

    group_hash = models.CharField(max_length=64, blank=True, default="", db_index=True, editable=False)
    run_name = models.CharField(_("run"), max_length=255, blank=True, default="")
    checkpoint = models.PositiveIntegerField(_("checkpoint"), null=True, blank=True)
    is_best = models.BooleanField(_("best of its run"), default=False)
    is_last = models.BooleanField(_("last of its run"), default=False)
    duplicate_of = models.ForeignKey(
        "self", on_delete=models.SET_NULL, null=True, blank=True, related_name="duplicates"
    )

    status = models.CharField(
        _("status"), max_length=16, choices=Status.choices, default=Status.DISCOVERED, db_index=True
    )
    failure_code = models.CharField(_("failure code"), max_length=64, blank=True, default="")
    failure_details = models.JSONField(default=dict, blank=True)
    flags = models.JSONField(default=list, blank=True)  # codes of remarks that do not stop an activation
    incomplete = models.BooleanField(_("incomplete"), default=False)
    missing = models.BooleanField(_("missing"), default=False)
    update_available = models.BooleanField(_("update available"), default=False)

    base = models.ForeignKey(BaseModel, on_delete=models.SET_NULL, null=True, blank=True, related_name="adapters")
    base_by_hand = models.BooleanField(_("base model set manually"), default=False)
    matched_by = models.CharField(
        _("base model matched"), max_length=16, choices=MatchedBy.choices, blank=True, default="", editable=False
    )
    base_name_recorded = models.CharField(_("recorded base model"), max_length=512, blank=True, default="")
    peft_type = models.CharField(_("PEFT type"), max_length=64, blank=True, default="")
    rank = models.PositiveIntegerField(_("rank"), null=True, blank=True)
    alpha = models.FloatField(_("alpha"), null=True, blank=True)
    target_modules = models.JSONField(default=list, blank=True)
    trained_at = models.DateTimeField(_("trained at"), null=True, blank=True)
    # The last of training's own record (training/facts.py), or those of the step that a checkpoint was saved at.
    loss = models.FloatField(_("loss"), null=True, blank=True, editable=False)
    eval_loss = models.FloatField(_("evaluation loss"), null=True, blank=True, editable=False)
    size_bytes = models.BigIntegerField(_("size in bytes"), default=0)

    digest = models.CharField(_("digest"), max_length=64, blank=True, default="", db_index=True)
    # Of the stored copy: {"sha256", "chat_template", "end_tokens", "defaults"}, or nothing (lifecycle/activation.py).
    prompting = models.JSONField(default=dict, blank=True, editable=False)
    # Of the stored copy: what the running side reported when it took it, or nothing (hooks.py).
    promotion = models.JSONField(default=dict, blank=True, editable=False)
    # Of files that were imported and have not changed since: {"hub", "repo", "revision", "commit"} (hub/importing.py).
    origin = models.JSONField(default=dict, blank=True, editable=False)
    activated_at = models.DateTimeField(_("activated at"), null=True, blank=True)
    proven_digest = models.CharField(max_length=64, blank=True, default="", editable=False)
    proven_at = models.DateTimeField(_("effect verified at"), null=True, blank=True)
    effect_kl = models.FloatField(_("divergence"), null=True, blank=True, help_text=_("Nats per token."))
    effect_changed = models.FloatField(_("changed tokens"), null=True, blank=True, help_text=_("0 to 1."))

    notes = models.TextField(_("notes"), blank=True, default="")
    tags = models.ManyToManyField(Tag, blank=True, related_name="adapters", verbose_name=_("tags"))
    use_count = models.PositiveBigIntegerField(_("requests answered"), default=0)
    use_tokens = models.PositiveBigIntegerField(_("tokens generated"), default=0)
    last_used_at = models.DateTimeField(_("last used at"), null=True, blank=True)
    created_at = models.DateTimeField(_("found at"), default=timezone.now)
    updated_at = models.DateTimeField(_("updated at"), auto_now=True)

    objects = AdapterQuerySet.as_manager()

    class Meta:
        db_table = "lora_models"
        ordering = ["-created_at", "-id"]
        verbose_name = _("adapter")
        verbose_name_plural = _("adapters")

    def __str__(self) -> str:
        return self.name

    @property
    def store_path(self) -> Path:
        """Folder of the stored copy that is served; meaningless while `digest` is empty."""
        return Path(settings.STORE_DIR) / self.digest

    @property
    def path_label(self) -> str:
        """The root's folder name and the path below it: for people, never an absolute path."""
        if not self.root or not self.path:
            return self.name
        root = Path(self.root)
        try:
            return str(Path(root.name) / Path(self.path).relative_to(root))
        except ValueError:
            return Path(self.path).name

    @property
    def failure_message(self) -> str:
        """Why it is refused and what to do, in the reader's language; "" where it is not refused."""
        return render(self.failure_code, self.failure_details)

    def mark_active(
        self,
        actor: AbstractBaseUser | None,
        digest: str,
        prompting: dict[str, Any] | None = None,
        promotion: dict[str, Any] | None = None,
        despite: dict[str, Any] | None = None,
    ) -> bool:
        """Any status -> active with this stored copy, of which the row keeps `prompting` and `promotion`. False where
        the status was changed by somebody else. `despite`: a gate's objection and the reason stated against it."""
        same = self.status == Status.ACTIVE and self.digest == digest
        proof: dict[str, Any] = (
            {}
            if self.proven_digest == digest
            else {"proven_digest": "", "proven_at": None, "effect_kl": None, "effect_changed": None}
        )
        return self._transition(
            Status.ACTIVE,
            "activated",
            actor,
            silent=same,
            digest=digest,
            prompting=prompting or {},
            promotion=promotion or {},
            activated_at=self.activated_at if same else timezone.now(),
            failure_code="",
            failure_details={},
            incomplete=False,
            update_available=False,
            code="gate_overridden" if despite else "",
            details={"digest": digest, "before": self.digest, **(despite or {})},
            **proof,
        )

    def mark_inactive(self, actor: AbstractBaseUser | None, reason: str = "") -> bool:
        """Active -> discovered. The stored copy stays until the store is cleaned."""
        if self.status != Status.ACTIVE:
            return False
        return self._transition(
            Status.DISCOVERED,
            "deactivated",
            actor,
            activated_at=None,
            digest="",
            update_available=False,
            details={"digest": self.digest, "reason": reason},
        )

    def mark_failed(self, actor: AbstractBaseUser | None, code: str, details: dict[str, Any] | None = None) -> bool:
        """Any status -> failed with a code of `adapters/failures.py`."""
        return self._transition(
            Status.FAILED,
            "failed",
            actor,
            failure_code=code,
            failure_details=details or {},
            digest="",
            activated_at=None,
            update_available=False,
            code=code,
            details=details or {},
        )

    def mark_recovered(self, actor: AbstractBaseUser | None) -> bool:
        """Failed -> discovered: the files were repaired, or the reason is gone."""
        if self.status != Status.FAILED:
            return False
        return self._transition(
            Status.DISCOVERED,
            "recovered",
            actor,
            failure_code="",
            failure_details={},
            details={"code": self.failure_code},
        )

    def record(
        self,
        kind: EventKind | str,
        actor: AbstractBaseUser | None = None,
        code: str = "",
        details: dict[str, Any] | None = None,
        from_status: str = "",
        to_status: str = "",
    ) -> None:
        """Write one event row."""
        AdapterEvent.objects.create(
            adapter=self,
            adapter_name=self.name,
            kind=kind,
            actor_id=actor.pk if actor is not None else None,
            actor_name=actor.get_username() if actor is not None else "",
            from_status=from_status,
            to_status=to_status,
            code=code,
            details=details or {},
        )

    def _transition(
        self,
        to: Status,
        kind: str,
        actor: AbstractBaseUser | None,
        silent: bool = False,
        code: str = "",
        details: dict[str, Any] | None = None,
        **fields: Any,
    ) -> bool:
        """Guarded update and its event in one transaction. Guard: status and digest are as this object knows them."""
        before = str(self.status)
        fields.update(status=to, updated_at=timezone.now())
        with transaction.atomic():
            guarded = LoraAdapter.objects.filter(pk=self.pk, status=before, digest=self.digest)
            if guarded.update(**fields) != 1:
                return False
            for field, value in fields.items():
                setattr(self, field, value)
            if not silent:
                self.record(kind, actor, code, details, before, str(to))
        return True
