"""Numbers in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def grouped(value: Any) -> Any:
    """5031 -> "5,031"; anything but a whole number as it is.

    The comma is what both languages of the portal use. Django's own formats for Simplified Chinese group by four digits
    and with nothing between them.
    """
    return f"{value:,}" if type(value) is int else value


def grouped_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: grouped(value) for key, value in values.items()}
