"""What the running side reports about a stored copy: its effect, and its use."""

from __future__ import annotations

from typing import Any

from django.db.models import F
from django.utils import timezone

from adapters import hooks
from adapters.failures import FAILURES
from adapters.models import EventKind, LoraAdapter

from .sources import files_signature


def record_proof(
    digest: str,
    ok: bool,
    code: str = "",
    message: str = "",
    kl: float | None = None,
    changed: float | None = None,
    base: str = "",
) -> int:
    """Write the outcome of the first load of `digest`; fails the active adapters that serve it where not `ok`.

    `base`: key of the base that it was loaded on; an adapter of the same content on another base is not concerned.

    `kl` is the mean divergence base || adapter in nats, `changed` the share of greedy tokens that differ.
    Returns how many adapters it concerned.
    """
    rows = LoraAdapter.objects.active().filter(digest=digest)
    concerned = list(rows.filter(base__key=base) if base else rows)
    for adapter in concerned:
        if ok:
            guarded = LoraAdapter.objects.filter(pk=adapter.pk, digest=digest)
            now = timezone.now()
            guarded.update(effect_kl=kl, effect_changed=changed, proven_digest=digest, proven_at=now, updated_at=now)
            adapter.record(EventKind.PROVEN, details={"kl": kl, "changed": changed})
            continue
        details: dict[str, Any] = {"reason": message[:300], "files": files_signature(adapter)}
        if base:
            details["base_key"] = base
        known = code if code in FAILURES else "adapter_incompatible"
        adapter.mark_failed(None, known, details)
    if concerned and not ok:
        hooks.released(digest, "failed")
    return len(concerned)


def record_use(digest: str, tokens: int, requests: int = 1) -> None:
    """Count answers that the stored copy `digest` gave and the tokens in them."""
    LoraAdapter.objects.active().filter(digest=digest).update(
        use_count=F("use_count") + requests, use_tokens=F("use_tokens") + tokens, last_used_at=timezone.now()
    )
