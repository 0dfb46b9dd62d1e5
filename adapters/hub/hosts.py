"""Where an import may connect to: the hub itself, and the hosts that it may send to for files."""

from __future__ import annotations

from typing import NamedTuple

from django.conf import settings

from common.outbound import PORTS, Place, place_of, place_of_host


class FileHost(NamedTuple):
    """`below`: any name that ends with the host's is meant, not the host itself."""

    place: Place
    below: bool

    def covers(self, place: Place) -> bool:
        if (place.scheme, place.port) != (self.place.scheme, self.place.port):
            return False
        return place.host.endswith(f".{self.place.host}") if self.below else place.host == self.place.host


def is_on() -> bool:
    return bool(settings.HUB_IMPORT and settings.HF_ENDPOINT)


def hub() -> Place:
    """Of HF_ENDPOINT. Raises ValueError."""
    return place_of(settings.HF_ENDPOINT)


def file_hosts() -> list[FileHost]:
    """Of HUB_FILE_HOSTS: `cdn.example.org`, `*.example.org` for all below it. Raises ValueError."""
    found = []
    for entry in settings.HUB_FILE_HOSTS:
        scheme, separator, rest = entry.rpartition("://")
        below = rest.startswith("*.")
        place = place_of_host(f"{scheme}{separator}{rest.removeprefix('*.')}")
        if "*" in place.host:
            raise ValueError("not a host")
        found.append(FileHost(place, below))
    return found


def may_reach(place: Place) -> bool:
    """Raises ValueError where a setting is wrong."""
    return place == hub() or any(host.covers(place) for host in file_hosts())


def hub_name() -> str:
    """For people. Raises ValueError."""
    place = hub()
    return place.host if place.port == PORTS[place.scheme] else f"{place.host}:{place.port}"
