from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class EvaluationsConfig(AppConfig):
    name = "evaluations"
    verbose_name = _("Evaluations")

    def ready(self) -> None:
        """Gates are asked before an adapter becomes active."""
        from adapters import hooks

        from .gates.link import GateLink

        hooks.register_gatekeeper(GateLink())
