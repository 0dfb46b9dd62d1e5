from __future__ import annotations

from django.urls import path
from django.views.generic import RedirectView

from common.routes import both

from . import pages
from .api import views

urlpatterns = [
    *both("models", pages.models, "models"),
    *both("models/<int:pk>", pages.model, "model"),
    path("model-management.html", RedirectView.as_view(pattern_name="models", query_string=True)),
    *both("api/lora/models", views.Adapters.as_view(), "api-adapters"),
    *both("api/lora/models/<int:pk>", views.Adapter.as_view(), "api-adapter"),
    *both("api/lora/models/<int:pk>/activate", views.Activate.as_view(), "api-adapter-activate"),
    *both("api/lora/models/<int:pk>/deactivate", views.Deactivate.as_view(), "api-adapter-deactivate"),
    *both("api/lora/models/<int:pk>/events", views.Events.as_view(), "api-adapter-events"),
    *both("api/lora/models/<int:pk>/metrics", views.Metrics.as_view(), "api-adapter-metrics"),
    *both("api/lora/models/bulk", views.Bulk.as_view(), "api-adapters-bulk"),
    *both("api/lora/scan", views.ScanView.as_view(), "api-scan"),
    *both("api/lora/bases", views.Bases.as_view(), "api-bases"),
]
