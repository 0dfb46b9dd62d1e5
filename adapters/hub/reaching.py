"""One GET for the hub's client: to the hub or a host that it may send to for files, bounded in time and length.

Each redirect comes here as a request of its own and is looked at like the first. The token goes to the hub alone. The
connection goes to the address that was looked at; no proxy is asked, no cookie kept, nothing is unpacked.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from threading import Event

import httpx2
from django.conf import settings

from adapters.failures import Refused
from common import outbound
from common.outbound import Place, place_of

from . import hosts

# Together less than a job's lock lasts without a sign of life (leases.py), also where a redirect is followed.
CONNECT_SECONDS = 8.0
READ_SECONDS = 15.0  # of silence
CALL_SECONDS = 20.0  # of one call, unless it says `whole`
CALL_BYTES = 8 * 2**20  # of one answer, unless it says `most`
OTHER_BYTES = 2**20  # of an answer that is no success
MAX_REDIRECTS = 5
LONGEST_URL = 8192  # characters; addresses of files are signed
PIECE = 1 << 20
PASSED_ON = {"accept", "range", "user-agent", "authorization"}  # of a request
LEFT_OUT = {"set-cookie", "connection", "transfer-encoding", "keep-alive"}  # of an answer


class LostError(Exception):
    """There is no connection, or it ended too early: another attempt may succeed."""


def client() -> httpx2.Client:
    return httpx2.Client(
        transport=Transport(), follow_redirects=True, max_redirects=MAX_REDIRECTS, trust_env=False, timeout=None
    )


class Transport(httpx2.BaseTransport):
    """A request's extensions may say `whole` (seconds) and `most` (bytes)."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises Refused, LostError."""
        place = checked(str(request.url))
        if request.method != "GET":
            raise Refused("import_bad_answer", reason=f"HTTP {request.method}")
        whole = float(request.extensions.get("whole", CALL_SECONDS))
        most = int(request.extensions.get("most", CALL_BYTES))
        with ExitStack() as held:
            sock = _connected(place)
            held.enter_context(closing(sock))
            connection = http.client.HTTPConnection(place.host, place.port)
            connection.sock = sock
            try:
                ended = held.enter_context(outbound.ended_after(sock, whole))
                _send(connection, request, is_hub=place == hosts.hub())
                answer = connection.getresponse()
            except (OSError, http.client.HTTPException, ValueError):
                raise LostError from None
            held.callback(answer.close)
            if ended.is_set():  # half a line may look like a whole one
                raise LostError
            if answer.getheader("Content-Encoding", "identity").strip().lower() != "identity":
                raise Refused("import_bad_answer", reason="Content-Encoding")
            headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in LEFT_OUT]
            limit = most if 200 <= answer.status < 300 else OTHER_BYTES
            body = Body(answer, limit, ended, held.pop_all())
            return httpx2.Response(answer.status, headers=headers, stream=body)


class Body(httpx2.SyncByteStream):
    def __init__(self, answer: http.client.HTTPResponse, limit: int, ended: Event, held: ExitStack) -> None:
        self.answer, self.limit, self.ended, self.held = answer, limit, ended, held

    def __iter__(self) -> Iterator[bytes]:
        """Raises Refused where it is too long, LostError."""
        length = 0
        try:
            while data := self.answer.read1(PIECE):
                length += len(data)
                if length > self.limit:
                    raise Refused("import_bad_answer", reason="Content-Length")
                yield data
        except (OSError, http.client.HTTPException, ValueError):
            raise LostError from None
        if self.ended.is_set():
            raise LostError

    def close(self) -> None:
        self.held.close()


def checked(url: str) -> Place:
    """Raises Refused for whatever no setting names."""
    try:
        place = place_of(url)
        if len(url) > LONGEST_URL or not hosts.may_reach(place):
            raise Refused("import_redirected", host=place.host)
    except ValueError:
        raise Refused("import_redirected", host="?") from None
    return place


def _connected(place: Place) -> socket.socket:
    try:
        return outbound.connected(place, settings.HUB_PRIVATE_HOSTS, CONNECT_SECONDS, READ_SECONDS)
    except outbound.PrivateAddressError:
        raise Refused("import_private", host=place.host) from None
    except (outbound.UnreachableError, OSError):
        raise LostError from None


def _send(connection: http.client.HTTPConnection, request: httpx2.Request, is_hub: bool) -> None:
    connection.putrequest("GET", request.url.raw_path.decode("ascii"), skip_host=True, skip_accept_encoding=True)
    connection.putheader("Host", request.url.netloc.decode("ascii"))
    connection.putheader("Accept-Encoding", "identity")
    connection.putheader("Connection", "close")
    for name, value in request.headers.multi_items():
        if name.lower() in PASSED_ON and (is_hub or name.lower() != "authorization"):
            connection.putheader(name, value)
    connection.endheaders()
