"""The books: one thread writes what answers used and gives their slots back, so that no answer waits for it.

Entries wait in memory while the database is away, up to a bound; what was asked but never written is lost with the
process, no more.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models import F
from django.utils import timezone

from adapters.proofs import record_use

from .models import Meter, Slot, UsageDay

logger = logging.getLogger(__name__)

RENEW_EVERY = 15.0  # seconds
LEASE = timedelta(seconds=60)  # the slots of a process that died are free again after this
WAITING = 100_000  # entries kept while the database is away
RETRY_SECONDS = 1.0


@dataclass
class Posting:
    """One request as the books see it. `reserved`: tokens of the day by subject, taken when it was admitted."""

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

    @property
    def used(self) -> int:
        """Tokens altogether; 0 where the engine refused the request, which then is no use of the model."""
        return self.prompt_tokens + self.completion_tokens


class Ledger:
    """Starts its thread with the first entry."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Posting | None] = queue.Queue(WAITING)
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def hold(self, holder: str) -> None:
        """Keep this request's slots until it is posted."""
        self._held.add(holder)
        self._ensure_thread()

    def post(self, posting: Posting) -> None:
        self._held.discard(posting.holder)
        self._ensure_thread()
        try:
            self._queue.put_nowait(posting)
        except queue.Full:
            logger.error("the ledger is full: an entry is lost")

    def flush(self) -> None:
        """Block until everything posted so far is written (tests, and the end of the process)."""
        if self._thread is not None and self._thread.is_alive():
            self._queue.join()

    def close(self, timeout: float = 3.0) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join(timeout)

    def _ensure_thread(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
                self._thread.start()
                atexit.register(self.close)

    def _run(self) -> None:
        renewed = time.monotonic()
        while True:
            if time.monotonic() - renewed >= RENEW_EVERY:
                self._renew()
                renewed = time.monotonic()
            try:
                posting = self._queue.get(timeout=RENEW_EVERY)
            except queue.Empty:
                continue
            try:
                if posting is None:
                    return
                self._write(posting)
            finally:
                if self._queue.empty():
                    connection.close()  # own threads close their connections
                self._queue.task_done()

    def _write(self, posting: Posting) -> None:
        for _attempt in range(60):
            try:
                write(posting)
                return
            except IntegrityError:
                return  # the account was deleted meanwhile
            except DatabaseError as error:
                logger.warning("the ledger cannot write: %s", error.__class__.__name__)
                connection.close()
                time.sleep(RETRY_SECONDS)
        logger.error("an entry of the ledger is lost")

    def _renew(self) -> None:
        held = list(self._held)
        if not held:
            return
        try:
            Slot.objects.filter(holder__in=held).update(expires_at=timezone.now() + LEASE)
        except DatabaseError as error:
            logger.warning("the ledger cannot renew slots: %s", error.__class__.__name__)


def write(posting: Posting) -> None:
    with transaction.atomic():
        Slot.objects.filter(holder=posting.holder).update(holder="", expires_at=timezone.now())
        for key, reserved in posting.reserved.items():
            rows = Meter.objects.filter(key=key, day=posting.day)
            rows.update(day_tokens=F("day_tokens") + (posting.used - reserved))
        if posting.used:
            add_usage(posting)
    if posting.used:
        record_use(posting.digest, posting.completion_tokens)


def add_usage(posting: Posting) -> None:
    identity: dict[str, Any] = {
        "user_id": posting.user_id,
        "day": posting.day,
        "token_ref": posting.token_ref,
        "model": posting.model,
        "digest": posting.digest,
    }
    rows = UsageDay.objects.filter(**identity)
    for _attempt in range(3):
        changed = rows.update(
            requests=F("requests") + 1,
            prompt_tokens=F("prompt_tokens") + posting.prompt_tokens,
            completion_tokens=F("completion_tokens") + posting.completion_tokens,
            cached_tokens=F("cached_tokens") + posting.cached_tokens,
        )
        if changed:
            return
        UsageDay.objects.get_or_create(**identity)


ledger = Ledger()
