from __future__ import annotations

from loraportal.routes import both

from . import api

urlpatterns = [
    *both("api/lora/models/<int:pk>/test", api.TestView.as_view(), "api_lora_test"),
    *both("api/inference/status", api.StatusView.as_view(), "api_inference_status"),
    *both("api/inference/unload", api.UnloadView.as_view(), "api_inference_unload"),
]
