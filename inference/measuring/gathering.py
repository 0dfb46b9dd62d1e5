"""Figures in memory: by subject and minute as they come, by every step of the history once they are to be written."""

from __future__ import annotations

import heapq
import logging
import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from .entries import EngineIncident, EngineSample, Record, Refusal
from .figures import Figures

logger = logging.getLogger(__name__)

MINUTE = 60
STEPS = (MINUTE, 600, 7200, 86_400)  # seconds
MOST_SUBJECTS = 20_000  # with figures of their own between two writes; all others count in the whole
MOST_KEPT = 60_000  # rows that are not complete, or wait for a database that is away
MOST_FAILED, SLOWEST = 20, 2  # requests between two writes whose facts are kept
LEVELS = ("running", "waiting", "kv_used", "kv_tokens")
MEMORY = ("rss", "rss_peak", "rss_limit", "device_used", "device_peak", "device_total", "adapters")
COUNTED = ("steps", "step_seconds", "step_rows", "tokens", "errors")

Subject = tuple[str, str]  # kind and name, as in `models.Series`
Key = tuple[int, Subject, int]  # step, subject, start
ALL: Subject = ("all", "")
ENGINE: Subject = ("engine", "")


class Measurements:
    """Belongs to the recorder's thread."""

    def __init__(self) -> None:
        self.process = secrets.token_hex(8)  # as whose the rows are written
        self.fresh: defaultdict[tuple[Subject, int], Figures] = defaultdict(Figures)
        self.rows: defaultdict[Key, Figures] = defaultdict(Figures)
        self.unwritten: set[Key] = set()
        self.beginning: defaultdict[Subject, Figures] = defaultdict(Figures)  # what is to join the rows of step 0
        self.failed: list[Record] = []
        self.slow: list[Record] = []
        self.happenings: list[EngineIncident] = []
        self._last: Mapping[str, Any] = {}

    # What comes in

    def request(self, record: Record) -> None:
        models = [("model", name) for name in record.members or (record.model,)]
        subjects = (ALL, *models, ("user", str(record.user_id)))
        self._add(subjects, record.at, figures_of(record))
        if record.code:
            if len(self.failed) < MOST_FAILED:
                self.failed.append(record)
            return
        self.slow.append(record)
        if len(self.slow) > 64:
            self.slow = slowest(self.slow)

    def refused(self, refusal: Refusal) -> None:
        figures = Figures()
        figures.counts[f"refused:{refusal.code}"] = 1
        self._add((ALL, ("user", str(refusal.user_id))) if refusal.user_id else (ALL,), refusal.at, figures)

    def _add(self, subjects: Iterable[Subject], at: float, figures: Figures) -> None:
        for subject in subjects:
            key = subject, minute_of(at)
            if subject == ALL or key in self.fresh or len(self.fresh) < MOST_SUBJECTS:
                self.fresh[key].merge(figures)

    def heartbeat(self, beat: EngineSample) -> None:
        figures, status = self.fresh[ENGINE, minute_of(beat.at)], beat.status
        memory = status.get("memory") or {}
        for name in LEVELS:
            figures.level(name, status.get(name, 0))
        for name in MEMORY:
            figures.level(name, memory.get(name, 0))
        figures.level("residents", len(status.get("adapters", ())))
        figures.level("web_rss", beat.web_rss)
        last, self._last = self._last, status
        restarted = status.get("steps", 0) < last.get("steps", 0)
        for name in COUNTED:
            figures.counts[name] += status.get(name, 0) - (0 if restarted else last.get(name, 0))

    def happened(self, event: EngineIncident) -> None:
        self.happenings.append(event)
        self.fresh[ENGINE, minute_of(event.at)].counts[event.kind] += 1
        if event.kind == "engine_started":
            self._last = {}

    # What goes out

    def facts(self) -> list[Record]:
        """Of the requests that are worth a look."""
        return [*self.failed, *slowest(self.slow)]

    def told(self) -> None:
        """What there was of facts and happenings is written."""
        self.failed, self.slow, self.happenings = [], [], []

    def roll_up(self) -> None:
        for (subject, minute), figures in self.fresh.items():
            for step in STEPS:
                key = step, subject, minute - minute % step
                self.rows[key].merge(figures)
                self.unwritten.add(key)
            if subject[0] in ("all", "model"):
                self.beginning[subject].merge(figures)
        self.fresh.clear()

    def forget(self, now: float) -> None:
        """Drop what is written and complete, and the oldest where too much waits."""
        for key in [key for key in self.rows if key not in self.unwritten and key[2] + 2 * key[0] < now]:
            del self.rows[key]
        if len(self.rows) > MOST_KEPT and not self.unwritten:
            # As another process's, what comes is added to these rows, where it would replace them.
            self.rows.clear()
            self.process = secrets.token_hex(8)
        excess = len(self.rows) - MOST_KEPT
        if excess > 0:
            logger.error("%d rows of measured figures are lost: the database is away", excess)
            for key in heapq.nsmallest(excess, self.rows, key=lambda key: key[2]):
                del self.rows[key]
                self.unwritten.discard(key)
        del self.happenings[:-1000]


def minute_of(at: float) -> int:
    return int(at) - int(at) % MINUTE


def slowest(records: list[Record]) -> list[Record]:
    by_end = heapq.nlargest(SLOWEST, records, key=lambda record: record.total)
    by_begin = heapq.nlargest(1, records, key=lambda record: record.ttft or record.total)
    return list({id(record): record for record in [*by_end, *by_begin]}.values())


def figures_of(record: Record) -> Figures:
    figures = Figures()
    figures.counts["requests"] = 1
    figures.counts[f"error:{record.code}" if record.code else f"end:{record.reason}"] = 1
    for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
        figures.counts[name] = getattr(record, name)
    if record.code:
        return figures
    if record.reason != "cancelled":
        figures.add("latency", record.total)
    if record.ttft is not None:
        figures.add("ttft", record.ttft)
        figures.add("queue", sum(record.stages.get(stage, 0.0) for stage in ("memory", "queue")))
        figures.add("load", sum(record.stages.get(stage, 0.0) for stage in ("start", "base", "adapter")))
        figures.add("prompt", record.stages.get("prompt", 0.0))
    figures.buckets["gap"].update(record.gaps)
    figures.counts["gap_seconds"] = record.gap_seconds  # type: ignore[assignment]
    return figures
