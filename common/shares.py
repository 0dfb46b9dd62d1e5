"""How sure a share of few cases is."""

from __future__ import annotations

import math

Z = 1.96  # 95 %


def wilson(wins: int, votes: int) -> tuple[float, float]:
    """Wilson's score interval of a share, without continuity correction (Wilson 1927)."""
    share, square = wins / votes, Z * Z
    middle = share + square / (2 * votes)
    reach = Z * math.sqrt(share * (1 - share) / votes + square / (4 * votes * votes))
    whole = 1 + square / votes
    return max(0.0, (middle - reach) / whole), min(1.0, (middle + reach) / whole)
