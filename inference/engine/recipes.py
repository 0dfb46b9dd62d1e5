"""Blends: several adapters of one base with a weight each, asked as one.

A blend is an adapter of its own to the engine, keyed by a digest of its recipe. That is the content of its members, in
their order, and their weights, so equal recipes are one resident and others are never mixed up. This is the part that
both sides know; how matrices are put together, `lora/blend.py` says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

MAX_MEMBERS = 8
MAX_WEIGHT = 2.0  # either way
MAX_RANK = 512  # of a linear layer, all members together: as much as the registry takes of one adapter


def recipe_digest(parts: Iterable[tuple[str, float]]) -> str:
    """sha256 over a line for each (digest, weight), in the order given."""
    lines = "".join(f"{digest}  {float(weight)!r}\n" for digest, weight in parts)
    return hashlib.sha256(f"blend\n{lines}".encode()).hexdigest()


def members_of(spec: Mapping[str, Any] | None) -> list[str]:
    """Digests of the adapters that a blend consists of; none of an adapter that is none."""
    return [member["digest"] for member in (spec or {}).get("members") or ()]


def digests_of(spec: Mapping[str, Any] | None) -> list[str]:
    """Every digest that an `AdapterSpec` stands for: its own, and of a blend its members'."""
    return [spec["digest"], *members_of(spec)] if spec else []
