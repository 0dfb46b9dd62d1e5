import gc

from django.apps import AppConfig


class LoraPortalConfig(AppConfig):
    name = "loraportal"

    def ready(self) -> None:
        from . import checks  # noqa: F401  (registers what an operator may have set wrong)
        from .schema import (  # noqa: F401  (registers the API's description)
            assistants,
            calls,
            chat,
            evaluations,
            prompts,
            security,
            votes,
        )

        gc.freeze()  # what was imported stays: no collection looks at it again
        gc.enable()  # (see manage.py)
