"""The ledger: one thread writes what answers used and gives their slots back, so that no answer waits for it.

Entries wait in memory while the database is away, up to a bound; what was asked but never written is lost with the
process, no more. What the requests of a killed process held is given back by `leftovers.py`.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from adapters.lifecycle.proofs import record_use
from inference.models import Meter, Reservation, Slot, UsageDay

logger = logging.getLogger(__name__)

RENEW_EVERY = 15.0  # seconds
LEASE = timedelta(seconds=60)  # what a process held that died where we cannot see it is free again after this
WAITING = 100_000  # entries kept while the database is away
FREE = datetime(2000, 1, 1, tzinfo=UTC)
BATCH = 256
ATTEMPTS = 60
RETRY_SECONDS = 1.0
IDENTITY = ("user_id", "day", "token_ref", "model", "digest")


@dataclass
class UsageRecord:
    """One request as it is accounted for. `reserved`: tokens of the day by subject, taken when it was admitted.

    They are kept as rows besides (`Reservation`), so that they are given back should this process be killed.
    """

    user_id: int
    token_ref: int
    model: str
    digest: str
    day: date
    holder: str
    reserved: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    members: tuple[str, ...] = ()  # digests of the adapters, where `digest` is a blend's
    freed: Future[None] = field(default_factory=Future)  # done when its slots are free again, or lost

    def tell_freed(self) -> None:
        with suppress(InvalidStateError):  # told already, or whoever waited is gone
            self.freed.set_result(None)

    @property
    def used(self) -> int:
        """Tokens altogether; 0 where the engine refused the request, which then is no use of the model."""
        return self.prompt_tokens + self.completion_tokens


class Ledger:
    """Starts its thread with the first entry. Posting takes no lock: it may happen in a garbage collection."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[UsageRecord | threading.Event | None] = queue.SimpleQueue()
        self._held: set[str] = set()
        self._unwritten: set[str] = set()  # holders of what was posted and is neither written nor lost
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def hold(self, holder: str) -> None:
        """Keep this request's slots until it is posted."""
        self._held.add(holder)
        self._ensure_thread()

    def post(self, record: UsageRecord) -> None:
        self._held.discard(record.holder)
        if self._closed:  # at the interpreter's end what was left over is collected
            record.tell_freed()
            return
        if len(self._unwritten) >= WAITING:
            logger.error("the ledger is full: an entry is lost")
            record.tell_freed()
            return
        self._unwritten.add(record.holder)
        self._inbox.put(record)
        self._ensure_thread()

    @property
    def pending(self) -> bool:
        """Whether something posted is not written yet."""
        return bool(self._unwritten)

    def flush(self, timeout: float = 60.0) -> None:
        """Block until everything posted so far is written, at most `timeout` seconds."""
        if self._thread is not None:
            done = threading.Event()
            self._inbox.put(done)
            done.wait(timeout)

    def close(self, timeout: float = 3.0) -> None:
        """Write what waits and end. Nothing starts anew: a thread that begins at the interpreter's end never runs."""
        self._closed = True
        thread, self._thread = self._thread, None
        if thread is not None:
            self._inbox.put(None)
            thread.join(timeout)

    def _ensure_thread(self) -> None:
        if self._thread is not None or not self._lock.acquire(blocking=False):
            return  # there is one, or somebody starts it just now
        try:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
                self._thread.start()
                atexit.register(self.close)
        finally:
            self._lock.release()

    def _run(self) -> None:
        renewed = time.monotonic()
        while True:
            if time.monotonic() - renewed >= RENEW_EVERY:
                self._renew()
                renewed = time.monotonic()
            batch = self._next()
            records = [entry for entry in batch if isinstance(entry, UsageRecord)]
            try:
                if records:
                    self._write(records)
            except Exception:  # noqa: BLE001  (the thread must outlive whatever one entry does)
                logger.exception("%d entries of the ledger are lost", len(records))
            for record in records:
                self._unwritten.discard(record.holder)
                record.tell_freed()
            if self._inbox.empty():
                self._disconnect()
            for entry in batch:
                if isinstance(entry, threading.Event):
                    entry.set()
            if None in batch:
                return

    def _next(self) -> list[UsageRecord | threading.Event | None]:
        """What is waiting now; empty after RENEW_EVERY seconds without anything."""
        batch: list[UsageRecord | threading.Event | None] = []
        try:
            batch.append(self._inbox.get(timeout=RENEW_EVERY))
            while len(batch) < BATCH:
                batch.append(self._inbox.get_nowait())
        except queue.Empty:
            pass
        return batch

    def _disconnect(self) -> None:
        try:
            connection.close()  # own threads close their connections
        except Exception:  # noqa: BLE001  (as in _run)
            logger.exception("the ledger's connection cannot be closed")

    def _write(self, records: list[UsageRecord]) -> None:
        for _attempt in range(ATTEMPTS):
            try:
                release(records)
                for record in records:
                    record.tell_freed()
                write(records)
                return
            except IntegrityError:  # an account was deleted meanwhile
                if len(records) > 1:
                    for record in records:
                        self._write([record])
                return
            except DatabaseError as error:
                logger.warning("the ledger cannot write: %s", error.__class__.__name__)
                connection.close()
                time.sleep(RETRY_SECONDS)
        logger.error("%d entries of the ledger are lost", len(records))

    def _renew(self) -> None:
        try:
            if not (held := list(self._held)):
                return
            for rows in (Slot.objects, Reservation.objects):
                rows.filter(holder__in=held).update(expires_at=timezone.now() + LEASE)
        except DatabaseError as error:
            logger.warning("the ledger cannot renew slots: %s", error.__class__.__name__)
        except Exception:  # noqa: BLE001  (as in _run)
            logger.exception("the ledger cannot renew slots")


def release(records: list[UsageRecord]) -> None:
    """Slots go free first of all: somebody may be waiting for one."""
    holders = [record.holder for record in records]
    Slot.objects.filter(holder__in=holders).update(holder="", process="", expires_at=FREE)


def write(records: list[UsageRecord]) -> None:
    """Everything else, in one transaction and with one update for what belongs to one row."""
    meters: Counter[tuple[str, date]] = Counter()
    usage: dict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
    for record in records:
        for key in record.reserved:
            meters[key, record.day] += record.used
        if record.used:
            row = usage[record.user_id, record.day, record.token_ref, record.model, record.digest]
            row["requests"] += 1
            for name in ("prompt_tokens", "completion_tokens", "cached_tokens"):
                row[name] += getattr(record, name)
    members = {record.digest: record.members for record in records}
    holders = [record.holder for record in records if record.reserved]
    with transaction.atomic():
        if holders:
            give_back(Reservation.objects.filter(holder__in=holders), meters)
        for identity, counts in sorted(usage.items()):
            add_usage(dict(zip(IDENTITY, identity, strict=True)), counts)
            for digest in members.get(identity[-1]) or (identity[-1],):
                record_use(digest, counts["completion_tokens"], counts["requests"])


def give_back(rows: QuerySet[Reservation], meters: Counter[tuple[str, date]]) -> int:
    """Take reservations off their meters and add `meters`, tokens by subject and day; returns how many there were.

    Within a transaction, so that each is given back once, whoever does it.
    """
    found = list(rows.select_for_update().order_by("pk"))
    for row in found:
        meters[row.key, row.day] -= row.tokens
    if found:
        Reservation.objects.filter(pk__in=[row.pk for row in found]).delete()
    for (key, day), change in sorted(meters.items()):
        Meter.objects.filter(key=key, day=day).update(day_tokens=F("day_tokens") + change)
    return len(found)


def add_usage(identity: dict[str, Any], counts: Mapping[str, int]) -> None:
    rows = UsageDay.objects.filter(**identity)
    change = {name: F(name) + count for name, count in counts.items()}
    if not rows.update(**change):
        UsageDay.objects.get_or_create(**identity)
        rows.update(**change)


ledger = Ledger()
