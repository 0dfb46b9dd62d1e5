"""An operator agrees to a repair, and the adapter is served from the repaired copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import transaction
from django.utils import timezone

from adapters.failures import BusyError
from adapters.leases import HeldLease, adapter_lock
from adapters.models import EventKind, LoraAdapter, Repair, repair_of

from .activation import Progress, activate

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser


class NothingToRepair(ValueError):  # noqa: N818
    """No repair is offered for the files as they are."""


def repair(
    adapter_id: int, actor: AbstractBaseUser | None, plan: str = "", progress: Progress | None = None,
    override: str = "",
) -> LoraAdapter:  # fmt: skip
    """Agree to the repair that is offered, and activate the adapter from the repaired copy.

    `plan`: the one that was shown; BusyError("repair_changed") where it is another by now. `override` as `activate`
    takes it. Raises as `activate`, and NothingToRepair.
    """
    with HeldLease(adapter_lock(adapter_id)):
        adapter = LoraAdapter.objects.get(pk=adapter_id)
        found = repair_of(adapter)
        if found is None:
            raise NothingToRepair
        if plan and plan != found.plan:
            raise BusyError("repair_changed")
        if found.accepted_at is None:
            details = {"kinds": found.kinds, "changes": found.changes, "plan": found.plan}
            with transaction.atomic():
                Repair.objects.filter(pk=found.pk, plan=found.plan).update(accepted_at=timezone.now())
                adapter.record(EventKind.REPAIRED, actor, details=details)
    return activate(adapter_id, actor, progress, override)
