"""What the requests of killed processes still hold: places of answers at once, and reserved tokens of a day."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from adapters.processes import is_dead
from inference.models import Reservation, Slot

from .ledger import FREE, give_back


def free(keys: Collection[str] | None = None) -> int:
    """Give back what no living process holds, of these subjects or of all; returns how many places and reservations.

    Of a process of this machine that is seen at once, of one elsewhere once it has not renewed what it holds.
    """
    now = timezone.now()
    slots = Slot.objects.filter(expires_at__gt=now).exclude(process="")
    reservations = Reservation.objects.all()
    if keys is not None:
        slots, reservations = slots.filter(key__in=keys), reservations.filter(key__in=keys)
    names = {*slots.values_list("process", flat=True), *reservations.values_list("process", flat=True)}
    dead = [name for name in names if is_dead(name)]
    freed = slots.filter(process__in=dead).update(holder="", process="", expires_at=FREE) if dead else 0
    left = reservations.filter(Q(process__in=dead) | Q(expires_at__lte=now))
    if left.exists():
        with transaction.atomic():
            freed += give_back(left, Counter())
    return freed
