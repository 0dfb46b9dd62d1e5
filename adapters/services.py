"""What can be done with adapters. Views, API, admin and commands call these and nothing below them."""

from __future__ import annotations

from .activation import activate, deactivate
from .failures import ActivationFailed, Busy
from .scanning import ScanSummary, scan

__all__ = ["ActivationFailed", "Busy", "ScanSummary", "activate", "deactivate", "scan"]
