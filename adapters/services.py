"""What can be done with adapters. Views, API, admin and commands call these and nothing below them."""

from __future__ import annotations

from adapters.discovery.scanning import ScanSummary, latest_scan, scan
from adapters.lifecycle.activation import activate, deactivate
from adapters.lifecycle.checking import check, check_published
from adapters.lifecycle.cleaning import clean, sweep_published
from adapters.lifecycle.deletion import NotConfirmed, delete_files, forget
from adapters.lifecycle.editing import SlugInvalid, SlugTaken, edit, set_base
from adapters.lifecycle.repairing import NothingToRepair, repair

from .failures import ActivationFailed, BusyError, Refused
from .files.leftovers import clean_roots

__all__ = [
    "ActivationFailed",
    "BusyError",
    "NotConfirmed",
    "NothingToRepair",
    "Refused",
    "ScanSummary",
    "SlugInvalid",
    "SlugTaken",
    "activate",
    "check",
    "check_published",
    "clean",
    "clean_roots",
    "deactivate",
    "delete_files",
    "edit",
    "forget",
    "latest_scan",
    "repair",
    "scan",
    "set_base",
    "sweep_published",
]
