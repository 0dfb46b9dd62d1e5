"""Signals that the running side listens to; the registry never imports it."""

from __future__ import annotations

from django.dispatch import Signal

# kwargs: digest (str), reason (str: "deactivated", "replaced", "failed", "forgotten", "files_deleted").
# Sent after the transaction that took the digest out of service; sync receivers only.
adapter_released = Signal()
