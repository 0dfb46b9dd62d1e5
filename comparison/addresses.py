"""Columns of a comparison as an address names them.

`?models=pirate,haiku;temperature=0.2,pirate:0.7+haiku:0.5`: models by slug and blends by their adapters with weights,
separated by commas; `;name=value` behind one is a parameter of its own. `static/js/lib/chosen.js` writes the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from common.api import ApiError
from common.shapes import read
from inference.choices import Choice
from inference.params import Blend, Ingredient

from .models import Vote

MOST_CHARS = 4000
MOST_NAMED = 50
BLEND: TypeAdapter[list[Ingredient]] = TypeAdapter(Blend)


@dataclass(frozen=True)
class Column:
    """A model, or the adapters of a blend; neither where what is written is no blend."""

    text: str  # as people read it
    own: str  # its own parameters, as they are written
    model: str = ""
    blend: tuple[Ingredient, ...] = ()

    @property
    def slugs(self) -> list[str]:
        if self.blend:
            return [part.model for part in self.blend]
        return [self.model] if self.model else []

    @property
    def entry(self) -> dict[str, Any]:
        """For the page's script."""
        parts = [part.model_dump() for part in self.blend]
        return {"own": self.own, "blend": parts} if parts else {"own": self.own, "model": self.model}


def columns(address: str) -> list[Column]:
    written = [text for text in address[:MOST_CHARS].split(",") if text][:MOST_NAMED]
    return [_column(name, own) for name, _, own in (text.partition(";") for text in written)]


def columns_of(vote: Vote) -> list[Column]:
    """Those of a vote, to be asked again; whatever they are by now."""
    found = []
    for one in vote.candidates.all():
        own = ";".join(f"{name}={value}" for name, value in one.params.items())
        parts = tuple(Ingredient(model=part["model"], weight=part["weight"]) for part in one.adapters)
        found.append(Column(one.model, own, "" if parts else one.model, parts))
    return found


def _column(name: str, own: str) -> Column:
    if ":" not in name:
        return Column(name, own, name)
    pairs = [part.partition(":") for part in re.split("[ +]", name) if part]  # a + arrives as a space
    text = " + ".join(f"{weight} × {slug}" for slug, _, weight in pairs)
    try:
        parts = read(BLEND, [{"model": slug, "weight": float(weight)} for slug, _, weight in pairs])
    except (ApiError, ValueError):
        return Column(text, own)
    taking_part = [part for part in parts if part.weight]
    if [part.weight for part in taking_part] == [1.0]:  # that adapter itself
        return Column(taking_part[0].model, own, taking_part[0].model)
    return Column(text, own, blend=tuple(parts))


def fits(column: Column, known: dict[str, Choice]) -> bool:
    """Whether it is a model, or a blend of adapters of one base; all of `known`."""
    if not column.blend:
        return bool(column.model)
    found = [known[slug] for slug in column.slugs]
    return all(one.kind == "adapter" and one.base_slug == found[0].base_slug for one in found)
