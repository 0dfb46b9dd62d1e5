"""What can be done with adapters. Views, API, admin and commands call these and nothing below them."""

from __future__ import annotations

from .activation import activate, deactivate
from .cleaning import clean
from .deletion import NotConfirmed, delete_files, forget
from .editing import SlugInvalid, SlugTaken, edit, set_base
from .failures import ActivationFailed, Busy, Refused
from .scanning import ScanSummary, latest_scan, scan

__all__ = [
    "ActivationFailed",
    "Busy",
    "NotConfirmed",
    "Refused",
    "ScanSummary",
    "SlugInvalid",
    "SlugTaken",
    "activate",
    "clean",
    "deactivate",
    "delete_files",
    "edit",
    "forget",
    "latest_scan",
    "scan",
    "set_base",
]
