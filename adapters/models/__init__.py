"""The registry's tables: adapters, base models, their history, scans, and leases between processes."""

from .adapter import LoraAdapter, Status, Tag
from .base import BaseLayers, BaseMapping, BaseModel, MatchedBy
from .event import AdapterEvent, EventKind
from .facts import TrainingFacts
from .hub_import import HubImport
from .job import JobState
from .lease import Lease
from .merge import Merge, MergeType
from .repair import Repair, repair_of
from .scan import Scan, ScanState

__all__ = [
    "AdapterEvent",
    "BaseLayers",
    "BaseMapping",
    "BaseModel",
    "EventKind",
    "HubImport",
    "JobState",
    "Lease",
    "LoraAdapter",
    "MatchedBy",
    "Merge",
    "MergeType",
    "Repair",
    "Scan",
    "ScanState",
    "Status",
    "Tag",
    "TrainingFacts",
    "repair_of",
]
