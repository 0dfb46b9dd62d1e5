from __future__ import annotations

from django.urls import path
from django.views.generic import RedirectView

from common.routes import optional_slash

from . import pages
from .api import blends, exports, imports, uploads, views

urlpatterns = [
    *optional_slash("models", pages.models, "models"),
    *optional_slash("models/<int:pk>", pages.model, "model"),
    path("model-management.html", RedirectView.as_view(pattern_name="models", query_string=True)),
    *optional_slash("api/lora/models", views.AdaptersView.as_view(), "api-adapters"),
    *optional_slash("api/lora/models/<int:pk>", views.AdapterView.as_view(), "api-adapter"),
    *optional_slash("api/lora/models/<int:pk>/activate", views.ActivateView.as_view(), "api-adapter-activate"),
    *optional_slash("api/lora/models/<int:pk>/deactivate", views.DeactivateView.as_view(), "api-adapter-deactivate"),
    *optional_slash("api/lora/models/<int:pk>/repair", views.RepairView.as_view(), "api-adapter-repair"),
    *optional_slash("api/lora/models/<int:pk>/events", views.EventsView.as_view(), "api-adapter-events"),
    *optional_slash("api/lora/models/<int:pk>/metrics", views.AdapterMetricsView.as_view(), "api-adapter-metrics"),
    *optional_slash("api/lora/models/<int:pk>/curve", views.RunCurveView.as_view(), "api-adapter-curve"),
    *optional_slash("api/lora/models/bulk", views.BulkView.as_view(), "api-adapters-bulk"),
    *optional_slash("api/lora/models/<int:pk>/export", exports.ExportView.as_view(), "api-adapter-export"),
    *optional_slash("api/lora/models/<int:pk>/merges", exports.AdapterMergesView.as_view(), "api-adapter-merges"),
    *optional_slash("api/lora/merges", exports.MergesView.as_view(), "api-merges"),
    *optional_slash("api/lora/merges/<int:pk>", exports.MergeView.as_view(), "api-merge"),
    *optional_slash("api/lora/merges/<int:pk>/download", exports.MergeDownloadView.as_view(), "api-merge-download"),
    *optional_slash("api/lora/merges/<int:pk>/files/<str:name>", exports.MergeFileView.as_view(), "api-merge-file"),
    *optional_slash("api/lora/scan", views.ScanView.as_view(), "api-scan"),
    *optional_slash("api/lora/uploads", uploads.UploadsView.as_view(), "api-uploads"),
    *optional_slash("api/lora/uploads/<slug:key>", uploads.UploadView.as_view(), "api-upload"),
    *optional_slash("api/lora/uploads/<slug:key>/files/<int:index>", uploads.PieceView.as_view(), "api-upload-file"),
    *optional_slash("api/lora/uploads/<slug:key>/finish", uploads.FinishView.as_view(), "api-upload-finish"),
    *optional_slash("api/lora/imports", imports.ImportsView.as_view(), "api-imports"),
    *optional_slash("api/lora/imports/<int:pk>", imports.ImportView.as_view(), "api-import"),
    *optional_slash("api/lora/blends", blends.BlendsView.as_view(), "api-blends"),
    *optional_slash("api/lora/bases", views.BasesView.as_view(), "api-bases"),
]
