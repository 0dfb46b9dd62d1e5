from __future__ import annotations

from django.urls import re_path

from .consumer import GenerateConsumer

websocket_urlpatterns = [
    re_path(r"^ws/generate/?$", GenerateConsumer.as_asgi(), name="ws_generate"),
]
