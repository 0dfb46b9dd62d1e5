from django.apps import AppConfig


class LoraPortalConfig(AppConfig):
    name = "loraportal"

    def ready(self) -> None:
        from .schema import assistants, calls, chat, security, votes  # noqa: F401  (registers the API's description)
