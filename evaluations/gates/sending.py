"""One POST to an address that an operator has named: only to hosts of WEBHOOK_HOSTS, and nowhere else by any way.

No redirect is followed, no proxy asked, no cookie kept. The connection goes to the very address that was looked at, so
that a name which changes meanwhile leads nowhere else. Of the answer only the status is read.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
from contextlib import closing, suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from django.conf import settings

LONGEST_URL = 500  # characters
CONNECT_SECONDS = 5.0
WHOLE_SECONDS = 15.0  # of one attempt, however slowly the other side speaks
PORTS = {"https": 443, "http": 80}


class NotSentError(Exception):
    """`code`: why there was no answer."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Place(NamedTuple):
    scheme: str
    host: str
    port: int


def place_of(text: str) -> Place:
    """Of an address with scheme. Raises ValueError."""
    parts = urlsplit(text)
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme not in PORTS or not host or parts.username is not None or parts.password is not None:
        raise ValueError("not an address")
    return Place(parts.scheme, host.lower(), parts.port or PORTS[parts.scheme])


def allowed() -> set[Place]:
    """Of WEBHOOK_HOSTS: `ci.example.org`, `ci.example.org:8443` by HTTPS, `http://ci:8080` without.

    Raises ValueError.
    """
    places = set()
    for entry in settings.WEBHOOK_HOSTS:
        text = entry if "://" in entry else f"https://{entry}"
        if urlsplit(text).path.strip("/") or urlsplit(text).query:
            raise ValueError("not a host")
        places.add(place_of(text))
    return places


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


NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_reachable(address: str) -> bool:
    """Whether a host may lead to this address: never to one of a machine's own link, where clouds keep their secrets,
    nor to one that is no single host; to private ones where WEBHOOK_PRIVATE_HOSTS says so."""
    found: Any = ipaddress.ip_address(address.partition("%")[0])
    if found.version == 6:  # an address of the older kind may stand inside
        inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF) if found in NAT64 else None
        found = found.ipv4_mapped or found.sixtofour or inner or found
    if found.is_link_local or found.is_multicast or found.is_unspecified:
        return False
    if found.is_reserved and not found.is_loopback:
        return False
    return bool(found.is_global or settings.WEBHOOK_PRIVATE_HOSTS)


def addresses_of(place: Place) -> list[tuple[Any, ...]]:
    """As getaddrinfo tells them. Raises NotSentError where there is none, or one that may not be reached."""
    try:
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise NotSentError("webhook_unreachable") from None
    if not all(is_reachable(str(one[4][0])) for one in found):
        raise NotSentError("webhook_private")
    return list(found)


def post(url: str, body: bytes, headers: dict[str, str]) -> int:
    """The HTTP status. Raises NotSentError."""
    place = check(url)
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = http.client.HTTPConnection(place.host, place.port)
    if place.scheme == "https":
        connection.default_port = PORTS["https"]  # so that Host names no port that goes without saying
    try:
        with closing(_secured(_connected(addresses_of(place)), place)) as connection.sock:
            # Whoever sends a byte now and then would never meet a limit of silence.
            ended = threading.Event()
            ending = threading.Timer(WHOLE_SECONDS, _end, [connection.sock, ended])
            ending.daemon = True
            ending.start()
            try:
                if isinstance(connection.sock, ssl.SSLSocket):
                    connection.sock.do_handshake()
                connection.request("POST", target, body, headers)
                status = connection.getresponse().status
                if ended.is_set():  # half a line may look like a whole one
                    raise NotSentError("webhook_unreachable")
                return status
            finally:
                ending.cancel()
    except (OSError, http.client.HTTPException, ValueError):
        raise NotSentError("webhook_unreachable") from None


def _connected(addresses: list[tuple[Any, ...]]) -> socket.socket:
    for family, kind, protocol, _name, address in addresses:
        raw = socket.socket(family, kind, protocol)
        raw.settimeout(CONNECT_SECONDS)
        try:
            raw.connect(address)
        except OSError:
            raw.close()
            continue
        raw.settimeout(WHOLE_SECONDS)
        return raw
    raise NotSentError("webhook_unreachable")


def _secured(raw: socket.socket, place: Place) -> socket.socket:
    if place.scheme == "http":
        return raw
    try:
        context = ssl.create_default_context()
        return context.wrap_socket(raw, server_hostname=place.host, do_handshake_on_connect=False)
    except BaseException:
        raw.close()
        raise


def _end(sock: socket.socket, ended: threading.Event) -> None:
    ended.set()
    with suppress(OSError, ValueError):
        sock.shutdown(socket.SHUT_RDWR)
