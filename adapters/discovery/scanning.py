"""A scan: what lies in the roots, validated, and the rows brought in line. Nothing changed means nothing read again."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from adapters import store
from adapters.bases import support
from adapters.bases.registry import Matcher, refresh
from adapters.failures import Busy, Refused
from adapters.formats.files import inside
from adapters.identifiers import slugify, text_hash
from adapters.leases import HeldLease, is_held
from adapters.lifecycle import checking
from adapters.lifecycle.activation import activate
from adapters.models import AdapterEvent, BaseModel, EventKind, LoraAdapter, Scan, ScanState, Status
from adapters.training.facts import store_facts
from adapters.training.grouping import mark_groups
from adapters.training.layout import WEIGHTS, AdapterFolder, Walk
from adapters.training.naming import name_of
from adapters.validation.outcome import DESCRIBED, fill, settle_status, signature
from adapters.validation.validate import ValidationResult, validate

from .adoption import ImportedRows

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

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(slots=True)
class Known:
    """What a scan must know of a row to leave it alone."""

    pk: int
    signature: str
    incomplete: bool
    missing: bool
    root: str
    failure_code: str


def scan(
    actor: AbstractBaseUser | None, roots: Iterable[str | Path] | None = None, progress: Progress | None = None
) -> ScanSummary:
    """Scan all configured roots, or those in `roots`.

    Raises Busy("scan_running"), and ValueError for a root that is not configured.
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
            state=ScanState.DONE, finished_at=timezone.now(), stage="", notes=run.notes(), **summary.as_dict()
        )
    support.start()
    return summary


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
        self.matcher = Matcher()
        self.slugs = set(LoraAdapter.objects.values_list("slug", flat=True))
        self.slugs.update(BaseModel.objects.values_list("slug", flat=True))
        self.known = _known()
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
                    self._take(fresh)
                    fresh = []
        self._take(fresh)
        self._mark_missing(roots)
        mark_groups(self.groups, self.configured)
        self._restore()
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
            and known.signature == signature(candidate, known.failure_code, self.bases)
        )

    def _take(self, candidates: list[AdapterFolder]) -> None:
        """Validate a batch and write its rows in one transaction."""
        if not candidates:
            return
        old = LoraAdapter.objects.select_related("base").in_bulk(
            [self.known[c.path_hash].pk for c in candidates if c.path_hash in self.known]
        )
        by_hash = {adapter.path_hash: adapter for adapter in old.values()}
        pairs = [(candidate, by_hash.get(candidate.path_hash)) for candidate in candidates]
        verdicts: list[tuple[AdapterFolder, LoraAdapter | None, ValidationResult, bool]] = []
        for candidate, adapter in pairs:
            self.hold.touch()  # a pattern may take a second or two, and there are hundreds in a batch
            chosen = adapter.base if adapter is not None and adapter.base_by_hand else None
            verdict = validate(candidate, self.matcher, self.configured, settings.SCAN_SETTLE_SECONDS, chosen)
            update = adapter is not None and _is_update(adapter, candidate, verdict, self.configured)
            verdicts.append((candidate, adapter, verdict, update))
        with transaction.atomic():
            # Locked until the end of the batch: somebody may forget an adapter meanwhile.
            alive = set(LoraAdapter.objects.select_for_update().filter(pk__in=old).values_list("pk", flat=True))
            new = [self._new(c, verdict) for c, adapter, verdict, _ in verdicts if adapter is None]
            inserted = self._insert(new)
            changed = []
            for candidate, adapter, verdict, update in verdicts:
                if adapter is not None and adapter.pk in alive:
                    self._change(adapter, candidate, verdict, update)
                    changed.append(adapter)
            LoraAdapter.objects.bulk_update(changed, DESCRIBED, batch_size=100)
            store_facts(inserted + changed, self.configured)
        self.groups.update(text_hash(candidate.run) for candidate in candidates)

    def _new(self, candidate: AdapterFolder, verdict: ValidationResult) -> LoraAdapter:
        name = name_of(candidate.root, candidate.path)
        adapter = LoraAdapter(name=name[:255], slug=self._slug(name), path_hash=candidate.path_hash)
        fill(adapter, candidate, verdict, self.bases)
        if verdict.code and not verdict.incomplete:
            adapter.status, adapter.failure_code = Status.FAILED, verdict.code
            adapter.failure_details = verdict.details
        self.summary.new += 1
        return adapter

    def _slug(self, name: str) -> str:
        stem = slug = slugify(name)
        number = 1
        while slug in self.slugs:
            number += 1
            slug = f"{stem}-{number}"
        self.slugs.add(slug)
        return slug

    def _insert(self, new: list[LoraAdapter]) -> list[LoraAdapter]:
        """Write new rows and their events; returns the rows with their ids, which MySQL does not hand back."""
        LoraAdapter.objects.bulk_create(new, batch_size=100)
        hashes = [adapter.path_hash for adapter in new]
        ids = dict(LoraAdapter.objects.filter(path_hash__in=hashes).values_list("path_hash", "pk"))
        for adapter in new:
            adapter.pk = ids[adapter.path_hash]
        events = [
            AdapterEvent(
                adapter_id=adapter.pk,
                adapter_name=adapter.name,
                kind=EventKind.DISCOVERED,
                to_status=adapter.status,
                code=adapter.failure_code,
                details=adapter.failure_details,
                actor_id=self.actor.pk if self.actor else None,
                actor_name=self.actor.get_username() if self.actor else "",
            )
            for adapter in new
        ]
        AdapterEvent.objects.bulk_create(events, batch_size=200)
        return new

    def _change(self, adapter: LoraAdapter, candidate: AdapterFolder, verdict: ValidationResult, update: bool) -> None:
        known = self.known[candidate.path_hash]
        if known.missing:
            adapter.record(EventKind.RETURNED, self.actor)
        if known.signature != signature(candidate, known.failure_code, self.bases):
            self.summary.changed += 1
            if not known.incomplete and not known.missing:
                adapter.record(EventKind.CHANGED, self.actor)
        settle_status(adapter, candidate, verdict, self.actor)
        fill(adapter, candidate, verdict, self.bases)
        adapter.update_available = update

    def _restore(self) -> None:
        """Activate rows that came from an older system as active; make copies again that have changed."""
        rows = LoraAdapter.objects.filter(status=Status.ACTIVE, digest="", missing=False)
        for pk in list(rows.values_list("pk", flat=True)):
            try:
                activate(pk, self.actor)
            except (Refused, Busy):
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


def _known() -> dict[str, Known]:
    rows = LoraAdapter.objects.values_list(
        "path_hash", "pk", "signature", "incomplete", "missing", "root", "failure_code"
    )
    return {row[0]: Known(*row[1:]) for row in rows.iterator(chunk_size=2000)}


def _is_update(
    adapter: LoraAdapter, candidate: AdapterFolder, verdict: ValidationResult, roots: tuple[str, ...]
) -> bool:
    """True where activating again would serve something else than what is served now."""
    if adapter.status != Status.ACTIVE or not adapter.digest or verdict.code or verdict.incomplete:
        return False
    if candidate.weights != WEIGHTS:
        return adapter.update_available or adapter.signature != text_hash(candidate.signature, "")
    try:
        return store.digest_of(roots, candidate.path) != adapter.digest
    except (Refused, OSError):
        return False
