"""One POST to an address that an operator has named: only to hosts of WEBHOOK_HOSTS, and nowhere else by any way.

No redirect is followed, no proxy asked, no cookie kept (`common/outbound.py`). Of the answer only the status is read.
"""

from __future__ import annotations

import http.client
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

from common import outbound
from common.outbound import PORTS, Place, place_of

LONGEST_URL = 500  # characters
CONNECT_SECONDS = 5.0
WHOLE_SECONDS = 15.0  # of one attempt, however slowly the other side speaks


class NotSentError(Exception):
    """`code`: why there was no answer."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def allowed() -> set[Place]:
    """Of WEBHOOK_HOSTS. Raises ValueError."""
    return {outbound.place_of_host(entry) for entry in settings.WEBHOOK_HOSTS}


def check(url: str) -> Place:
    """Raises NotSentError webhook_refused for whatever WEBHOOK_HOSTS does not name."""
    try:
        if len(url) > LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url:
            raise NotSentError("webhook_refused")
        place = place_of(url)
        if place not in allowed():
            raise NotSentError("webhook_refused")
    except ValueError:
        raise NotSentError("webhook_refused") from None
    return place


def post(url: str, body: bytes, headers: dict[str, str]) -> int:
    """The HTTP status. Raises NotSentError."""
    place = check(url)
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection: Any = http.client.HTTPConnection(place.host, place.port)
    if place.scheme == "https":
        connection.default_port = PORTS["https"]  # so that Host names no port that goes without saying
    try:
        with (
            closing(
                outbound.connected(place, settings.WEBHOOK_PRIVATE_HOSTS, CONNECT_SECONDS, WHOLE_SECONDS)
            ) as connection.sock,
            outbound.ended_after(connection.sock, WHOLE_SECONDS) as ended,
        ):
            connection.request("POST", target, body, headers)
            status: int = connection.getresponse().status
            if ended.is_set():
                raise NotSentError("webhook_unreachable")
            return status
    except outbound.PrivateAddressError:
        raise NotSentError("webhook_private") from None
    except (outbound.UnreachableError, OSError, http.client.HTTPException, ValueError):
        raise NotSentError("webhook_unreachable") from None
