"""The recorder: whoever measures posts and goes on; one thread adds up, and writes every few seconds.

Posting never blocks and takes no lock, so it may happen anywhere, also in a garbage collection. While the database is
away figures wait in memory, up to a bound. What was not written yet is lost with a process that is killed.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import DatabaseError, connection

from . import writing
from .entries import EngineIncident, EngineSample, Record, Refusal
from .gathering import Measurements

if TYPE_CHECKING:
    from .traces import Traces

logger = logging.getLogger(__name__)

FLUSH_EVERY = 5.0  # seconds
TEND_EVERY = 3600.0  # seconds between looks for what is too old
TEND_FIRST = 60.0  # seconds until the first: a portal that is often restarted would never come to it

Entry = Record | Refusal | EngineIncident | EngineSample


class Recorder:
    """Starts its thread with the first entry, or when told to.

    Where MONITORING_DAYS is 0 it keeps nothing but a line in the log.
    """

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[Entry | threading.Event | None] = queue.SimpleQueue()
        self._gathering = Measurements()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._traces: Traces | None = None
        self._closed = False

    def post(self, entry: Entry) -> None:
        self._inbox.put(entry)
        if self._thread is None:
            self.start()

    def flush(self, timeout: float = 30.0) -> None:
        """Block until everything posted so far is added up and was to be written, at most `timeout` seconds."""
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

    def start(self) -> None:
        """Have the thread run: also where nothing is posted, what was kept before may have to go."""
        if not self._lock.acquire(blocking=False):
            return  # somebody is at it
        try:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
                self._thread.start()
                atexit.register(self.close)
        finally:
            self._lock.release()

    def _run(self) -> None:
        written = time.monotonic()
        tend_at = written + TEND_FIRST
        while True:
            try:
                entry = self._inbox.get(timeout=max(0.0, written + FLUSH_EVERY - time.monotonic()))
            except queue.Empty:
                entry = threading.Event()  # that nobody waits for
            if isinstance(entry, Entry):
                self._take(entry)
                if time.monotonic() - written < FLUSH_EVERY:
                    continue
            tend = time.monotonic() >= tend_at
            self._write(tend)
            written = time.monotonic()
            tend_at = written + TEND_EVERY if tend else tend_at
            if isinstance(entry, threading.Event):
                entry.set()
            elif entry is None:
                if self._traces is not None:
                    self._traces.close()
                return

    def _take(self, entry: Entry) -> None:
        try:
            if isinstance(entry, Record):
                log(entry)
                self._trace(entry)
            if not settings.MONITORING_DAYS:
                return
            if isinstance(entry, Record):
                self._gathering.request(entry)
            elif isinstance(entry, Refusal):
                self._gathering.refused(entry)
            elif isinstance(entry, EngineSample):
                self._gathering.heartbeat(entry)
            else:
                self._gathering.happened(entry)
        except Exception:  # noqa: BLE001  (the thread must outlive whatever one entry does)
            logger.exception("an entry could not be added up")

    def _trace(self, record: Record) -> None:
        if settings.OTEL_TRACES:
            if self._traces is None:
                from .traces import Traces  # a package that most portals do without

                self._traces = Traces()
            self._traces.add(record)

    def _write(self, tend: bool) -> None:
        try:
            writing.write(self._gathering)
            if tend:
                writing.tend(settings.MONITORING_DAYS)
        except DatabaseError as error:
            logger.warning("what was measured cannot be written now: %s", error.__class__.__name__)
        except Exception:  # noqa: BLE001  (as above)
            logger.exception("what was measured cannot be written")
        finally:
            self._gathering.forget(time.time())
            connection.close()  # own threads close their connections


def log(record: Record) -> None:
    """One line for each request, with its facts as fields where the log is JSON."""
    facts = {
        "request_id": record.request_id, "user": record.user_id, "model": record.model, "digest": record.digest,
        "end": record.code or record.reason, "seconds": round(record.total, 3), "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
    }  # fmt: skip
    logger.info("asked %s: %s after %.2f s", record.model, facts["end"], record.total, extra=facts)


def resident_set() -> int:
    """Bytes of memory that this process holds; 0 where there is no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        return 0


recorder = Recorder()
