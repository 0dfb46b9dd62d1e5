from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class InferenceConfig(AppConfig):
    name = "inference"
    verbose_name = _("Inference")

    def ready(self) -> None:
        """Answer the registry. Starts nothing: without a manager there is nothing to release."""
        from adapters import hooks

        from .registry_link import RegistryLink

        hooks.register(RegistryLink())
