"""What the registry asks of the running side. Imports the manager when it is asked first: every command loads this."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from django.conf import settings

from adapters.hooks import BaseSupport, Promotion, PublishedFault, ServedCopy, Stored, Tell


class RegistryLink:
    """See `adapters.hooks.RunningSide`. Speaks for this process: without a manager nothing runs in it. What a fleet
    has was put there by any process, and any takes it away."""

    def released(self, digest: str, reason: str) -> None:
        from .manager import current_manager

        manager = current_manager()
        if manager is not None:
            manager.release(digest)
        elif settings.INFERENCE_BACKEND == "vllm":
            from .published import withdraw

            withdraw(digest)

    def drain(self, digest: str, timeout: float) -> bool:
        from .manager import current_manager

        manager, until = current_manager(), time.monotonic() + timeout
        if manager is not None and not manager.drain(digest, timeout):
            return False
        if settings.INFERENCE_BACKEND != "vllm":
            return True
        from .published import wait_unused

        return wait_unused(digest, max(0.0, until - time.monotonic()))

    def promote(self, stored: Stored) -> Promotion:
        if settings.INFERENCE_BACKEND != "vllm":
            return Promotion()
        from .promotion import promote

        return promote(stored)

    def sweep(self, unwanted: Callable[[str], bool], dry_run: bool) -> list[tuple[str, int]]:
        if settings.INFERENCE_BACKEND != "vllm":
            return []
        from .published import sweep

        return sweep(unwanted, dry_run)

    def check(self, copies: Sequence[ServedCopy], dry_run: bool, thorough: bool, tell: Tell) -> list[PublishedFault]:
        if settings.INFERENCE_BACKEND != "vllm":
            return []
        from .published import check

        return check(copies, dry_run, thorough, tell)

    def template_fault(self, template: str, tokens: Mapping[str, str]) -> str:
        from inference.engine.text.rendering import template_fault

        return template_fault(template, tokens)

    def base_support(self, folder: str) -> BaseSupport:
        if settings.INFERENCE_BACKEND == "vllm":
            return BaseSupport()  # its replicas load what they are started with; no library here could tell
        from .base_support import look_at

        return look_at(folder)
