"""Folders that a scan found, judged and written into their rows. What goes wrong with one concerns no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from adapters import store
from adapters.bases.matching import Matcher
from adapters.bases.registry import folder_of
from adapters.containment import contained
from adapters.failures import CHECK_FAILED, Refused
from adapters.identifiers import slugify, text_hash
from adapters.lifecycle import offers
from adapters.models import AdapterEvent, BaseModel, EventKind, LoraAdapter, Status, repair_of
from adapters.training.facts import Facts, facts_of, store_facts
from adapters.training.layout import WEIGHTS, AdapterFolder
from adapters.training.naming import name_of
from adapters.validation import repairs
from adapters.validation.outcome import DESCRIBED, described, fill, same_files, settle_status
from adapters.validation.validate import ValidationResult, validate

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser


@dataclass(slots=True)
class Known:
    """What a scan must know of a row to leave it alone."""

    pk: int
    signature: str
    incomplete: bool
    missing: bool
    root: str
    failure_code: str
    content_key: str  # "": of a row that was made before there were such keys


@dataclass(slots=True)
class Judged:
    """A folder, its row where there is one, and what was found."""

    candidate: AdapterFolder
    adapter: LoraAdapter | None
    verdict: ValidationResult
    facts: Facts  # read with the rest: while rows are written, nobody else can write to SQLite
    update: bool = False  # activating again would serve something else


class Intake:
    """Takes folders in, batch by batch. `touch` keeps the scan's lock, `note` hears (code, path) of what is left."""

    def __init__(
        self,
        actor: AbstractBaseUser | None,
        roots: tuple[str, ...],
        bases: str,
        touch: Callable[[], None],
        note: Callable[[str, str], None],
    ) -> None:
        self.actor, self.roots, self.bases, self.touch, self.note = actor, roots, bases, touch, note
        self.matcher = Matcher()
        self.slugs = set(LoraAdapter.objects.values_list("slug", flat=True))
        self.slugs.update(BaseModel.objects.values_list("slug", flat=True))
        self.known = _known()
        self.new: list[int] = []  # ids of the rows that were made
        self.changed = 0  # folders whose files had changed
        self.groups: set[str] = set()  # of all that was taken in

    def take(self, candidates: list[AdapterFolder]) -> None:
        """Validate a batch and write its rows in one transaction; one by one where that fails."""
        if not candidates:
            return
        self.groups.update(text_hash(candidate.run) for candidate in candidates)
        if self._has_written(self._judge(candidates)):
            return
        for candidate in candidates:
            if self._has_written(self._judge([candidate])) or self._has_written([self._refused(candidate)]):
                continue
            self.note(CHECK_FAILED, candidate.path)

    def _judge(self, candidates: list[AdapterFolder]) -> list[Judged]:
        ids = [self.known[c.path_hash].pk for c in candidates if c.path_hash in self.known]
        rows = LoraAdapter.objects.select_related("base", "repair").in_bulk(ids)
        by_hash = {adapter.path_hash: adapter for adapter in rows.values()}
        return [self._judge_one(candidate, by_hash.get(candidate.path_hash)) for candidate in candidates]

    def _judge_one(self, candidate: AdapterFolder, adapter: LoraAdapter | None) -> Judged:
        self.touch()  # a pattern may take a second or two, and there are hundreds in a batch
        chosen = adapter.base if adapter is not None and adapter.base_by_hand else None
        facts = facts_of(candidate.path, self.roots)
        with contained("%s could not be checked", candidate.path):
            accepted = repairs.accepted_of(repair_of(adapter)) if adapter is not None else None
            settle = settings.SCAN_SETTLE_SECONDS
            verdict = validate(candidate, self.matcher, self.roots, settle, chosen, accepted)
            update = adapter is not None and _is_update(adapter, candidate, verdict, self.roots)
            return Judged(candidate, adapter, verdict, facts, update)
        return Judged(candidate, adapter, _unchecked(candidate), facts)

    def _refused(self, candidate: AdapterFolder) -> Judged:
        """Of a folder whose outcome could not be written."""
        known = self.known.get(candidate.path_hash)
        adapter = LoraAdapter.objects.filter(pk=known.pk).first() if known is not None else None
        return Judged(candidate, adapter, _unchecked(candidate), facts_of(candidate.path, self.roots))

    def _has_written(self, batch: list[Judged]) -> bool:
        new: list[LoraAdapter] = []
        first = batch[0].candidate.path
        with contained("what was found in %d folders from %s on could not be written", len(batch), first):
            with transaction.atomic():
                self._write(batch, new)
            self.new += [adapter.pk for adapter in new]
            return True
        self.slugs.difference_update(adapter.slug for adapter in new)
        return False

    def _write(self, batch: list[Judged], new: list[LoraAdapter]) -> None:
        """`new` hears of the rows that are made."""
        old = [judged.adapter.pk for judged in batch if judged.adapter is not None]
        # Locked until the end of the batch. A row that somebody has changed or forgotten since it was read is left as
        # it is: the next scan finds that its files are not those that it was written for.
        rows = LoraAdapter.objects.select_for_update().filter(pk__in=old)
        current = dict(rows.values_list("pk", "updated_at"))
        for judged in batch:
            if judged.adapter is None:
                new.append(self._new(judged.candidate, judged.verdict))
        self._insert(new)
        looked_at, changed, count = [], [], 0
        for judged in batch:
            adapter = judged.adapter
            if adapter is None or current.get(adapter.pk) != adapter.updated_at:
                continue
            before = described(adapter)
            count += self._change(adapter, judged)
            looked_at.append(adapter)
            if described(adapter) != before:
                adapter.updated_at = timezone.now()  # which `bulk_update` does not do by itself
                changed.append(adapter)
        LoraAdapter.objects.bulk_update(changed, DESCRIBED, batch_size=100)
        for judged, adapter in self._written(batch, new, looked_at):
            offers.note(adapter, judged.verdict)
        store_facts(new + looked_at, {judged.candidate.path_hash: judged.facts for judged in batch})
        self.changed += count

    def _written(
        self, batch: list[Judged], new: list[LoraAdapter], looked_at: list[LoraAdapter]
    ) -> Iterator[tuple[Judged, LoraAdapter]]:
        rows = {adapter.path_hash: adapter for adapter in (*new, *looked_at)}
        for judged in batch:
            adapter = rows.get(judged.candidate.path_hash)
            if adapter is not None and (judged.adapter is not None or judged.verdict.plan is not None):
                yield judged, adapter

    def _new(self, candidate: AdapterFolder, verdict: ValidationResult) -> LoraAdapter:
        name = name_of(candidate.root, candidate.path)
        adapter = LoraAdapter(name=name[:255], slug=self._slug(name), path_hash=candidate.path_hash)
        fill(adapter, candidate, verdict, self.bases)
        if verdict.code and not verdict.incomplete:
            adapter.status, adapter.failure_code = Status.FAILED, verdict.code
            adapter.failure_details = verdict.details
        return adapter

    def _slug(self, name: str) -> str:
        stem = slug = slugify(name)
        number = 1
        while slug in self.slugs:
            number += 1
            slug = f"{stem}-{number}"
        self.slugs.add(slug)
        return slug

    def _insert(self, new: list[LoraAdapter]) -> None:
        """Write new rows and their events; the rows get their ids, which MySQL does not hand back."""
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

    def _change(self, adapter: LoraAdapter, judged: Judged) -> bool:
        """Bring a row in line with what was found, without saving it. Returns whether its files had changed."""
        known = self.known[judged.candidate.path_hash]
        if known.missing:
            adapter.record(EventKind.RETURNED, self.actor)
        other = not same_files(known.signature, judged.candidate)
        if other and not known.incomplete and not known.missing:
            adapter.record(EventKind.CHANGED, self.actor)
            adapter.origin = {}
        settle_status(adapter, judged.candidate, judged.verdict, self.actor)
        standing = adapter.failure_code if adapter.status == Status.FAILED else ""
        fill(adapter, judged.candidate, judged.verdict, self.bases, standing)
        adapter.update_available = judged.update
        return other


def _unchecked(candidate: AdapterFolder) -> ValidationResult:
    return ValidationResult(code=CHECK_FAILED, flags=sorted(candidate.remarks))


def _known() -> dict[str, Known]:
    rows = LoraAdapter.objects.values_list(
        "path_hash", "pk", "signature", "incomplete", "missing", "root", "failure_code", "content_key"
    )
    return {row[0]: Known(*row[1:]) for row in rows.iterator(chunk_size=2000)}


def _is_update(
    adapter: LoraAdapter, candidate: AdapterFolder, verdict: ValidationResult, roots: tuple[str, ...]
) -> bool:
    """True where activating again would serve something else than what is served now."""
    if adapter.status != Status.ACTIVE or not adapter.digest or verdict.code or verdict.incomplete:
        return False
    if candidate.weights != WEIGHTS or verdict.plan is not None:
        return adapter.update_available or not same_files(adapter.signature, candidate)
    try:
        # A look at samples may miss a difference that the activation found.
        kept = verdict.changed | store.names(adapter.digest)
        return store.digest_of(roots, candidate.path, kept, folder_of(adapter.base)) != adapter.digest
    except (Refused, OSError):
        return False
