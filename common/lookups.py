"""Searching without regard to case, also where the database's collation is exact (utf8mb4_bin, which slugs need)."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models.lookups import IContains


@models.CharField.register_lookup
@models.TextField.register_lookup
class FoldedContains(IContains):
    """`icontains`; MySQL's `LIKE` follows the collation, so both sides are lowered there."""

    def as_mysql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        left, left_params = self.process_lhs(compiler, connection)
        right, right_params = self.process_rhs(compiler, connection)
        return f"LOWER({left}) LIKE LOWER({right})", [*left_params, *right_params]
