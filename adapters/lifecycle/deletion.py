"""Taking an adapter out: only its row, or its training files as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import transaction

from adapters import hooks
from adapters.failures import BusyError
from adapters.files.training_folder import TrainingFolder
from adapters.leases import HeldLease, adapter_lock
from adapters.models import EventKind, LoraAdapter, Status
from adapters.training.grouping import mark_groups

from .served import released
from .sources import real_roots

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser


class NotConfirmed(ValueError):  # noqa: N818
    """The typed word is not the adapter's name."""


def forget(adapter_id: int, actor: AbstractBaseUser | None) -> None:
    """Delete the row; the history and the training files stay, so that the next scan finds the adapter anew.

    Raises DoesNotExist, and BusyError where another call is at it or it is still answering after 10 s.
    """
    adapter = LoraAdapter.objects.get(pk=adapter_id)
    with HeldLease(adapter_lock(adapter_id)):
        adapter.refresh_from_db()
        _retire(adapter, actor, "forgotten")
        _remove_row(adapter, actor, EventKind.FORGOTTEN)


def delete_files(adapter_id: int, actor: AbstractBaseUser | None, confirm: str) -> None:
    """Delete the adapter's own training folder and its row. `confirm` must be the adapter's name.

    Other adapters in folders below it, such as a run's checkpoints, stay. Where an earlier call was interrupted, this
    one finishes it. Raises NotConfirmed, DoesNotExist, BusyError, and Refused: files_missing, outside_root,
    undeletable.
    """
    adapter = LoraAdapter.objects.get(pk=adapter_id)
    if confirm != adapter.name:
        raise NotConfirmed(adapter.name)
    with HeldLease(adapter_lock(adapter_id)) as hold:
        adapter.refresh_from_db()
        with TrainingFolder(adapter.path, adapter_id, real_roots()) as folder:
            folder.rehearse()
            _retire(adapter, actor, "files_deleted")
            folder.delete(hold.touch)
        _remove_row(adapter, actor, EventKind.FILES_DELETED)


def _retire(adapter: LoraAdapter, actor: AbstractBaseUser | None, reason: str) -> None:
    """Stop serving and wait until no answer is being written with it."""
    digest = adapter.digest
    if adapter.status == Status.ACTIVE:
        if not adapter.mark_inactive(actor, reason):
            raise BusyError
        released(digest, reason)
    shared = LoraAdapter.objects.active().filter(digest=digest).exists()
    if digest and not shared and not hooks.drain(digest):
        raise BusyError("in_use")


def _remove_row(adapter: LoraAdapter, actor: AbstractBaseUser | None, kind: EventKind) -> None:
    group = adapter.group_hash
    with transaction.atomic():
        adapter.record(kind, actor, details={"slug": adapter.slug, "label": adapter.path_label})
        adapter.delete()
    mark_groups([group], real_roots())
