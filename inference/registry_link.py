"""What the registry asks of the running side. Imports the manager when it is asked first: every command loads this."""

from __future__ import annotations


class RegistryLink:
    """See `adapters.hooks.RunningSide`. Speaks for this process: without a manager nothing runs in it."""

    def released(self, digest: str, reason: str) -> None:
        from .manager import current_manager

        manager = current_manager()
        if manager is not None:
            manager.release(digest)

    def drain(self, digest: str, timeout: float) -> bool:
        from .manager import current_manager

        manager = current_manager()
        return manager is None or manager.drain(digest, timeout)

    def base_support(self, folder: str) -> str:
        from .base_support import refusal_reason

        return refusal_reason(folder)
