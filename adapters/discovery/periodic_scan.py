"""What the web process does by itself once the server listens, each on a daemon thread: scanning every SCAN_INTERVAL
seconds, and looking at the stored copies every STORE_CHECK_INTERVAL seconds. Both begin with a look."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta

from django.conf import settings
from django.db import close_old_connections, connections
from django.utils import timezone

from adapters.failures import BusyError
from adapters.lifecycle import checking
from adapters.lifecycle.cleaning import sweep_published
from adapters.lifecycle.mending import Outcome
from adapters.models import Scan, ScanState

from . import scanning

logger = logging.getLogger(__name__)


class PeriodicScan:
    name = "adapter-watcher"

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.scans = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """End after the scan that is under way."""
        self._stop.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        self.look()
        while not self._stop.wait(self.interval):
            self.look()

    def look(self) -> None:
        """One scan; another one that runs already does as well, and no error ends the watching."""
        close_old_connections()
        try:
            self.work()
            self.scans += 1
        except BusyError:
            logger.debug("%s: somebody else is at it", self.name)
        except Exception:  # the database or a disk may be away for a while
            logger.exception("%s failed", self.name)
        finally:
            connections.close_all()

    def work(self) -> None:
        """Scan, unless that was done a moment ago: before a restart, by a person, or by another process."""
        done = Scan.objects.filter(state=ScanState.DONE)
        if not done.filter(started_at__gt=timezone.now() - timedelta(seconds=self.interval / 2)).exists():
            scanning.scan(None)


class StoreWatcher(PeriodicScan):
    name = "store-watcher"

    def work(self) -> None:
        for digest, outcome in checking.look(read=True).items():
            if outcome is not Outcome.SOUND:
                logger.warning("the stored copy %s: %s", digest, outcome)
        for copy in sweep_published():
            logger.warning("removed from what is published, nobody wants it: %s", copy.name)
        checking.check_published(thorough=False)  # which logs what it finds


_periodic_scan: PeriodicScan | None = None
_store_watcher: StoreWatcher | None = None


def start() -> PeriodicScan | None:
    """Start the one watcher of this process, unless SCAN_INTERVAL is 0."""
    global _periodic_scan
    if _periodic_scan is None and settings.SCAN_INTERVAL > 0:
        _periodic_scan = PeriodicScan(settings.SCAN_INTERVAL)
        _periodic_scan.start()
    return _periodic_scan


def start_store() -> StoreWatcher | None:
    """Start the one watcher of the store of this process, unless STORE_CHECK_INTERVAL is 0."""
    global _store_watcher
    if _store_watcher is None and settings.STORE_CHECK_INTERVAL > 0:
        _store_watcher = StoreWatcher(settings.STORE_CHECK_INTERVAL)
        _store_watcher.start()
    return _store_watcher
