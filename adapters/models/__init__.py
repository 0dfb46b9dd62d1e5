"""The registry's tables: adapters, base models, their history, scans, and leases between processes."""

from .adapter import LoraAdapter, Status, Tag
from .base import BaseMapping, BaseModel
from .event import AdapterEvent, EventKind
from .facts import TrainingFacts
from .lease import Lease
from .scan import Scan, ScanState

__all__ = [
    "AdapterEvent",
    "BaseMapping",
    "BaseModel",
    "EventKind",
    "Lease",
    "LoraAdapter",
    "Scan",
    "ScanState",
    "Status",
    "Tag",
    "TrainingFacts",
]
