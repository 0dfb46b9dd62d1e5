"""What the registry asks of the side that runs models. The registry never imports it: it registers itself here."""

from __future__ import annotations

from typing import Protocol

DRAIN_TIMEOUT = 10.0  # seconds that a deletion waits altogether


class RunningSide(Protocol):
    def released(self, digest: str, reason: str) -> None:
        """`digest` is not served any more: "deactivated", "replaced", "failed", "forgotten" or "files_deleted".

        Called after the transaction that took it out of service.
        """

    def drain(self, digest: str, timeout: float) -> bool:
        """Wait up to `timeout` seconds. True once no request uses the stored copy, False where one still does."""

    def base_support(self, folder: str) -> str:
        """Why the base model in `folder` cannot be served; "" where it can, or where nothing says that it cannot.

        Raises OSError or TimeoutError where there is no answer: the base is then asked about after another scan.
        """


_running_side: RunningSide | None = None


def register(side: RunningSide | None) -> RunningSide | None:
    """Set the one side that is asked (None: nobody); returns the one before."""
    global _running_side
    before, _running_side = _running_side, side
    return before


def is_registered() -> bool:
    return _running_side is not None


def released(digest: str, reason: str) -> None:
    if _running_side is not None:
        _running_side.released(digest, reason)


def drain(digest: str, timeout: float = DRAIN_TIMEOUT) -> bool:
    """True where nobody uses the stored copy within `timeout` seconds."""
    return _running_side is None or _running_side.drain(digest, timeout)


def base_support(folder: str) -> str:
    """Raises what the running side raises."""
    return _running_side.base_support(folder) if _running_side is not None else ""
