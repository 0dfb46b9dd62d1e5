"""The thread that owns the worker's process and both directions of its socket; nothing else ever waits for them."""

from __future__ import annotations

import logging
import os
import selectors
import threading
from collections import deque
from collections.abc import Callable

from .supervisor import Supervisor

logger = logging.getLogger(__name__)


class IoThread:
    """Makes the supervisor's turns. Other threads only append to its inbox and wake it."""

    def __init__(self, supervisor: Supervisor, clock: Callable[[], float]) -> None:
        self._supervisor = supervisor
        self._clock = clock
        self._inbox: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake_read, self._wake_write = os.pipe()  # closed by __del__: cancellations may come late
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def __del__(self) -> None:
        os.close(self._wake_read)
        os.close(self._wake_write)

    # From any thread

    def tell(self, call: Callable[[], None]) -> None:
        """Have it called on the thread. Takes no lock: a garbage collection in the middle of anything may tell."""
        self._inbox.append(call)
        try:
            os.write(self._wake_write, b"x")
        except BlockingIOError:
            pass  # it is being woken already

    def start(self) -> None:
        """Does nothing where it was started before."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="engine-io", daemon=True)
                self._thread.start()

    def wait(self, timeout: float) -> None:
        """Until it has ended; a worker that does not end within `timeout` seconds is killed."""
        with self._lock:
            thread = self._thread
        # (also from atexit, where daemon threads still run)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
            worker = self._supervisor.worker
            if thread.is_alive() and worker is not None:
                worker.kill()
                thread.join(1.0)

    # On the thread

    def _run(self) -> None:
        while True:
            try:
                if self.turn():
                    return
            except Exception:  # noqa: BLE001  (whatever it is: nobody may wait without end, and the next use must work)
                logger.exception("the engine's I/O thread failed")
                self._supervisor.lost("engine_error")

    def turn(self) -> bool:
        """One round: inbox, process, socket. True at the end."""
        while self._inbox:
            self._inbox.popleft()()
        if self._supervisor.advance():
            return True
        worker = self._supervisor.worker
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            if worker is not None:
                mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.wants_write else 0)
                selector.register(worker.socket, mask)
            patience = self._supervisor.patience()
            began = self._clock()
            ready = {key.fileobj: mask for key, mask in selector.select(patience)}
            waited = self._clock() - began
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
        if worker is not None:
            # A turn that comes late says that this process was starved, not that the worker was silent: what it sent
            # meanwhile lies in the socket, unread. Only the time that was meant for listening counts.
            self._supervisor.serve(ready.get(worker.socket, 0), min(waited, patience or 0.0))
        return False
