"""A copy of an adapter that is not served yet, so that it can be evaluated before it may be."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from adapters.failures import ActivationFailed, BusyError, Refused
from adapters.leases import HeldLease, adapter_lock, is_held
from adapters.models import LoraAdapter

from .activation import Prepared, prepare, refuse
from .cleaning import discard
from .served import CLEANING, released
from .sources import look_again, real_roots


def try_out(adapter_id: int, taken: Callable[[Prepared], None], alive: Callable[[], None] = lambda: None) -> None:
    """Verify the adapter's folder and copy it into the store, as an activation does; nothing is served.

    `alive` is called every now and then. `taken` hears the copy while the adapter's lock is held: from then on
    `hooks.tried` has to name its digest. What an activation would find out is found out here: a refusal is written down
    in the same way. Raises LoraAdapter.DoesNotExist, BusyError, ActivationFailed, and what `taken` raises.
    """
    adapter = LoraAdapter.objects.select_related("base").get(pk=adapter_id)
    with HeldLease(adapter_lock(adapter_id)) as hold:

        def tell(fraction: float) -> None:
            hold.report(fraction)
            alive()

        if is_held(CLEANING):
            raise BusyError
        adapter.refresh_from_db()
        stands: dict[str, str] = {}
        try:
            roots = real_roots()
            candidate = look_again(adapter, roots)
            if candidate is None:
                raise Refused("files_missing")
            prepared = prepare(adapter, candidate, roots, tell, stands)
        except Refused as refused:
            refuse(adapter, None, refused, stands)
            raise ActivationFailed(refused.code, refused.details) from None
        taken(prepared)


def give_up(digest: str) -> None:
    """A copy is tried no more: unless it is served by now, the running side lets it go and it leaves the store."""
    released(digest, "deactivated")
    with suppress(BusyError, OSError):  # `clean_store` removes what stays
        discard(digest)
