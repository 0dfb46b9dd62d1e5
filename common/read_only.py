"""Tables that the administration shows and does not change."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest


class ReadOnly:
    """No adding, changing or deleting by hand: goes before Django's `ModelAdmin` or an inline."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
