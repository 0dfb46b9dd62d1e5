"""Slow password guessing down: so many attempts per account name and per address in a quarter of an hour.

An attempt is booked before the password is looked at, by one guarded update, so that parallel requests cannot
slip past the limit together; a successful one is taken off again. The counters live in the database and so hold
for all web processes.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import unicodedata
from datetime import datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, OperationalError, transaction
from django.db.models import F
from django.http import HttpRequest
from django.utils import timezone

from .models import SignInCounter

WINDOW = timedelta(minutes=15)
TRIES = 10  # of one booking, against other requests for the same key
LIMITS = {"account": 10, "address": 50}


class TooManyAttemptsError(Exception):
    """`retry_after`: whole seconds until an attempt is possible again."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"too many attempts, {retry_after} s left")
        self.retry_after = retry_after


def key_of(kind: str, value: str) -> str:
    return hashlib.sha256(f"{kind}:{value}".encode("utf-8", "surrogatepass")).hexdigest()


def account_key(username: str) -> str:
    """Spellings that a database may take for the same name share a counter."""
    return key_of("account", unicodedata.normalize("NFKC", username).casefold().strip())


def address_key(address: str) -> str:
    """An IPv6 subscriber owns a whole /64."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return key_of("address", address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped:
            return key_of("address", str(ip.ipv4_mapped))
        return key_of("address", str(ipaddress.ip_network((ip, 64), strict=False)))
    return key_of("address", str(ip))


def client_address(request: HttpRequest) -> str:
    """Where a request comes from. Behind a trusted proxy that is the last entry of X-Forwarded-For, which the proxy
    wrote; the ones before it are whatever the client claims."""
    forwarded = request.META.get("HTTP_X_FORWARDED_FOR", "").rpartition(",")[2].strip()
    return forwarded if settings.HTTPS and forwarded else str(request.META.get("REMOTE_ADDR", ""))


def keys_of(username: str, address: str) -> list[tuple[str, int]]:
    return [(account_key(username), LIMITS["account"]), (address_key(address), LIMITS["address"])]


def book(username: str, address: str) -> None:
    """Book one attempt. Raises TooManyAttemptsError where either limit is reached."""
    now = timezone.now()
    booked: list[str] = []
    for key, limit in keys_of(username, address):
        if not _count(key, limit, now):
            _take_back(booked)
            raise TooManyAttemptsError(_seconds_left(key, now))
        booked.append(key)


def succeeded(username: str, address: str) -> None:
    """A right password: the account starts afresh; the address gets this attempt back, and only this one,
    so that an account of one's own does not buy more guesses at those of others."""
    SignInCounter.objects.filter(key=account_key(username)).delete()
    _take_back([address_key(address)])


def _count(key: str, limit: int, now: datetime) -> bool:
    for again in range(TRIES):
        try:
            counted = _count_once(key, limit, now)
        except OperationalError:  # a deadlock on MySQL between the first attempts on one key: the other one won
            if again == TRIES - 1:
                raise
        else:
            if counted is not None:
                return counted
    return False


def _count_once(key: str, limit: int, now: datetime) -> bool | None:
    """Whether the attempt was booked; None where another request made the row in between."""
    rows = SignInCounter.objects.filter(key=key)
    if rows.filter(started_at__gt=now - WINDOW, attempts__lt=limit).update(attempts=F("attempts") + 1):
        return True
    if rows.filter(started_at__lte=now - WINDOW).update(started_at=now, attempts=1):
        return True
    if rows.exists():
        return False
    SignInCounter.objects.filter(started_at__lte=now - 2 * WINDOW).delete()
    try:
        with transaction.atomic():
            SignInCounter.objects.create(key=key, started_at=now, attempts=1)
    except IntegrityError:
        return None
    return True


def _take_back(keys: list[str]) -> None:
    SignInCounter.objects.filter(key__in=keys, attempts__gt=0).update(attempts=F("attempts") - 1)


def _seconds_left(key: str, now: datetime) -> int:
    row = SignInCounter.objects.filter(key=key).first()
    left = (row.started_at + WINDOW - now).total_seconds() if row else 1.0
    return max(1, math.ceil(left))
