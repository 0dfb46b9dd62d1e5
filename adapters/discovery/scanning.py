"""A scan: what lies in the roots, validated, and the rows brought in line. Nothing changed means nothing read again."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from adapters.bases import support
from adapters.bases.registry import refresh
from adapters.containment import contained
from adapters.failures import BusyError, Refused
from adapters.formats.files import inside
from adapters.leases import HeldLease, is_held
from adapters.lifecycle import checking
from adapters.lifecycle.activation import activate
from adapters.lifecycle.editing import base_judged
from adapters.models import AdapterEvent, EventKind, LoraAdapter, Scan, ScanState, Status
from adapters.training.grouping import mark_groups
from adapters.training.layout import AdapterFolder, Walk, look
from adapters.validation.outcome import is_settled

from . import moves
from .adoption import ImportedRows
from .intake import Intake

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser

logger = logging.getLogger(__name__)
Progress = Callable[[str, int, int], None]  # stage, folders done, folders in all (0: not known yet)
BATCH = 500
LEASE = "scan"


@dataclass
class ScanSummary:
    found: int = 0  # adapter folders on disk
    new: int = 0
    changed: int = 0
    missing: int = 0  # rows whose folder is not there
    incomplete: int = 0
    duration_ms: int = 0


def scan(
    actor: AbstractBaseUser | None, roots: Iterable[str | Path] | None = None, progress: Progress | None = None
) -> ScanSummary:
    """Scan all configured roots, or those in `roots`.

    Raises BusyError("scan_running"), and ValueError for a root that is not configured.
    """
    chosen = _chosen(roots)
    with HeldLease(LEASE, "scan_running") as hold:
        Scan.objects.filter(state=ScanState.RUNNING).update(state=ScanState.FAILED, finished_at=timezone.now())
        row = Scan.objects.create(actor_id=actor.pk if actor is not None else None)
        try:
            run = _Run(row, hold, actor, progress)
            summary = run.run(chosen)
        except BaseException:
            Scan.objects.filter(pk=row.pk).update(state=ScanState.FAILED, finished_at=timezone.now())
            raise
        Scan.objects.filter(pk=row.pk).update(
            state=ScanState.DONE, finished_at=timezone.now(), stage="", notes=run.notes(), **vars(summary)
        )
        _drop_uneventful(row)
    support.start(base_judged)
    return summary


def _drop_uneventful(latest: Scan) -> None:
    """Of the scans that nobody asked for and that found nothing new, only the latest says anything."""
    by_itself = Scan.objects.filter(pk__lt=latest.pk, actor=None, state=ScanState.DONE)
    by_itself.filter(new=0, changed=0).delete()


def latest_scan() -> Scan | None:
    """The latest scan. One whose process died without a word is marked as failed first."""
    found = Scan.objects.first()
    if found is not None and found.state == ScanState.RUNNING and end_killed_scans():
        found.refresh_from_db()
    return found


def end_killed_scans() -> int:
    """Mark scans whose process died without a word as failed; returns how many."""
    running = list(Scan.objects.filter(state=ScanState.RUNNING).values_list("pk", flat=True))
    if not running or is_held(LEASE):
        return 0
    # Looked for first: one that has begun in between is not among them.
    rows = Scan.objects.filter(pk__in=running, state=ScanState.RUNNING)
    return rows.update(state=ScanState.FAILED, finished_at=timezone.now())


def _chosen(roots: Iterable[str | Path] | None) -> tuple[str, ...]:
    configured = tuple(dict.fromkeys(os.path.realpath(root) for root in settings.LORA_ROOTS))
    if roots is None:
        return configured
    wanted = {os.path.realpath(root) for root in roots}
    if unknown := wanted.difference(configured):
        raise ValueError(f"not among LORA_ROOTS: {', '.join(sorted(unknown))}")
    return tuple(root for root in configured if root in wanted)


def _outermost(roots: tuple[str, ...]) -> tuple[str, ...]:
    """Without roots that lie inside another one: their folders would be found twice."""
    return tuple(r for r in roots if not any(r != other and inside(r, (other,)) for other in roots))


class _Run:
    def __init__(self, row: Scan, hold: HeldLease, actor: AbstractBaseUser | None, progress: Progress | None) -> None:
        self.row, self.hold, self.actor, self.progress = row, hold, actor, progress
        self.summary = ScanSummary()
        self.configured = _chosen(None)
        self.walk = Walk(self.configured)
        self.seen: set[int] = set()
        self.groups: set[str] = set()
        self.reported_at = 0.0

    def run(self, roots: tuple[str, ...]) -> ScanSummary:
        started = time.monotonic()
        self.tell("bases", 0, 0)
        self.bases = refresh()
        self.intake = Intake(self.actor, self.configured, self.bases, self.hold.touch, self.walk.note)
        self.known = self.intake.known
        self.imported = ImportedRows()
        before = Scan.objects.exclude(pk=self.row.pk).first()
        if before is not None and before.state == ScanState.FAILED:  # it may have died before it marked its groups
            self.groups.update(LoraAdapter.objects.values_list("group_hash", flat=True).distinct())
        self.total = sum(1 for known in self.known.values() if known.root in roots)
        fresh: list[AdapterFolder] = []
        for root in _outermost(roots):
            if not os.path.isdir(root):
                self.walk.note("root_missing", root)
                continue
            for candidate in self.walk.candidates(root):
                self.summary.found += 1
                self.tell("folders", self.summary.found, max(self.total, self.summary.found))
                if not self._is_unchanged(candidate):
                    fresh.append(candidate)
                if len(fresh) >= BATCH:
                    self.intake.take(fresh)
                    fresh = []
        self.intake.take(fresh)
        self._follow_moves()
        self._mark_missing(roots)
        mark_groups(self.groups | self.intake.groups, self.configured)
        self._restore()
        self.summary.new += len(self.intake.new)
        self.summary.changed = self.intake.changed
        self.summary.incomplete = LoraAdapter.objects.filter(incomplete=True, missing=False).count()
        self.summary.missing = LoraAdapter.objects.filter(missing=True).count()
        self.summary.duration_ms = int((time.monotonic() - started) * 1000)
        return self.summary

    def tell(self, stage: str, done: int, total: int) -> None:
        """Progress, and a sign of life of the lock, a few times a second at most."""
        now = time.monotonic()
        if now - self.reported_at < 0.3 and stage == "folders":
            return
        self.reported_at = now
        self.hold.touch()
        Scan.objects.filter(pk=self.row.pk).update(stage=stage, done=done, total=total)
        if self.progress is not None:
            self.progress(stage, done, total)

    def notes(self) -> list[dict[str, str]]:
        """What was passed over; paths are relative to their root's folder name."""
        return [{"code": code, "path": self._label(path)} for code, path in self.walk.notes]

    def _label(self, path: str) -> str:
        root = next((r for r in self.configured if inside(path, (r,))), "")
        below = os.path.normpath(os.path.join(os.path.basename(root), os.path.relpath(path, root)))
        text = below if root else os.path.basename(path)
        return "".join(c if c.isprintable() else "\ufffd" for c in text)[:500]

    def _is_unchanged(self, candidate: AdapterFolder) -> bool:
        known = self.known.get(candidate.path_hash)
        if known is None:
            claimed = self.imported.claim(candidate.path)
            known = self.known.pop(claimed, None)
            if known is None:
                return False
            self.known[candidate.path_hash] = known
        self.seen.add(known.pk)
        return (
            not known.incomplete
            and not known.missing
            and known.content_key != ""
            and is_settled(known.signature, known.failure_code, candidate, self.bases)
        )

    def _follow_moves(self) -> None:
        """Give new folders the rows of those that are gone, where they hold the same."""
        unseen = {known.pk: path_hash for path_hash, known in self.known.items() if known.pk not in self.seen}
        if not unseen or not self.intake.new:
            return
        for old, new in moves.moved(unseen, self.intake.new, self.configured):
            with contained("the row of %s could not follow its files", old.path):
                candidate = look(new.root, new.path, self.configured)
                if candidate is None or not moves.follow(old, new, self.actor):
                    continue
                self.summary.new -= 1
                self.seen.add(old.pk)
                known = self.known.pop(unseen[old.pk])
                known.missing, known.signature = False, new.signature
                self.known[candidate.path_hash] = known
                self.groups.add(old.group_hash)
                self.intake.take([candidate])

    def _restore(self) -> None:
        """Activate rows that came from an older system as active; make copies again that have changed."""
        rows = LoraAdapter.objects.filter(status=Status.ACTIVE, digest="", missing=False)
        for pk in list(rows.values_list("pk", flat=True)):
            with contained("adapter %s is active but could not be stored again", pk):
                try:
                    activate(pk, self.actor)
                except (Refused, BusyError, LoraAdapter.DoesNotExist):
                    logger.warning("adapter %s is active but could not be stored again", pk)
        checking.look(self.actor)

    def _mark_missing(self, roots: tuple[str, ...]) -> None:
        """Rows of the scanned roots, and of roots that are configured no more, whose folder was not seen."""
        gone = [
            known.pk
            for known in self.known.values()
            if known.pk not in self.seen
            and not known.missing
            and (known.root in roots or known.root not in self.configured)
        ]
        for start in range(0, len(gone), BATCH):
            part = gone[start : start + BATCH]
            with transaction.atomic():
                rows = LoraAdapter.objects.filter(pk__in=part)
                names = list(rows.values_list("pk", "name", "status", "group_hash"))
                rows.update(missing=True, update_available=False, updated_at=timezone.now())
                AdapterEvent.objects.bulk_create(
                    [
                        AdapterEvent(
                            adapter_id=pk, adapter_name=name, kind=EventKind.MISSING, from_status=status,
                            to_status=status,
                        )
                        for pk, name, status, _ in names
                    ]
                )  # fmt: skip
            self.groups.update(group for *_, group in names if group)
