from django.apps import AppConfig


class LoraPortalConfig(AppConfig):
    name = "loraportal"

    def ready(self) -> None:
        from . import checks  # noqa: F401  (registers the system checks)
        from .schema import calls, chat, security  # noqa: F401  (registers the API's description)
