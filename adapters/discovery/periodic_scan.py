"""Scanning by itself every SCAN_INTERVAL seconds: a daemon thread of the web process, started by the ASGI module."""

from __future__ import annotations

import logging
import threading

from django.conf import settings
from django.db import close_old_connections, connections

from adapters.failures import Busy

from . import scanning

logger = logging.getLogger(__name__)


class PeriodicScan:
    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.scans = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="adapter-watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """End after the scan that is under way."""
        self._stop.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stop.wait(self.interval):
            self.look()

    def look(self) -> None:
        """One scan; another one that runs already does as well, and no error ends the watching."""
        close_old_connections()
        try:
            scanning.scan(None)
            self.scans += 1
        except Busy:
            logger.debug("a scan is running already")
        except Exception:  # the database or a disk may be away for a while
            logger.exception("the automatic scan failed")
        finally:
            connections.close_all()


_periodic_scan: PeriodicScan | None = None


def start() -> PeriodicScan | None:
    """Start the one watcher of this process where SCAN_INTERVAL asks for it."""
    global _periodic_scan
    if _periodic_scan is None and settings.SCAN_INTERVAL > 0:
        _periodic_scan = PeriodicScan(settings.SCAN_INTERVAL)
        _periodic_scan.start()
    return _periodic_scan
