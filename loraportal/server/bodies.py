"""Bodies that are too large are refused while they arrive; Daphne would first store them whole on disk."""

from __future__ import annotations

import time
from typing import Any

from daphne.http_protocol import HTTPFactory, WebRequest
from django.conf import settings
from django.http import JsonResponse
from django.utils.translation import gettext as _
from twisted.internet import reactor

from common.api import error_body
from common.numbers import grouped
from inference.api.doors import is_door
from inference.measuring import refusals

LINGER = 2.0  # seconds in which the client may finish sending, so that it reads the answer before the connection ends


class BoundedRequest(WebRequest):
    """A request whose body is at most DATA_UPLOAD_MAX_MEMORY_SIZE bytes; 413 and the end of the connection beyond."""

    refused = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.came_in = time.monotonic()  # made when the first line is there

    def gotLength(self, length: int | None) -> None:  # noqa: N802  (Twisted's name)
        too_long = length is not None and length > settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        super().gotLength(0 if too_long else length)
        if too_long:
            self.refuse()

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802
        if not self.refused and self.content.tell() + len(data) > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
            self.refuse()
        if not self.refused:
            super().handleContentChunk(data)

    def process(self) -> None:
        if self.refused:
            self.channel.loseConnection()
        else:
            super().process()

    def refuse(self) -> None:
        self.refused = True
        if is_door(self.channel._path.partition(b"?")[0].decode("latin-1")):  # what is read of the request so far
            refusals.note("body_too_large")
        message = _("The request body is larger than %(limit)s bytes.") % {
            "limit": grouped(settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
        }
        body = JsonResponse(error_body("body_too_large", message)).content
        head = f"HTTP/1.1 413 Content Too Large\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self.channel.transport.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        reactor.callLater(LINGER, self.channel.transport.abortConnection)  # type: ignore[arg-type]


class BoundedFactory(HTTPFactory):
    def buildProtocol(self, address: Any) -> Any:  # noqa: N802
        protocol = super().buildProtocol(address)
        protocol.requestFactory = BoundedRequest
        return protocol
