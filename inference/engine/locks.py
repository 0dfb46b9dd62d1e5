"""One engine per CUDA device, across every portal of this machine."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

from .errors import EngineError


class DeviceLock:
    """A file lock that the kernel frees when the process ends, however it ends. Raises EngineError `device_busy`."""

    def __init__(self, device: str, folder: str | None = None) -> None:
        # The system's temporary folder: portals with folders of their own must meet at one place.
        path = Path(folder or tempfile.gettempdir()) / f"loraportal-{device.replace(':', '-')}.lock"
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self.fd)
            raise EngineError(
                "device_busy", f"Another portal on this machine uses {device}; unload its model first.", device=device
            ) from None

    def release(self) -> None:
        os.close(self.fd)
