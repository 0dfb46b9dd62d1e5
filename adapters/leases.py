"""Locks between processes and hosts, kept in the database: one row per lock, freed by its holder's death or by time."""

from __future__ import annotations

import secrets
import time
from datetime import timedelta
from types import TracebackType

from django.db import IntegrityError, transaction
from django.utils import timezone

from .failures import BusyError
from .models import Lease
from .processes import is_dead, own_name

SECONDS = 60.0
TOUCH_EVERY = 5.0
REPORT_EVERY = 0.25


def adapter_lock(pk: int) -> str:
    """The lock of whoever activates, deactivates, changes or deletes this adapter."""
    return f"adapter:{pk}"


class HeldLease:
    """A held lock; a context manager. `touch` it at least once a minute during long work."""

    def __init__(self, name: str, busy_code: str = "busy") -> None:
        self.name = name
        self.busy_code = busy_code
        self.token = secrets.token_hex(16)
        self._touched = 0.0
        self._reported = time.monotonic()

    def __enter__(self) -> HeldLease:
        expires = timezone.now() + timedelta(seconds=SECONDS)
        try:
            with transaction.atomic():
                Lease.objects.create(name=self.name, token=self.token, holder=own_name(), expires_at=expires)
        except IntegrityError:
            self._take_over()
        self._touched = time.monotonic()
        return self

    def _take_over(self) -> None:
        found = Lease.objects.filter(name=self.name).first()
        now = timezone.now()
        if found is not None and found.expires_at > now and not is_dead(found.holder):
            raise BusyError(self.busy_code)
        expires = now + timedelta(seconds=SECONDS)
        fields = {"token": self.token, "holder": own_name(), "expires_at": expires, "progress": None}
        old = found.token if found is not None else ""
        if Lease.objects.filter(name=self.name, token=old).update(**fields) != 1:
            raise BusyError(self.busy_code)  # somebody else took it over, or let it go, in between

    @property
    def touched(self) -> float:
        """When it was last renewed, by `time.monotonic`."""
        return self._touched

    def touch(self) -> None:
        """Stay alive. Raises BusyError where the lock was taken away after it had expired."""
        if time.monotonic() - self._touched < TOUCH_EVERY:
            return
        expires = timezone.now() + timedelta(seconds=SECONDS)
        if Lease.objects.filter(name=self.name, token=self.token).update(expires_at=expires) != 1:
            raise BusyError(self.busy_code)
        self._touched = time.monotonic()

    def report(self, fraction: float) -> None:
        """Stay alive, and let others see how far the work is (0..1); written a few times a second at most."""
        self.touch()
        if time.monotonic() - self._reported >= REPORT_EVERY:
            self._reported = time.monotonic()
            Lease.objects.filter(name=self.name, token=self.token).update(progress=fraction)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Lease.objects.filter(name=self.name, token=self.token).delete()


def is_held(name: str) -> bool:
    found = Lease.objects.filter(name=name).first()
    return found is not None and found.expires_at > timezone.now() and not is_dead(found.holder)


def free_dead() -> int:
    """Remove the locks of processes that can be seen to be gone, for tidiness: nobody waits for them anyway."""
    freed = 0
    for name, token, holder in Lease.objects.values_list("name", "token", "holder"):
        if is_dead(holder):
            freed += Lease.objects.filter(name=name, token=token).delete()[0]
    return freed


def progress_of(name: str) -> float | None:
    """How far the holder of a lock is, 0..1; 0 before it says so, None where nobody holds it."""
    found = Lease.objects.filter(name=name).first()
    if found is None or found.expires_at <= timezone.now() or is_dead(found.holder):
        return None
    return found.progress or 0.0
