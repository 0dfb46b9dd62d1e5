"""The ASGI application: Django for HTTP, Channels for websockets (same-origin only)."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "loraportal.settings")

from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402

from accounts.websocket import AuthMiddleware  # noqa: E402
from inference.routing import websocket_urlpatterns  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": django_application,
        "websocket": AuthMiddleware(AllowedHostsOriginValidator(URLRouter(websocket_urlpatterns))),
    }
)
