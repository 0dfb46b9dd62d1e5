"""The registry in the admin: read it, scan, activate, deactivate. Status is never edited as a field."""

from __future__ import annotations

from django.contrib import admin, messages
from django.contrib.auth.models import AbstractBaseUser
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _

from common.read_only import ReadOnly

from . import services
from .models import AdapterEvent, BaseMapping, BaseModel, LoraAdapter, Scan, Tag


class EventInline(ReadOnly, admin.TabularInline):
    model = AdapterEvent
    fields = readonly_fields = ("created_at", "kind", "actor_name", "from_status", "to_status", "reason")
    ordering = ("-id",)
    extra = 0
    can_delete = False

    @admin.display(description=_("reason"))
    def reason(self, event: AdapterEvent) -> str:
        return event.message


@admin.register(LoraAdapter)
class LoraAdapterAdmin(admin.ModelAdmin):
    list_display = ("name", "status_badge", "failure_code", "base", "rank", "size", "activated_at", "created_at")
    list_filter = ("status", "failure_code", "incomplete", "missing", "update_available", "base", "tags")
    list_select_related = ("base",)
    list_per_page = 50
    search_fields = ("name", "slug", "notes", "base_name_recorded", "run_name", "path")
    ordering = ("-created_at", "-id")
    filter_horizontal = ("tags",)
    inlines = (EventInline,)
    actions = ("scan_now", "activate", "deactivate")
    fields = (
        "name", "slug", "notes", "tags", "status", "why", "base", "base_name_recorded", "peft_type", "rank", "alpha",
        "target_modules", "size_bytes", "run_name", "checkpoint", "is_best", "is_last", "duplicate_of", "incomplete",
        "missing", "update_available", "path", "digest", "effect_kl", "effect_changed", "use_count", "use_tokens",
        "last_used_at", "trained_at", "activated_at", "created_at", "updated_at",
    )  # fmt: skip
    readonly_fields = tuple(name for name in fields if name not in {"name", "slug", "notes", "tags"})

    class Media:
        css = {"all": ("adapters/admin.css",)}

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: LoraAdapter | None = None) -> bool:
        return False  # forgetting an adapter drains it first; see the API and the pages

    @admin.display(description=_("status"), ordering="status")
    def status_badge(self, adapter: LoraAdapter) -> SafeString:
        return format_html(
            '<span class="status-badge status-{}">{}</span>', adapter.status, adapter.get_status_display()
        )

    @admin.display(description=_("size"), ordering="size_bytes")
    def size(self, adapter: LoraAdapter) -> str:
        from django.template.defaultfilters import filesizeformat

        return filesizeformat(adapter.size_bytes)

    @admin.display(description=_("reason"))
    def why(self, adapter: LoraAdapter) -> str:
        return adapter.failure_message

    @admin.action(description=_("Scan all folders now (ignores the selection)"))
    def scan_now(self, request: HttpRequest, queryset: QuerySet[LoraAdapter]) -> None:
        try:
            summary = services.scan(_user(request))
        except services.BusyError:
            self.message_user(request, _t("A scan is running already."), messages.ERROR)
            return
        text = _t("Found %(found)d (%(new)d new, %(changed)d changed), %(missing)d missing, %(incomplete)d incomplete.")
        self.message_user(request, text % vars(summary), messages.SUCCESS)

    @admin.action(description=_("Activate the selected adapters"))
    def activate(self, request: HttpRequest, queryset: QuerySet[LoraAdapter]) -> None:
        for adapter in queryset:
            try:
                services.activate(adapter.pk, _user(request))
            except services.ActivationFailed as failed:
                self.message_user(request, f"{adapter.name}: {failed.message}", messages.ERROR)
            except services.BusyError:
                self.message_user(request, _busy(adapter), messages.WARNING)
            else:
                text = _t("%(name)s is active.") % {"name": adapter.name}
                self.message_user(request, text, messages.SUCCESS)

    @admin.action(description=_("Deactivate the selected adapters"))
    def deactivate(self, request: HttpRequest, queryset: QuerySet[LoraAdapter]) -> None:
        for adapter in queryset:
            try:
                services.deactivate(adapter.pk, _user(request))
            except services.BusyError:
                self.message_user(request, _busy(adapter), messages.WARNING)
            else:
                text = _t("%(name)s is not active.") % {"name": adapter.name}
                self.message_user(request, text, messages.SUCCESS)


def _user(request: HttpRequest) -> AbstractBaseUser | None:
    return request.user if request.user.is_authenticated else None


def _busy(adapter: LoraAdapter) -> str:
    return _t("%(name)s: somebody else is at this adapter just now.") % {"name": adapter.name}


@admin.register(BaseModel)
class BaseModelAdmin(ReadOnly, admin.ModelAdmin):
    list_display = ("name", "architecture", "parameters", "dtype", "size_bytes", "context_length", "problem_message")
    search_fields = ("name", "slug", "hub_id")


@admin.register(BaseMapping)
class BaseMappingAdmin(admin.ModelAdmin):
    list_display = ("recorded", "base", "actor", "created_at")
    list_select_related = ("base", "actor")
    search_fields = ("recorded",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: BaseMapping | None = None) -> bool:
        return False


@admin.register(AdapterEvent)
class AdapterEventAdmin(ReadOnly, admin.ModelAdmin):
    list_display = ("created_at", "adapter_name", "kind", "actor_name", "from_status", "to_status", "code")
    list_filter = ("kind", "code")
    search_fields = ("adapter_name", "actor_name")
    date_hierarchy = "created_at"


@admin.register(Scan)
class ScanAdmin(ReadOnly, admin.ModelAdmin):
    list_display = ("started_at", "state", "found", "new", "changed", "missing", "incomplete", "duration_ms")
    list_filter = ("state",)


@admin.register(Tag)
class TagAdmin(admin.ModelAdmin):
    search_fields = ("name",)
