from django.apps import AppConfig


class LoraPortalConfig(AppConfig):
    name = "loraportal"

    def ready(self) -> None:
        from . import checks  # noqa: F401  (registers the system checks)
