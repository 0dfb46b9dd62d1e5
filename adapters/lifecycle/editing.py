"""What people may change: names, notes, tags, slug, and the base model by hand."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from adapters.bases.matching import Matcher
from adapters.containment import contained
from adapters.failures import BusyError
from adapters.identifiers import SLUG, text_hash
from adapters.leases import HeldLease, adapter_lock
from adapters.models import BaseMapping, BaseModel, EventKind, LoraAdapter, Status, Tag, repair_of
from adapters.validation import repairs
from adapters.validation.outcome import describe, settle_status
from adapters.validation.validate import validate
from common.database import deadlocks_retried

from . import offers
from .sources import look_again, real_roots

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser

MAX_TAGS = 32
TRIES = 5  # where another transaction wins


class SlugTaken(ValueError):  # noqa: N818
    """Another adapter or a base model has this slug."""


class SlugInvalid(ValueError):  # noqa: N818
    """Not a slug: lower case letters, digits, `_`, `.` and `-`, at most 128."""


def edit(adapter_id: int, actor: AbstractBaseUser | None, **changes: Any) -> LoraAdapter:
    """Change any of `name`, `notes`, `slug`, `tags`. Raises DoesNotExist, SlugInvalid, SlugTaken."""
    tags: Iterable[str] | None = changes.pop("tags", None)
    with transaction.atomic():
        adapter = LoraAdapter.objects.select_for_update().get(pk=adapter_id)
        before = {field: getattr(adapter, field) for field in changes if getattr(adapter, field) != changes[field]}
        if "slug" in before:
            check_slug(changes["slug"], adapter.pk)
        for field in before:
            setattr(adapter, field, changes[field])
        try:
            with transaction.atomic():
                adapter.save(update_fields=[*before, "updated_at"])
        except IntegrityError:
            raise SlugTaken(changes["slug"]) from None
        if tags is not None:
            old = sorted(adapter.tags.values_list("name", flat=True))
            wanted = clean_tags(tags)
            if wanted != old:
                adapter.tags.set([Tag.objects.get_or_create(name=name)[0] for name in wanted])
                before["tags"] = old
        if before:
            shown = {key: value if key != "notes" else "" for key, value in before.items()}
            adapter.record(EventKind.EDITED, actor, details={"before": shown})
    return adapter


def clean_tags(tags: Iterable[str]) -> list[str]:
    """Trimmed, lower case, each once, sorted; at most 32 of at most 64 characters."""
    found = {unicodedata.normalize("NFKC", tag).strip().lower()[:64] for tag in tags}
    return sorted(tag for tag in found if tag and tag.isprintable())[:MAX_TAGS]


def check_slug(slug: str, own: int | None = None) -> None:
    if not SLUG.match(slug) or slug != slug.lower():
        raise SlugInvalid(slug)
    rows = LoraAdapter.objects.filter(slug=slug)
    taken = rows if own is None else rows.exclude(pk=own)
    if taken.exists() or BaseModel.objects.filter(slug=slug).exists():
        raise SlugTaken(slug)


def set_base(
    adapter_id: int, base: BaseModel | None, actor: AbstractBaseUser | None, remember: bool = True
) -> LoraAdapter:
    """Say which base model an adapter belongs to (None: find it again by the recorded name).

    `remember` uses the choice for every adapter that recorded the same name, now and later. The adapter is
    validated again at once. Raises DoesNotExist, and BusyError where it is active or another call is at it.
    """
    with HeldLease(adapter_lock(adapter_id)):
        adapter = LoraAdapter.objects.get(pk=adapter_id)
        if adapter.status == Status.ACTIVE:
            raise BusyError("active")
        with transaction.atomic():
            LoraAdapter.objects.filter(pk=adapter_id).update(
                base=base, base_by_hand=base is not None, updated_at=timezone.now()
            )
            if remember and adapter.base_name_recorded:
                _remember(adapter.base_name_recorded, base, actor)
            adapter.record(EventKind.MAPPED, actor, details={"base": base.name if base else ""})
        adapter.refresh_from_db()
        revalidate(adapter, actor)
    return adapter


def _remember(recorded: str, base: BaseModel | None, actor: AbstractBaseUser | None) -> None:
    key = text_hash(recorded)
    if base is None:
        BaseMapping.objects.filter(recorded_hash=key).delete()
        return
    BaseMapping.objects.update_or_create(
        recorded_hash=key,
        defaults={"recorded": recorded, "base": base, "actor_id": actor.pk if actor is not None else None},
    )


def revalidate(adapter: LoraAdapter, actor: AbstractBaseUser | None) -> None:
    """Validate one adapter's folder now and write the outcome; its folder may be gone, then only that is noted."""
    roots = real_roots()
    candidate = look_again(adapter, roots)
    if candidate is None:
        LoraAdapter.objects.filter(pk=adapter.pk).update(missing=True, updated_at=timezone.now())
        return
    chosen = adapter.base if adapter.base_by_hand else None
    accepted = repairs.accepted_of(repair_of(adapter))
    verdict = validate(candidate, Matcher(), roots, settings.SCAN_SETTLE_SECONDS, chosen, accepted)
    with transaction.atomic():
        settle_status(adapter, candidate, verdict, actor)
        describe(adapter, candidate, verdict, adapter.failure_code if adapter.status == Status.FAILED else "")
        offers.note(adapter, verdict)


def base_judged(base: BaseModel) -> None:
    """The running side has said what the layers of `base` are called: adapters that were compared with the names in its
    files are validated again."""
    for adapter in LoraAdapter.objects.filter(base=base, missing=False).exclude(status=Status.ACTIVE):
        with contained("%s could not be validated again", adapter), suppress(BusyError, LoraAdapter.DoesNotExist):
            with HeldLease(adapter_lock(adapter.pk)):
                deadlocks_retried(partial(_validate_again, adapter), TRIES)  # a scan may write to the same rows


def _validate_again(adapter: LoraAdapter) -> None:
    adapter.refresh_from_db()
    if adapter.status != Status.ACTIVE:
        revalidate(adapter, None)
