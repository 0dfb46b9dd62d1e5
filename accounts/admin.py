from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from common.read_only import ReadOnly

from .models import AccountEvent, ApiToken
from .tokens import revoke
from .views import admins_door, own_password

admin.site.login = admins_door  # type: ignore[method-assign]
admin.site.password_change = own_password  # type: ignore[method-assign, assignment]
admin.site.site_header = admin.site.site_title = "LoRA Portal"
admin.site.index_title = _("Administration")
admin.site.unregister(User)


@admin.register(User)
class PersonAdmin(UserAdmin):  # type: ignore[type-arg]
    """Names and Django's single permissions. Who may sign in, and as what, is changed on the page *People* alone."""

    fieldsets = (
        (None, {"fields": ("username",)}),
        (_("Personal info"), {"fields": ("first_name", "last_name", "email")}),
        (_("Permissions"), {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")}),
        (_("Important dates"), {"fields": ("last_login", "date_joined")}),
    )
    readonly_fields = ("is_active", "is_staff", "is_superuser", "last_login", "date_joined")
    filter_horizontal = ()  # plain lists: Django's boxes are poor for screen readers and set styles inline
    list_display = ("username", "first_name", "last_name", "is_active", "is_staff", "is_superuser")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return bool(request.user.is_superuser)  # who gives permissions could give them to themselves

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return False

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:  # noqa: A002
        return redirect("person", int(id))


@admin.register(AccountEvent)
class AccountEventAdmin(ReadOnly, admin.ModelAdmin):
    list_display = ("created_at", "account_name", "kind", "told", "actor_name")
    list_filter = ("kind",)
    search_fields = ("account_name", "actor_name")
    date_hierarchy = "created_at"
    fields = ("created_at", "account_name", "kind", "told", "actor_name")


@admin.register(ApiToken)
class ApiTokenAdmin(admin.ModelAdmin):
    """Look and revoke. Tokens are issued where they can be shown: tokens page, `manage.py issue_token`."""

    list_display = [
        "name",
        "user",
        "prefix",
        "scopes",
        "created_at",
        "expires_at",
        "last_used_at",
        "revoked_at",
    ]
    list_select_related = ["user"]
    search_fields = ["name", "prefix", "user__username"]
    readonly_fields = ["user", "prefix", "scopes", "created_at", "expires_at", "last_used_at", "revoked_at"]
    fields = ["name", *readonly_fields]
    actions = ["revoke_selected"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    @admin.action(description=_("Revoke selected tokens"), permissions=["change"])
    def revoke_selected(self, request: HttpRequest, queryset: QuerySet[ApiToken]) -> None:
        count = sum(revoke(token) for token in queryset)
        message = ngettext("%(count)d token revoked.", "%(count)d tokens revoked.", count) % {"count": count}
        self.message_user(request, message)
