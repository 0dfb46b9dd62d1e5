from __future__ import annotations

from django.conf import settings
from django.contrib import admin
from django.urls import include, path
from django.views.decorators.cache import cache_control
from django.views.i18n import JavaScriptCatalog

from common.routes import optional_slash
from loraportal.schema.views import SchemaView, docs

from . import pages, views

urlpatterns = [
    path("", views.home, name="home"),
    path("favicon.ico", views.favicon, name="favicon"),
    *optional_slash("settings", pages.settings_page, name="settings"),
    *optional_slash("healthz", views.healthz, name="healthz"),
    path(
        "i18n/catalog.js",
        cache_control(private=True, max_age=300)(JavaScriptCatalog.as_view(packages=["loraportal"])),
        name="javascript-catalog",
    ),
    path("i18n/", include("django.conf.urls.i18n")),
    path("admin/", admin.site.urls),
    *optional_slash("api/schema", SchemaView.as_view(), "api-schema"),
    *optional_slash("api/docs", docs, "api-docs"),
    path("", include("accounts.urls")),
    path("", include("adapters.urls")),
    path("", include("inference.urls")),
    path("", include("chat.urls")),
    path("", include("comparison.urls")),
    path("", include("prompts.urls")),
    path("", include("evaluations.urls")),
]

if settings.DEBUG:
    urlpatterns += [path("styleguide", views.styleguide, name="styleguide")]

handler400 = "loraportal.errors.bad_request"
handler403 = "loraportal.errors.forbidden"
handler404 = "loraportal.errors.not_found"
handler500 = "loraportal.errors.server_error"
