"""The ASGI application: Django for HTTP, Channels for websockets (same origin or bearer token only)."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "loraportal.settings")

from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

from typing import Any  # noqa: E402

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.signals import request_finished, request_started  # noqa: E402
from django.db import close_old_connections, reset_queries  # noqa: E402
from django.urls import re_path  # noqa: E402

from accounts.websocket import AuthMiddleware, refuse  # noqa: E402
from chat.routing import websocket_urlpatterns as chat_patterns  # noqa: E402
from common.lent_threads import LentThreads  # noqa: E402
from inference.api.ws.routing import websocket_urlpatterns as generate_patterns  # noqa: E402
from inference.measuring import refusals  # noqa: E402


def on_lent_threads(app: Any) -> Any:
    """Each request and each websocket asks the database on a thread that it does not share: none waits for another.

    Without this all websockets have one thread, and a write that waits for the database's lock holds all of them.
    """

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        async with LentThreads():
            await app(scope, receive, send)

    return answer


# Each request would wait for a thread that does this. `LentThreads` looks after connections on the thread where they
# are; statements are only kept with DEBUG, and not more than some thousand.
request_started.disconnect(close_old_connections)
request_finished.disconnect(close_old_connections)
request_started.disconnect(reset_queries)
nowhere: Any = re_path("", refuse)  # type: ignore[arg-type]  # a websocket address that does not exist
sockets = AuthMiddleware(URLRouter([*generate_patterns, *chat_patterns, nowhere]), refusals.note)
application = ProtocolTypeRouter({"http": on_lent_threads(django_application), "websocket": on_lent_threads(sockets)})
