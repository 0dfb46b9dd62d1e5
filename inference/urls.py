from __future__ import annotations

from django.urls import path
from django.views.generic import RedirectView

from common.routes import both
from inference.api.openai import views as openai
from inference.quota.usage import UsageView

from . import pages
from .api import rest
from .monitoring import health, metrics

urlpatterns = [
    *both("test", pages.test, "test"),
    *both("monitoring", pages.monitoring, "monitoring"),
    path("lora-test.html", RedirectView.as_view(pattern_name="test", query_string=True)),
    *both("api/lora/models/<int:pk>/test", rest.TestView.as_view(), "api_lora_test"),
    *both("api/inference/count", rest.CountView.as_view(), "api_inference_count"),
    *both("api/inference/status", rest.StatusView.as_view(), "api_inference_status"),
    *both("api/inference/load", rest.LoadView.as_view(), "api_inference_load"),
    *both("api/inference/unload", rest.UnloadView.as_view(), "api_inference_unload"),
    *both("readyz", health.readyz, "readyz"),
    *both("metrics", metrics.MetricsView.as_view(), "metrics"),
    *both("api/usage", UsageView.as_view(), "api_usage"),
    *both("v1/models", openai.ModelsView.as_view(), "openai_models"),
    *both("v1/models/<str:model>", openai.ModelView.as_view(), "openai_model"),
    *both("v1/chat/completions", openai.ChatCompletionsView.as_view(), "openai_chat_completions"),
    *both("v1/completions", openai.CompletionsView.as_view(), "openai_completions"),
]
