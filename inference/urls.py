from __future__ import annotations

from django.urls import path
from django.views.generic import RedirectView

from loraportal.routes import both

from . import api, pages

urlpatterns = [
    *both("test", pages.test, "test"),
    path("lora-test.html", RedirectView.as_view(pattern_name="test", query_string=True)),
    *both("api/lora/models/<int:pk>/test", api.TestView.as_view(), "api_lora_test"),
    *both("api/inference/status", api.StatusView.as_view(), "api_inference_status"),
    *both("api/inference/unload", api.UnloadView.as_view(), "api_inference_unload"),
]
