"""Searching without regard to case, also where the database's collation is exact (utf8mb4_bin, which slugs need)."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models.lookups import IContains, IExact


def folded(lookup: Any, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
    """MySQL's `LIKE` follows the collation, so both sides are lowered there."""
    left, left_params = lookup.process_lhs(compiler, connection)
    right, right_params = lookup.process_rhs(compiler, connection)
    return f"LOWER({left}) LIKE LOWER({right})", [*left_params, *right_params]


@models.CharField.register_lookup
@models.TextField.register_lookup
class FoldedContains(IContains):
    def as_mysql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        return folded(self, compiler, connection)


@models.CharField.register_lookup
@models.TextField.register_lookup
class FoldedExact(IExact):
    def as_mysql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        return folded(self, compiler, connection)
