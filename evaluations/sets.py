"""Making and changing prompt sets. Synchronous; every change of items is one transaction and makes one version."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.http import Http404
from django.utils import timezone
from django.utils.translation import gettext as _

from common.api import ApiError
from common.numbers import grouped

from .models import Answer, Item, Judgement, PromptSet, Score, SetVersion

BATCH = 500  # rows of one statement


def visible(user: Any, pk: int) -> PromptSet:
    """Raises Http404."""
    found = PromptSet.objects.visible_to(user).select_related("owner").filter(pk=pk).first()
    if found is None:
        raise Http404
    return found


def own(user: Any, pk: int) -> PromptSet:
    """Raises Http404: what belongs to others is not there to be changed."""
    found = PromptSet.objects.of(user).select_related("owner").filter(pk=pk).first()
    if found is None:
        raise Http404
    return found


def version_of(prompts: PromptSet, number: int | None = None) -> SetVersion:
    """The newest without a number. Raises Http404."""
    found = prompts.versions.filter(number=prompts.version if number is None else number).first()
    if found is None:
        raise Http404
    found.prompts = prompts
    return found


def create(user: Any, name: str, description: str = "", shared: bool = False, items: Sequence[Item] = ()) -> PromptSet:
    """Raises ApiError 409 where there are too many, or one of this name."""
    if PromptSet.objects.of(user).count() >= settings.EVALUATION_SETS:
        message = _("You have %(limit)s prompt sets, which is the limit. Delete one first.") % {
            "limit": grouped(settings.EVALUATION_SETS)
        }
        raise ApiError("too_many", message, 409)
    try:
        with transaction.atomic():
            prompts = PromptSet.objects.create(
                owner=user, name=name, description=description, shared=shared, version=0, size=0
            )
            _next_version(prompts, lambda number: _add(prompts, items, number))
    except IntegrityError:
        raise _name_taken() from None
    return prompts


def describe(prompts: PromptSet, **changes: Any) -> None:
    """Change name, description or whether it is shared: no new version. Raises ApiError 409."""
    for field, value in changes.items():
        setattr(prompts, field, value)
    try:
        with transaction.atomic():
            prompts.save(update_fields=[*changes])
    except IntegrityError:
        raise _name_taken() from None


def _name_taken() -> ApiError:
    return ApiError("name_taken", _("You have a prompt set of this name."), 409, "name")


def add(prompts: PromptSet, items: Sequence[Item]) -> SetVersion:
    """Items at the end. Raises ApiError 409 where they are too many."""
    return _change(prompts, lambda locked, number: _add(locked, items, number))


def replace(prompts: PromptSet, number: int, item: Item) -> SetVersion:
    """The item of this number becomes this one. The same content makes no version. Raises Http404."""

    def change(locked: PromptSet, version: int) -> None:
        old = _newest(locked, [number])[0]
        if old.digest != item.digest:
            _end([old], version)
            _insert(locked, [item], version, [number])

    return _change(prompts, change)


def remove(prompts: PromptSet, numbers: Collection[int]) -> SetVersion:
    """Raises Http404 where there is none of these."""

    def change(locked: PromptSet, version: int) -> None:
        _end(_newest(locked, numbers), version)

    return _change(prompts, change)


def delete(prompts: PromptSet) -> None:
    """With its runs, those of others too, and the answers that no other run has."""
    owners = [*prompts.versions.values_list("runs__owner", flat=True).distinct()]
    with transaction.atomic():
        prompts.delete()
        forget_answers([owner for owner in owners if owner is not None])


def forget_answers(owners: Collection[int]) -> None:
    """Those of these people that belong to no run any more, scores and what judges said too."""
    for kind in (Answer, Score):
        kind.objects.filter(owner__in=owners, results=None).delete()
    Judgement.objects.filter(owner__in=owners, forward_bouts=None, backward_bouts=None).delete()


def _change(prompts: PromptSet, change: Callable[[PromptSet, int], None]) -> SetVersion:
    with transaction.atomic():
        locked = PromptSet.objects.select_for_update().filter(pk=prompts.pk).first()
        if locked is None:
            raise Http404
        version = _next_version(locked, lambda number: change(locked, number))
    prompts.refresh_from_db()
    return version


def _next_version(prompts: PromptSet, change: Callable[[int], None]) -> SetVersion:
    """The version after `change(its number)`; where that changed nothing, the one that there is."""
    number = prompts.version + 1
    change(number)
    facts = list(Item.objects.of_version(prompts.pk, number).values_list("number", "digest"))
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()
    last = prompts.versions.filter(number=prompts.version).first()
    if last is not None and last.digest == digest:
        return last
    made = SetVersion.objects.create(prompts=prompts, number=number, digest=digest, size=len(facts))
    prompts.version, prompts.size, prompts.updated_at = number, len(facts), timezone.now()
    prompts.save(update_fields=["version", "size", "next_number", "updated_at"])
    return made


def _newest(prompts: PromptSet, numbers: Collection[int]) -> list[Item]:
    found = list(Item.objects.of_version(prompts.pk, prompts.version).filter(number__in=[*numbers][:BATCH]))
    if not found:
        raise Http404
    return found


def _end(items: Sequence[Item], version: int) -> None:
    """They are not in this version any more."""
    keys = [item.pk for item in items]
    for start in range(0, len(keys), BATCH):
        Item.objects.filter(pk__in=keys[start : start + BATCH]).update(until=version - 1)


def _add(prompts: PromptSet, items: Sequence[Item], version: int) -> None:
    if prompts.size + len(items) > settings.EVALUATION_ITEMS:
        message = _("A prompt set can hold up to %(limit)s items.") % {"limit": grouped(settings.EVALUATION_ITEMS)}
        raise ApiError("too_many", message, 409, "items")
    first = prompts.next_number
    _insert(prompts, items, version, range(first, first + len(items)))
    prompts.next_number = first + len(items)


def _insert(prompts: PromptSet, items: Sequence[Item], version: int, numbers: Sequence[int]) -> None:
    for item, number in zip(items, numbers, strict=True):
        item.prompts, item.number, item.since = prompts, number, version
    Item.objects.bulk_create(items, batch_size=BATCH)
