from __future__ import annotations

from django.urls import path
from django.views.generic import RedirectView

from loraportal.routes import both

from . import pages

urlpatterns = [
    *both("models", pages.models, "models"),
    path("model-management.html", RedirectView.as_view(pattern_name="models", query_string=True)),
]
