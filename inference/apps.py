from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class InferenceConfig(AppConfig):
    name = "inference"
    verbose_name = _("Inference")

    def ready(self) -> None:
        """Listen to the registry. Starts nothing: without a manager there is nothing to release."""
        from adapters.bases import support
        from adapters.lifecycle import drain
        from adapters.signals import adapter_released

        adapter_released.connect(release, dispatch_uid="inference.release")
        drain.register(drain_adapter)
        support.register(judge_base)


def release(sender: Any, digest: str, **kwargs: Any) -> None:
    from .manager import current_manager

    manager = current_manager()
    if manager is not None:
        manager.release(digest)


def judge_base(folder: str) -> str:
    """Hook of `adapters.bases.support`: why the engine cannot serve the base in `folder`; "" where it can."""
    from .base_support import judge

    return judge(folder)


def drain_adapter(digest: str, timeout: float) -> bool:
    """Hook of `adapters.lifecycle.drain`: true once no request of this process uses the stored copy."""
    from .manager import current_manager

    manager = current_manager()
    return manager is None or manager.drain(digest, timeout)
