"""Runs that were moved or renamed: the row of the old folder, with its notes, tags and history, goes with the files."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from django.db import transaction

from adapters.formats.files import inside
from adapters.identifiers import UNKNOWN
from adapters.models import AdapterEvent, EventKind, LoraAdapter, Status
from adapters.training.naming import name_of
from adapters.validation.outcome import HALF

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser

BATCH = 500


def moved(unseen: Iterable[int], new: list[int], roots: tuple[str, ...]) -> list[tuple[LoraAdapter, LoraAdapter]]:
    """(row whose folder is gone, new row with the same files) where exactly one row is either.

    `unseen`: ids of rows whose folder a scan did not see, `new`: of rows that it made. A root that is not mounted says
    nothing about what lies in it.
    """
    places: dict[tuple[str, int | None], list[LoraAdapter]] = defaultdict(list)
    for start in range(0, len(new), BATCH):
        for row in LoraAdapter.objects.filter(pk__in=new[start : start + BATCH]):
            if row.content_key not in ("", UNKNOWN):
                places[row.content_key, row.checkpoint].append(row)
    others: dict[tuple[str, int | None], list[LoraAdapter]] = defaultdict(list)
    keys = sorted({key for key, _checkpoint in places})
    for start in range(0, len(keys), BATCH):
        for row in LoraAdapter.objects.filter(content_key__in=keys[start : start + BATCH]).exclude(root=""):
            others[row.content_key, row.checkpoint].append(row)
    missed = set(unseen)
    found = []
    for key, fresh in places.items():
        before = [row for row in others[key] if row.pk != fresh[0].pk]
        if len(fresh) == len(before) == 1 and before[0].pk in missed and is_gone(before[0], roots, fresh[0]):
            found.append((before[0], fresh[0]))
    return found


def is_gone(row: LoraAdapter, roots: tuple[str, ...], new: LoraAdapter) -> bool:
    """Whether nothing lies any more where `row`'s folder lay, of which `new` holds the files.

    An empty folder above it may be where a disk is mounted at other times. Only where the very files have come to the
    new place, which no copy on another disk are, is it certain that they will not come back.
    """
    if os.path.lexists(row.path) or (row.root in roots and not os.path.isdir(row.root)):
        return False
    return row.signature[:HALF] == new.signature[:HALF] or not _above_is_empty(row)


def _above_is_empty(row: LoraAdapter) -> bool:
    """Whether the nearest folder on the way to the row's folder that is still there, down from its root, is empty."""
    path = row.path
    while path != row.root and inside(path, (row.root,)) and not os.path.isdir(path):
        path = os.path.dirname(path)
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is None
    except FileNotFoundError:
        return False  # a root that is configured no more
    except OSError:
        return True  # nobody can say


def follow(old: LoraAdapter, new: LoraAdapter, actor: AbstractBaseUser | None) -> bool:
    """Let the old row take the new one's place. False where somebody has used the new one meanwhile, or one is gone."""
    with transaction.atomic():
        rows = LoraAdapter.objects.select_for_update().filter(pk__in=(old.pk, new.pk))
        alive = {row.pk: row for row in rows}
        if len(alive) < 2 or alive[new.pk].status == Status.ACTIVE or alive[new.pk].notes:
            return False
        AdapterEvent.objects.filter(adapter=new).delete()
        new.delete()
        was = alive[old.pk]
        derived = name_of(was.root, was.path)[:255]
        name = new.name if was.name == derived else was.name  # one that was given by hand stays
        rows.filter(pk=was.pk).update(
            name=name, path_hash=new.path_hash, root=new.root, path=new.path, signature=new.signature, missing=False
        )
        was.name = name
        was.record(EventKind.MOVED, actor, details={"from": was.path_label})
    return True
