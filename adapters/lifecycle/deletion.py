"""Taking an adapter out: only its row, or its training files as well."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from typing import TYPE_CHECKING

from django.db import transaction

from adapters import hooks
from adapters.failures import Busy, Refused
from adapters.formats.files import inside
from adapters.leases import HeldLease, adapter_lock
from adapters.models import EventKind, LoraAdapter, Status
from adapters.training.grouping import mark_groups
from adapters.training.layout import Walk

from .activation import look_again, real_roots, released

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser


class NotConfirmed(ValueError):  # noqa: N818
    """The typed word is not the adapter's name."""


def forget(adapter_id: int, actor: AbstractBaseUser | None) -> None:
    """Delete the row; the history and the training files stay, so that the next scan finds the adapter anew.

    Raises DoesNotExist, and Busy where another call is at it or it is still answering after 10 s.
    """
    adapter = LoraAdapter.objects.get(pk=adapter_id)
    with HeldLease(adapter_lock(adapter_id)):
        adapter.refresh_from_db()
        _retire(adapter, actor, "forgotten")
        _remove_row(adapter, actor, EventKind.FORGOTTEN)


def delete_files(adapter_id: int, actor: AbstractBaseUser | None, confirm: str) -> None:
    """Delete the adapter's own training folder and its row. `confirm` must be the adapter's name.

    Other adapters in folders below it, such as a run's checkpoints, stay. Raises NotConfirmed, DoesNotExist, Busy,
    and Refused: files_missing, outside_root, unreadable.
    """
    adapter = LoraAdapter.objects.get(pk=adapter_id)
    if confirm != adapter.name:
        raise NotConfirmed(adapter.name)
    with HeldLease(adapter_lock(adapter_id)):
        adapter.refresh_from_db()
        roots = real_roots()
        if look_again(adapter, roots) is None:
            raise Refused("files_missing")
        _check_place(adapter.path, roots)
        _retire(adapter, actor, "files_deleted")
        try:
            _remove_folder(adapter.path, roots)
        except OSError as error:
            raise Refused("undeletable", reason=os.strerror(error.errno or 0)) from error
        _remove_row(adapter, actor, EventKind.FILES_DELETED)


def _retire(adapter: LoraAdapter, actor: AbstractBaseUser | None, reason: str) -> None:
    """Stop serving and wait until no answer is being written with it."""
    digest = adapter.digest
    if adapter.status == Status.ACTIVE:
        if not adapter.mark_inactive(actor, reason):
            raise Busy
        released(digest, reason)
    shared = LoraAdapter.objects.active().filter(digest=digest).exists()
    if digest and not shared and not hooks.drain(digest):
        raise Busy("in_use")


def _remove_row(adapter: LoraAdapter, actor: AbstractBaseUser | None, kind: EventKind) -> None:
    group = adapter.group_hash
    with transaction.atomic():
        adapter.record(kind, actor, details={"slug": adapter.slug, "label": adapter.path_label})
        adapter.delete()
    mark_groups([group], real_roots())


def _check_place(path: str, roots: tuple[str, ...]) -> None:
    """The folder itself, not a link to it, and below a root, not a root."""
    real = os.path.realpath(path)
    if real != path or not inside(path, roots) or path in roots or not stat.S_ISDIR(os.lstat(path).st_mode):
        raise Refused("outside_root", file=os.path.basename(path))


def _remove_folder(path: str, roots: tuple[str, ...]) -> None:
    """Move aside under a hidden name that scans pass over, then delete; links are removed, never followed."""
    kept = {name for name in os.listdir(path) if _holds_adapters(os.path.join(path, name), roots)}
    bin_name = f".deleted-{secrets.token_hex(6)}"
    if not kept:
        target = os.path.join(os.path.dirname(path), bin_name)
        os.rename(path, target)
        shutil.rmtree(target)
        return
    target = os.path.join(path, bin_name)
    os.mkdir(target)
    for name in os.listdir(path):
        if name not in kept and name != bin_name:
            os.rename(os.path.join(path, name), os.path.join(target, name))
    shutil.rmtree(target)


def _holds_adapters(path: str, roots: tuple[str, ...]) -> bool:
    if os.path.islink(path) or not os.path.isdir(path):
        return False
    below = Walk(roots).candidates(os.path.dirname(path))
    return any(candidate.path == path or inside(candidate.path, (path,)) for candidate in below)
