"""The ASGI application: Django for HTTP, Channels for websockets (same origin or bearer token only)."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "loraportal.settings")

from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

from typing import Any  # noqa: E402

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import re_path  # noqa: E402

from accounts.websocket import AuthMiddleware, refuse  # noqa: E402
from adapters.discovery import periodic_scan  # noqa: E402
from chat.routing import websocket_urlpatterns as chat_patterns  # noqa: E402
from inference.api.ws.routing import websocket_urlpatterns as generate_patterns  # noqa: E402

nowhere: Any = re_path("", refuse)  # type: ignore[arg-type]  # a websocket address that does not exist
application = ProtocolTypeRouter(
    {
        "http": django_application,
        "websocket": AuthMiddleware(URLRouter([*generate_patterns, *chat_patterns, nowhere])),
    }
)
periodic_scan.start()  # scans by itself where SCAN_INTERVAL asks for it; only web processes load this module
