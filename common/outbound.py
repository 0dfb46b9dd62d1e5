"""Connections to hosts that a setting names: where they may lead, and how long they may last.

The connection goes to the very address that was looked at, so that a name which changes meanwhile leads nowhere else.
No proxy is asked.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

PORTS = {"https": 443, "http": 80}
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class UnreachableError(Exception):
    """There is no such host, or it does not answer."""


class PrivateAddressError(Exception):
    """The host leads to an address that it may not lead to."""


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


def place_of_host(entry: str) -> Place:
    """Of a host as a setting names it: `ci.example.org`, `ci.example.org:8443` by HTTPS, `http://ci:8080` without.

    Raises ValueError.
    """
    text = entry if "://" in entry else f"https://{entry}"
    if urlsplit(text).path.strip("/") or urlsplit(text).query:
        raise ValueError("not a host")
    return place_of(text)


def is_reachable(address: str, private: bool) -> bool:
    """Whether a host may lead to this address: never to one of a machine's own link, where clouds keep their secrets,
    nor to one that is no single host; to `private` ones where a setting says so."""
    found: Any = ipaddress.ip_address(address.partition("%")[0])
    if found.version == 6:  # an address of the older kind may stand inside
        inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF) if found in NAT64 else None
        found = found.ipv4_mapped or found.sixtofour or inner or found
    if found.is_link_local or found.is_multicast or found.is_unspecified:
        return False
    if found.is_reserved and not found.is_loopback:
        return False
    return bool(found.is_global or private)


def addresses_of(place: Place, private: bool) -> list[tuple[Any, ...]]:
    """As getaddrinfo tells them. Raises UnreachableError, and PrivateAddressError where one may not be reached."""
    try:
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UnreachableError from None
    if not all(is_reachable(str(one[4][0]), private) for one in found):
        raise PrivateAddressError
    return list(found)


def connected(place: Place, private: bool, connect_seconds: float, read_seconds: float) -> socket.socket:
    """A socket, for HTTPS before its handshake (`ended_after` does that). `connect_seconds`: for all addresses of the
    host together. Raises UnreachableError, PrivateAddressError."""
    until = time.monotonic() + connect_seconds
    addresses = addresses_of(place, private)
    for number, (family, kind, protocol, _name, address) in enumerate(addresses):
        raw = socket.socket(family, kind, protocol)
        raw.settimeout(max(0.1, (until - time.monotonic()) / (len(addresses) - number)))
        try:
            raw.connect(address)
        except OSError:
            raw.close()
            continue
        raw.settimeout(read_seconds)
        return _secured(raw, place)
    raise UnreachableError


def _secured(raw: socket.socket, place: Place) -> socket.socket:
    if place.scheme == "http":
        return raw
    try:
        context = ssl.create_default_context()
        return context.wrap_socket(raw, server_hostname=place.host, do_handshake_on_connect=False)
    except BaseException:
        raw.close()
        raise


@contextmanager
def ended_after(sock: socket.socket, seconds: float) -> Iterator[threading.Event]:
    """Whoever sends a byte now and then would never meet a limit of silence: after so many seconds the connection ends.
    The event tells that it did, since half a line may look like a whole one."""
    ended = threading.Event()
    ending = threading.Timer(seconds, _end, [sock, ended])
    ending.daemon = True
    ending.start()
    try:
        if isinstance(sock, ssl.SSLSocket):
            sock.do_handshake()
        yield ended
    finally:
        ending.cancel()


def _end(sock: socket.socket, ended: threading.Event) -> None:
    ended.set()
    with suppress(OSError, ValueError):
        sock.shutdown(socket.SHUT_RDWR)
