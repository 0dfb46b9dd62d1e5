"""Slow password guessing down without locking an account's owner out.

Attempts are counted for each address at each account name, for each address over all names, and for each name over all
addresses. Beyond a number that is free each one makes the next wait twice as long. A browser that its owner has signed
in with (`browsers.py`) is counted by itself alone, as in OWASP's "Slow Down Online Guessing Attacks with Device
Cookies"; so whatever others do, it is let through.

An attempt is booked before the password is looked at, by one guarded update, so that parallel requests cannot slip
past together. The counters live in the database and so hold for all web processes. Names that exist and names that do
not are booked alike.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Case, DateTimeField, F, Value, When
from django.http import HttpRequest
from django.utils import timezone

from common.database import deadlocks_retried

from .models import SignInCounter

TRIES = 10  # of one booking, against other requests for the same key
SWEEP_EVERY = 256  # new rows
MOST_ROWS = 100_000
KEPT = timedelta(days=90)  # what is to be told to somebody who does not come
# When the next attempt is possible where nobody has to wait. No time of now: requests that meet, and web processes
# whose clocks differ, would then refuse each other.
AT_ONCE = datetime(1971, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Bound:
    """Within `window` the attempt number `free` makes the next one wait a second, each further one twice as long."""

    free: int
    longest: int  # seconds
    window: timedelta

    def next_at(self, now: datetime) -> Case:
        """When the next attempt is possible, from the number of those before this one."""
        waits = [2**power for power in range(self.longest.bit_length()) if 2**power < self.longest]
        return Case(
            When(attempts__lt=self.free - 1, then=Value(AT_ONCE)),
            *[
                When(attempts=self.free - 1 + index, then=Value(now + timedelta(seconds=wait)))
                for index, wait in enumerate(waits)
            ],
            default=Value(now + timedelta(seconds=self.longest)),
            output_field=DateTimeField(),
        )


DAY, QUARTER = timedelta(days=1), timedelta(minutes=15)
BOUNDS = {
    "pair": Bound(5, 900, DAY),  # one address at one name
    "address": Bound(50, 900, QUARTER),
    "name": Bound(100, 30, QUARTER),  # from however many addresses: that delays unknown browsers, and never for long
    "browser": Bound(10, 900, DAY),  # one that has signed in before; beyond, it is as unknown as any other
    "change": Bound(5, 900, DAY),  # the present password, asked by the page that changes it
}


class TooManyAttemptsError(Exception):
    """`retry_after`: whole seconds until an attempt is possible again."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"too many attempts, {retry_after} s left")
        self.retry_after = retry_after


@dataclass(frozen=True)
class Failures:
    """Wrong passwords for an account since its owner last signed in. `address`: "" where it was none."""

    count: int
    address: str
    at: datetime


def key_of(kind: str, value: str) -> str:
    return hashlib.sha256(f"{kind}:{value}".encode("utf-8", "surrogatepass")).hexdigest()


def folded(username: str) -> str:
    """Spellings that a database may take for the same name share a counter."""
    return unicodedata.normalize("NFKC", username).casefold().strip()


def parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Some proxies add the port: with it each connection would be a stranger."""
    host = address.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, ipaddress.IPv6Address) else ip


def network(address: str) -> str:
    """What one guesser has: an IPv4 address, or the /64 of an IPv6 subscriber."""
    ip = parsed(address)
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(ip), 64), strict=False))
    return str(ip or address)


def client_address(request: HttpRequest) -> str:
    """Where a request comes from. Behind a trusted proxy that is the last entry of X-Forwarded-For, which the proxy
    wrote; the ones before it are whatever the client claims."""
    forwarded = request.META.get("HTTP_X_FORWARDED_FOR", "").rpartition(",")[2].strip()
    return forwarded if settings.HTTPS and forwarded else str(request.META.get("REMOTE_ADDR", ""))


class Attempt:
    """One attempt to sign in, booked. `browser`: the id of one that is known to be the account's.

    Raises TooManyAttemptsError where it has to wait.
    """

    def __init__(self, username: str, address: str, browser: str | None = None) -> None:
        name, place = folded(username), network(address)
        self.address = address
        self.name_key = key_of("name", name)
        self.own: list[tuple[str, str]] = []
        self.shared: list[tuple[str, str]] = []
        if browser:
            self.own = [("browser", key_of("browser", browser))]
            with contextlib.suppress(TooManyAttemptsError):
                book(self.own)
                return
        pair = ("pair", key_of("pair", f"{place} {name}"))
        self.own.append(pair)
        self.shared = [("address", key_of("address", place)), ("name", self.name_key)]
        book([pair, *self.shared])

    def failed(self) -> None:
        """Kept for the owner, whether there is one or not."""
        now = timezone.now()
        shown = str(parsed(self.address) or "")
        rows = SignInCounter.objects.filter(key=self.name_key)
        while not rows.update(failures=F("failures") + 1, failed_at=now, address=shown):
            _create(self.name_key, 0, now)  # a known browser books no name

    def succeeded(self) -> Failures | None:
        """A right password. Its own counters start afresh; the address and the name get this attempt back, and only
        this one, so that an account of one's own does not buy more guesses at those of others."""
        forget(self.own)
        _take_back([key for _kind, key in self.shared])
        row = SignInCounter.objects.filter(key=self.name_key, failures__gt=0).first()
        if row is None or row.failed_at is None:
            return None
        SignInCounter.objects.filter(pk=row.pk).update(failures=F("failures") - row.failures)
        return Failures(row.failures, row.address, row.failed_at)


def book(keys: Sequence[tuple[str, str]]) -> None:
    """Book one attempt under each of these (kind, key). Raises TooManyAttemptsError where one has to wait."""
    now = timezone.now()
    booked: list[str] = []
    for kind, key in keys:
        if not _count(key, BOUNDS[kind], now):
            _take_back(booked)
            raise TooManyAttemptsError(_seconds_left(key, now))
        booked.append(key)


def forget(keys: Sequence[tuple[str, str]]) -> None:
    SignInCounter.objects.filter(key__in=[key for _kind, key in keys]).delete()


def _count(key: str, bound: Bound, now: datetime) -> bool:
    for _again in range(TRIES):
        # The first attempts on one key may meet.
        counted = deadlocks_retried(lambda: _count_once(key, bound, now), TRIES)
        if counted is not None:
            return counted
    return False


def _count_once(key: str, bound: Bound, now: datetime) -> bool | None:
    """Whether the attempt was booked; None where another request made the row in between."""
    rows = SignInCounter.objects.filter(key=key)
    begun = rows.filter(started_at__gt=now - bound.window, next_at__lte=now)
    # In this order: MySQL uses what an earlier assignment of the same statement has written.
    if begun.update(next_at=bound.next_at(now), attempts=F("attempts") + 1):
        return True
    if rows.filter(started_at__lte=now - bound.window).update(started_at=now, attempts=1, next_at=AT_ONCE):
        return True
    if rows.exists():
        return False
    return _create(key, 1, now) or None


def _create(key: str, attempts: int, now: datetime) -> bool:
    """False where another request has made the row meanwhile."""
    try:
        with transaction.atomic():
            row = SignInCounter.objects.create(key=key, started_at=now, next_at=AT_ONCE, attempts=attempts)
    except IntegrityError:
        return False
    if row.pk % SWEEP_EVERY == 0:
        sweep(now)
    return True


def sweep(now: datetime) -> None:
    """Remove what counts no more, and the oldest beyond MOST_ROWS."""
    rows = SignInCounter.objects.all()
    rows.filter(started_at__lte=now - DAY, failures=0).delete()
    rows.filter(started_at__lte=now - KEPT).delete()
    oldest = rows.order_by("-started_at").values_list("started_at", flat=True)[MOST_ROWS : MOST_ROWS + 1].first()
    if oldest is not None:
        rows.filter(started_at__lte=oldest).delete()


def _take_back(keys: list[str]) -> None:
    if keys:
        booked = SignInCounter.objects.filter(key__in=keys, attempts__gt=0)
        booked.update(attempts=F("attempts") - 1, next_at=AT_ONCE)


def _seconds_left(key: str, now: datetime) -> int:
    row = SignInCounter.objects.filter(key=key).first()
    return max(1, math.ceil((row.next_at - now).total_seconds())) if row else 1
