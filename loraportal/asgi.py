"""The ASGI application: Django for HTTP, Channels for websockets (same origin or bearer token only)."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "loraportal.settings")

from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

from typing import Any  # noqa: E402

from asgiref.sync import ThreadSensitiveContext  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import re_path  # noqa: E402

from accounts.websocket import AuthMiddleware, refuse  # noqa: E402
from chat.routing import websocket_urlpatterns as chat_patterns  # noqa: E402
from inference.api.ws.routing import websocket_urlpatterns as generate_patterns  # noqa: E402
from inference.measuring import refusals  # noqa: E402


async def sockets(scope: Any, receive: Any, send: Any) -> None:
    """Each connection asks the database on a thread of its own, as Django has each request do: none waits for another.

    Without this all connections share one thread, and a write that waits for the database's lock holds all of them.
    """
    async with ThreadSensitiveContext():
        await open_sockets(scope, receive, send)


nowhere: Any = re_path("", refuse)  # type: ignore[arg-type]  # a websocket address that does not exist
open_sockets = AuthMiddleware(URLRouter([*generate_patterns, *chat_patterns, nowhere]), refusals.note)
application = ProtocolTypeRouter({"http": django_application, "websocket": sockets})
