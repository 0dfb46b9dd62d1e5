"""What can be done with adapters. Views, API, admin and commands call these and nothing below them."""

from __future__ import annotations

from adapters.discovery.scanning import ScanSummary, latest_scan, scan
from adapters.lifecycle.activation import activate, deactivate
from adapters.lifecycle.checking import check
from adapters.lifecycle.cleaning import clean
from adapters.lifecycle.deletion import NotConfirmed, delete_files, forget
from adapters.lifecycle.editing import SlugInvalid, SlugTaken, edit, set_base

from .failures import ActivationFailed, Busy, Refused
from .files.leftovers import clean_roots

__all__ = [
    "ActivationFailed",
    "Busy",
    "NotConfirmed",
    "Refused",
    "ScanSummary",
    "SlugInvalid",
    "SlugTaken",
    "activate",
    "check",
    "clean",
    "clean_roots",
    "deactivate",
    "delete_files",
    "edit",
    "forget",
    "latest_scan",
    "scan",
    "set_base",
]
