"""The model card of an adapter, as its page shows it: read when the page is, and bounded."""

from __future__ import annotations

from dataclasses import dataclass

from adapters.formats.config import clean
from adapters.formats.files import open_below, read_exactly
from adapters.lifecycle.sources import real_roots
from adapters.training import model_card

from .failures import Refused
from .models import LoraAdapter

FILE = "README.md"
LIMIT = 128 * 2**10  # bytes that are read
# Of the front matter: what says something to people, in this order.
FIELDS = ("base_model", "license", "language", "datasets", "library_name", "pipeline_tag", "tags", "metrics")
MOST_VALUES = 20
LONGEST_VALUE = 200  # characters
LONG_CHARS, LONG_LINES = 1500, 24  # beyond which it is folded


@dataclass(frozen=True)
class Card:
    """`text`: Markdown. `cut`: the file goes on."""

    fields: list[tuple[str, str]]
    text: str
    cut: bool

    @property
    def is_long(self) -> bool:
        return len(self.text) > LONG_CHARS or self.text.count("\n") >= LONG_LINES


def card_of(adapter: LoraAdapter) -> Card | None:
    """Of the training folder; None where it has none that says anything."""
    if not adapter.path or adapter.missing:
        return None
    try:
        with open_below(real_roots(), adapter.path, FILE) as file:
            data = read_exactly(file, LIMIT + 1)
    except (Refused, OSError):
        return None
    found = model_card.fields_of(data[:LIMIT])
    found["tags"] = model_card.tags_of(found)
    fields = [(key, _joined(found[key])) for key in FIELDS if found.get(key)]
    card = Card(fields, model_card.text_of(data[:LIMIT]), len(data) > LIMIT)
    return card if card.text or card.fields else None


def _joined(values: list[str]) -> str:
    shown = [clean(value, LONGEST_VALUE) for value in values[:MOST_VALUES]]
    return ", ".join(shown) + (" …" if len(values) > MOST_VALUES else "")
