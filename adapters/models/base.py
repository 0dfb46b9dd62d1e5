from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from adapters.failures import render


class MatchedBy(models.TextChoices):
    """How an adapter's base model was found."""

    HUB_ID = "hub_id", _("by the recorded ID")
    NAME = "name", _("by the recorded name")
    PATH = "path", _("by the recorded path, ignoring the version or revision at its end")
    PACKED = "packed", _("by the recorded name, ignoring the suffix of a prequantised variant")
    CONFIG = "config", _("by the config.json saved next to the adapter")
    MAPPING = "mapping", _("set by an operator for this recorded name")
    HAND = "hand", _("set manually")


class BaseModel(models.Model):
    """A base model found under `BASE_MODELS_DIR`: `key` identifies its content, `slug` is its API id."""

    name = models.CharField(_("name"), max_length=255, help_text=_("Folder name under BASE_MODELS_DIR."))
    slug = models.SlugField(_("slug"), max_length=128, unique=True)
    path = models.CharField(_("path"), max_length=1024)
    path_hash = models.CharField(max_length=64, unique=True, editable=False)
    key = models.CharField(_("content key"), max_length=64, blank=True, default="", db_index=True)
    config_hash = models.CharField(_("config hash"), max_length=64, blank=True, default="", db_index=True)
    signature = models.CharField(max_length=64, blank=True, default="", editable=False)

    architecture = models.CharField(_("architecture"), max_length=128, blank=True, default="")
    model_type = models.CharField(_("model type"), max_length=64, blank=True, default="")
    hub_id = models.CharField(_("hub id"), max_length=255, blank=True, default="")
    parameters = models.BigIntegerField(_("parameters"), default=0)
    dtype = models.CharField(_("data type"), max_length=16, blank=True, default="")
    size_bytes = models.BigIntegerField(_("size in bytes"), default=0)
    context_length = models.PositiveIntegerField(_("context length"), default=0, help_text=_("Tokens."))
    vocab_size = models.PositiveIntegerField(_("vocabulary size"), default=0)
    has_chat_template = models.BooleanField(_("has a chat template"), default=False)
    memory_fp32 = models.BigIntegerField(_("memory in fp32"), default=0, help_text=_("Bytes, estimated."))
    memory_bf16 = models.BigIntegerField(_("memory in bf16"), default=0, help_text=_("Bytes, estimated."))
    memory_nf4 = models.BigIntegerField(_("memory in NF4"), default=0, help_text=_("Bytes, estimated."))

    judged_for = models.CharField(max_length=64, blank=True, default="", editable=False)  # see bases/support.py
    refusal = models.CharField(_("rejection reason"), max_length=300, blank=True, default="")
    problem_code = models.CharField(_("problem"), max_length=64, blank=True, default="")
    problem_details = models.JSONField(default=dict, blank=True)
    missing = models.BooleanField(_("missing"), default=False)
    created_at = models.DateTimeField(_("found at"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated at"), auto_now=True)

    class Meta:
        ordering = ["name", "id"]
        verbose_name = _("base model")
        verbose_name_plural = _("base models")

    def __str__(self) -> str:
        return self.name

    @property
    def usable(self) -> bool:
        """Whole and present: adapters of this base may be activated and it may be loaded."""
        return not self.missing and not self.problem_code

    @property
    def problem_message(self) -> str:
        """What is wrong and what to do, in the reader's language; "" where nothing is."""
        return render(self.problem_code, self.problem_details)


class BaseLayers(models.Model):
    """The linear layers of a base model as the running side names them; a table apart because they are many."""

    base = models.OneToOneField(BaseModel, on_delete=models.CASCADE, related_name="layers")
    signature = models.CharField(max_length=64)  # of the base, when it was asked about
    layers = models.JSONField(default=dict)  # name -> [outputs, inputs, role], see hooks.py
    earlier_names = models.JSONField(default=dict)

    def __str__(self) -> str:
        return f"layers of base {self.base_id}"


class BaseMapping(models.Model):
    """An operator's word that the base recorded as `recorded` is `base` here; used for later adapters too."""

    recorded = models.CharField(_("recorded name"), max_length=512)
    recorded_hash = models.CharField(max_length=64, unique=True, editable=False)
    base = models.ForeignKey(BaseModel, on_delete=models.CASCADE, related_name="mappings")
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)

    class Meta:
        ordering = ["recorded", "id"]
        verbose_name = _("base mapping")
        verbose_name_plural = _("base mappings")

    def __str__(self) -> str:
        return f"{self.recorded} -> {self.base_id}"
