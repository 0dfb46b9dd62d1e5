from __future__ import annotations

from inference.urls import urlpatterns

handler404 = "loraportal.errors.not_found"
__all__ = ["urlpatterns"]
