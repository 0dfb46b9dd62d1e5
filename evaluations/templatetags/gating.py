"""Gates on pages of other applications, which do not know them."""

from __future__ import annotations

from django import template

from adapters.models import LoraAdapter
from evaluations.gates import keeping

register = template.Library()


@register.simple_tag
def gates_of(adapter: LoraAdapter) -> dict[str, object]:
    """How an adapter stands with the gates of its family, as the API tells it."""
    return keeping.standings_json(adapter)
