"""How much one account and one token may ask: requests a minute, tokens a day, answers at once.

Every booking is a guarded update in one short transaction, so that parallel requests, in however many processes, cannot
slip past a limit together. A refusal books nothing.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from channels.db import database_sync_to_async
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.grants import Grant
from adapters.processes import own_name
from common.api import ApiError
from common.database import deadlocks_retried
from common.numbers import grouped
from inference.engine.protocol import Usage
from inference.models import Meter, Reservation, Slot

from . import leftovers
from .ledger import LEASE, UsageRecord, ledger

MINUTE = timedelta(seconds=60)
ATTEMPTS = 5
SETTLING = 0.05  # seconds
FREEING = 1.0  # seconds that the end of an answer waits for its slot to be free, should the database be away

# What a refusal says, by its code.
REFUSALS = {
    "rate_limit_exceeded": _("The request limit (%(limit)s per minute) has been reached. Try again in a moment."),
    "tokens_per_day_exceeded": _("This request could exceed the daily token limit (%(limit)s)."),
    "too_many_generations": _(
        "The limit of simultaneous answers (%(limit)s) has been reached. Wait for one to finish."
    ),
}


class LimitError(ApiError):
    """A refusal for the sake of `limit`; `code` is a key of REFUSALS."""

    def __init__(self, code: str, limit: int, retry_after: float, headers: dict[str, str] | None = None) -> None:
        super().__init__(
            code, str(REFUSALS[code]) % {"limit": grouped(limit)}, 429, retry_after=retry_after, headers=headers
        )
        self.limit = limit


@dataclass(frozen=True)
class Limits:
    """Of one subject; 0 is no limit."""

    key: str
    requests_per_minute: int
    tokens_per_day: int
    concurrent: int


def limits_of(grant: Grant, bounded: bool = False) -> list[Limits]:
    """`bounded`: work that nobody waits for and that has a bound of its own takes no places and no requests from the
    account that it belongs to. Its tokens count like all others."""
    if bounded:
        return [replace(one, requests_per_minute=0, concurrent=0) for one in limits_of(grant)]
    found = [
        Limits(
            f"user:{grant.user_id}",
            settings.USER_REQUESTS_PER_MINUTE,
            settings.USER_TOKENS_PER_DAY,
            settings.USER_CONCURRENT,
        )
    ]
    if grant.token_id is not None:
        found.append(
            Limits(
                f"token:{grant.token_id}",
                settings.TOKEN_REQUESTS_PER_MINUTE,
                settings.TOKEN_TOKENS_PER_DAY,
                settings.TOKEN_CONCURRENT,
            )
        )
    return found


@dataclass
class Ticket:
    """An admitted request of one or more answers; with the end of the last its slots go free, and its use is booked.

    Whoever tells a client of an end first awaits `freed`, so that a client that knows may ask again at once.
    """

    record: UsageRecord
    parts: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    slots: bool = True  # whether there are slots to give back
    ended: set[int] = field(default_factory=set)
    closed: bool = False

    def end(self, part: int, usage: Usage) -> None:
        """One of the answers, numbered from 0, has ended and used this much. Safe to repeat."""
        if part in self.ended:
            return
        self.ended.add(part)
        self.record.prompt_tokens += usage["prompt_tokens"]
        self.record.completion_tokens += usage["completion_tokens"]
        self.record.cached_tokens += usage["cached_tokens"]
        if len(self.ended) == self.parts:
            self.close()

    async def freed(self) -> None:
        """Wait until the slots of a closed ticket are free; not at all while other answers of it run."""
        if self.closed and self.slots:
            await asyncio.wait([asyncio.wrap_future(self.record.freed)], timeout=FREEING)

    def close(self) -> None:
        """Hand the record to the ledger's thread. Never blocks; safe to repeat."""
        if not self.closed:
            self.closed = True
            ledger.post(self.record)

    def __del__(self) -> None:
        self.close()


def book(grant: Grant, model: str, digest: str, generations: int, tokens: int, bounded: bool = False) -> Ticket:
    """Admit a request of `generations` answers with at most `tokens` tokens together. Raises LimitError."""
    try:
        return _book(grant, model, digest, generations, tokens, bounded)
    except LimitError as refusal:
        # Before it counts, give back what requests of killed processes hold.
        held = refusal.code in ("too_many_generations", "tokens_per_day_exceeded")
        if not held or not leftovers.free([limits.key for limits in limits_of(grant)]):
            raise
    return _book(grant, model, digest, generations, tokens, bounded)


def _book(grant: Grant, model: str, digest: str, generations: int, tokens: int, bounded: bool) -> Ticket:
    now = timezone.now()
    all_limits = limits_of(grant, bounded)
    record = UsageRecord(
        user_id=grant.user_id,
        token_ref=grant.token_id or 0,
        model=model,
        digest=digest,
        day=now.date(),
        holder=secrets.token_hex(16),
        reserved={limits.key: tokens for limits in all_limits if limits.tokens_per_day},
    )

    @transaction.atomic
    def take_all() -> list[dict[str, Any]]:
        return [take(limits, record.holder, generations, tokens, now) for limits in all_limits]

    states = deadlocks_retried(take_all, ATTEMPTS)
    ledger.hold(record.holder)
    slots = any(limits.concurrent for limits in all_limits)
    return Ticket(record, generations, tightest(states), slots)


def take(limits: Limits, holder: str, generations: int, tokens: int, now: datetime) -> dict[str, Any]:
    """Book all three limits of one subject. Raises LimitError, which rolls everything back."""
    seen: dict[str, Any] = {}
    if limits.requests_per_minute or limits.tokens_per_day:
        meter, _made = Meter.objects.get_or_create(key=limits.key, defaults={"minute_start": now, "day": now.date()})
        rows = Meter.objects.filter(pk=meter.pk)
        if limits.requests_per_minute:
            take_request(rows, limits.requests_per_minute, now)
        if limits.tokens_per_day:
            take_tokens(rows, limits.tokens_per_day, tokens, now)
            Reservation.objects.create(
                key=limits.key, holder=holder, process=own_name(), day=now.date(), tokens=tokens, expires_at=now + LEASE
            )
        meter.refresh_from_db()
        seen = state(limits, meter, now)
    if limits.concurrent:
        take_slots(limits, holder, generations, now)
    return seen


def take_request(rows: Any, limit: int, now: datetime) -> None:
    fresh = rows.filter(minute_start__lte=now - MINUTE).update(minute_start=now, minute_requests=1)
    if fresh or rows.filter(minute_requests__lt=limit).update(minute_requests=F("minute_requests") + 1):
        return
    wait = (rows.get().minute_start + MINUTE - now).total_seconds()
    raise LimitError("rate_limit_exceeded", limit, max(1.0, wait), headers("requests", 0, limit, wait))


def take_tokens(rows: Any, limit: int, tokens: int, now: datetime) -> None:
    today = now.date()
    rows.filter(day__lt=today).update(day=today, day_tokens=0)
    if rows.filter(day_tokens__lte=limit - tokens).update(day_tokens=F("day_tokens") + tokens):
        return
    midnight = datetime.combine(today + timedelta(days=1), datetime.min.time(), now.tzinfo)
    wait = (midnight - now).total_seconds()
    left = max(0, limit - rows.get().day_tokens)
    raise LimitError("tokens_per_day_exceeded", limit, wait, headers("tokens", left, limit, wait))


def take_slots(limits: Limits, holder: str, generations: int, now: datetime) -> None:
    busy = set(Slot.objects.filter(key=limits.key, expires_at__gt=now).values_list("number", flat=True))
    taken = 0
    for number in (number for number in range(limits.concurrent) if number not in busy):
        if taken == generations:
            break
        taken += take_slot(limits.key, number, holder, now)
    if taken < generations:
        raise LimitError("too_many_generations", limits.concurrent, 2)


def take_slot(key: str, number: int, holder: str, now: datetime) -> bool:
    rows = Slot.objects.filter(key=key, number=number)
    if rows.filter(expires_at__lte=now).update(holder=holder, process=own_name(), expires_at=now + LEASE):
        return True
    if rows.exists():
        return False
    try:
        with transaction.atomic():
            Slot.objects.create(key=key, number=number, holder=holder, process=own_name(), expires_at=now + LEASE)
    except IntegrityError:
        return False
    return True


def state(limits: Limits, meter: Meter, now: datetime) -> dict[str, Any]:
    minute_ends = meter.minute_start + MINUTE
    midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), now.tzinfo)
    seen: dict[str, Any] = {}
    if limits.requests_per_minute:
        left = limits.requests_per_minute - meter.minute_requests
        seen["requests"] = (left, limits.requests_per_minute, (minute_ends - now).total_seconds())
    if limits.tokens_per_day:
        left = limits.tokens_per_day - meter.day_tokens
        seen["tokens"] = (left, limits.tokens_per_day, (midnight - now).total_seconds())
    return seen


def tightest(states: list[dict[str, Any]]) -> dict[str, str]:
    """The `x-ratelimit-*` headers that OpenAI's clients read, of whichever subject has less left."""
    found: dict[str, str] = {}
    for kind in ("requests", "tokens"):
        seen = [entry[kind] for entry in states if kind in entry]
        if seen:
            found |= headers(kind, *min(seen))
    return found


def headers(kind: str, left: int, limit: int, reset: float) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{kind}": str(limit),
        f"x-ratelimit-remaining-{kind}": str(max(0, left)),
        f"x-ratelimit-reset-{kind}": f"{max(0, math.ceil(reset))}s",
    }


async def admit(grant: Grant, model: str, digest: str, generations: int, tokens: int, bounded: bool = False) -> Ticket:
    """As `book`, before anything is asked of the engine. Raises LimitError."""
    try:
        return await booked(grant, model, digest, generations, tokens, bounded)
    except LimitError as refusal:
        if refusal.code != "too_many_generations" or not ledger.pending:
            raise
    await asyncio.sleep(SETTLING)  # an answer has ended whose slot is being given back just now
    return await booked(grant, model, digest, generations, tokens, bounded)


async def booked(grant: Grant, model: str, digest: str, generations: int, tokens: int, bounded: bool = False) -> Ticket:
    booking = asyncio.ensure_future(database_sync_to_async(book)(grant, model, digest, generations, tokens, bounded))
    try:
        return await asyncio.shield(booking)
    except asyncio.CancelledError:  # the client left while the database was at work
        booking.add_done_callback(give_back)
        raise


def give_back(booking: asyncio.Future[Ticket]) -> None:
    if not booking.cancelled() and booking.exception() is None:
        booking.result().close()
