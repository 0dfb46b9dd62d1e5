from __future__ import annotations

from django.urls import re_path

from .chat.consumers import ChatConsumer
from .consumers import GenerateConsumer

websocket_urlpatterns = [
    re_path(r"^ws/generate/?$", GenerateConsumer.as_asgi(), name="ws_generate"),
    re_path(r"^ws/chat/?$", ChatConsumer.as_asgi(), name="ws_chat"),
]
