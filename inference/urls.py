from __future__ import annotations

from django.urls import path
from django.views.generic import RedirectView

from common.routes import optional_slash
from inference.api.openai import views as openai
from inference.quota.usage import UsageView

from . import pages
from .api import rest, scoring, targets
from .monitoring import health, metrics, views

urlpatterns = [
    *optional_slash("test", pages.test, "test"),
    *optional_slash("monitoring", pages.monitoring, "monitoring"),
    path("lora-test.html", RedirectView.as_view(pattern_name="test", query_string=True)),
    *optional_slash("api/lora/models/<int:pk>/test", rest.TestView.as_view(), "api_lora_test"),
    *optional_slash("api/inference/targets", targets.TargetsView.as_view(), "api_inference_targets"),
    *optional_slash("api/inference/count", rest.CountView.as_view(), "api_inference_count"),
    *optional_slash("api/inference/score", scoring.ScoreView.as_view(), "api_inference_score"),
    *optional_slash("api/inference/status", rest.StatusView.as_view(), "api_inference_status"),
    *optional_slash("api/inference/load", rest.LoadView.as_view(), "api_inference_load"),
    *optional_slash("api/inference/unload", rest.UnloadView.as_view(), "api_inference_unload"),
    *optional_slash("api/monitoring/history", views.HistoryView.as_view(), "api_monitoring_history"),
    *optional_slash("api/monitoring/requests", views.RequestsView.as_view(), "api_monitoring_requests"),
    *optional_slash("readyz", health.readyz, "readyz"),
    *optional_slash("metrics", metrics.MetricsView.as_view(), "metrics"),
    *optional_slash("api/usage", UsageView.as_view(), "api_usage"),
    *optional_slash("v1/models", openai.ModelsView.as_view(), "openai_models"),
    *optional_slash("v1/models/<str:model>", openai.ModelView.as_view(), "openai_model"),
    *optional_slash("v1/chat/completions", openai.ChatCompletionsView.as_view(), "openai_chat_completions"),
    *optional_slash("v1/completions", openai.CompletionsView.as_view(), "openai_completions"),
]
