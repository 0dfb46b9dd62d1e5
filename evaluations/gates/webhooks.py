"""Telling other systems what a gate has found: kept in the database until it is delivered or given up.

A notice is one POST of JSON. Its signature is in the header `X-Portal-Signature`: `sha256=` and the hexadecimal
HMAC-SHA256, by WEBHOOK_SECRET, of the header `X-Portal-Timestamp`, a full stop and the body.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import time
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from adapters.discovery.periodic_scan import PeriodicScan
from adapters.leases import HeldLease
from common.shares import wilson
from evaluations.models import Gate, GateVerdict, Notice, NoticeState, VerdictState

from . import sending, standing
from .sending import NotSentError

logger = logging.getLogger(__name__)

LEASE = "webhooks"
DELAYS = (10, 60, 300, 1800, 7200, 21_600)  # seconds until the next attempt; after the last one it is given up
LOOK_EVERY = 3.0  # seconds
BATCH = 20  # notices of one look
KEPT = 500  # notices of a gate that have ended
SENTENCES = {
    "webhook_refused": _("WEBHOOK_HOSTS does not name this host with this scheme and port."),
    "webhook_unsigned": _("WEBHOOK_SECRET is not set, and nothing is sent unsigned."),
    "webhook_private": _("The host leads to a private address, which WEBHOOK_PRIVATE_HOSTS does not permit."),
    "webhook_unreachable": _("The host could not be reached, or broke off."),
    "webhook_redirected": _("The host answered with a redirect, which is not followed."),
    "webhook_status": _("The host did not accept it."),
}
GIVES_UP = {"webhook_refused", "webhook_unsigned"}  # no attempt helps before a setting changes
GONE = 410  # HTTP: whoever is asked wants no more of it


def post(verdict: GateVerdict) -> None:
    """Put a verdict that has just ended on its way, where its gate has a webhook."""
    gate = verdict.gate
    if not gate.webhook:
        return
    notice = Notice(gate=gate, adapter_name=verdict.adapter.name, url=gate.webhook)
    notice.body = json.dumps({"event": "gate.verdict", "delivery": str(notice.key), **told(verdict)}, ensure_ascii=True)
    notice.save()


def told(verdict: GateVerdict) -> dict[str, Any]:
    """What a notice says."""
    gate, adapter = verdict.gate, verdict.adapter
    judged = verdict.state == VerdictState.JUDGED
    code = standing.objection_of(gate, verdict) if judged else standing.UNJUDGED
    low, high = wilson(verdict.passed, verdict.judged) if verdict.judged else (0.0, 1.0)
    return {
        "verdict": "unjudged" if not judged else "failed" if code else "passed",
        "code": code or None,
        "reason": verdict.code or None,
        "gate": {
            "id": gate.pk, "kind": gate.kind, "name": gate.name, "least": gate.least, "not_worse": gate.not_worse
        },
        "adapter": {
            "id": adapter.pk, "slug": adapter.slug, "name": adapter.name, "run": adapter.run_name,
            "checkpoint": adapter.checkpoint, "digest": verdict.digest or None,
        },
        "passed": verdict.passed if judged else None,
        "judged": verdict.judged if judged else None,
        "interval": [low, high] if judged else None,
        "against": {
            "name": verdict.against_name, "digest": verdict.against_digest, "passed": verdict.against_passed
        } if verdict.against_digest else None,
        "evaluation": verdict.run_id,
        "ended_at": verdict.ended_at.isoformat() if verdict.ended_at else None,
    }  # fmt: skip


def headers_of(body: bytes, key: str, now: float) -> dict[str, str]:
    """Raises NotSentError webhook_unsigned where there is no secret: nothing is sent that nobody could verify."""
    if not settings.WEBHOOK_SECRET:
        raise NotSentError("webhook_unsigned")
    timestamp = str(int(now))
    signed = hmac.new(settings.WEBHOOK_SECRET.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json", "User-Agent": "lora-portal", "X-Portal-Event": "gate.verdict",
        "X-Portal-Delivery": key, "X-Portal-Timestamp": timestamp, "X-Portal-Signature": f"sha256={signed}",
    }  # fmt: skip


def due() -> QuerySet[Notice]:
    return Notice.objects.filter(state=NoticeState.WAITING, next_at__lte=timezone.now()).order_by("next_at", "pk")


def deliver_due(lease: HeldLease | None = None) -> int:
    """Try what is due, each once; how many were tried."""
    tried = 0
    for notice in due()[:BATCH]:
        if lease is not None:
            lease.touch()
        deliver(notice)
        tried += 1
    return tried


def deliver(notice: Notice) -> None:
    """One attempt, and what became of it."""
    body = notice.body.encode()
    try:
        status, code = sending.post(notice.url, body, headers_of(body, str(notice.key), time.time())), ""
        if not 200 <= status < 300:
            code = "webhook_redirected" if 300 <= status < 400 else "webhook_status"
    except NotSentError as error:
        status, code = 0, error.code
    now, attempts = timezone.now(), notice.attempts + 1
    facts: dict[str, Any] = {"attempts": attempts, "status": status, "code": code}
    if not code:
        facts |= {"state": NoticeState.DELIVERED, "ended_at": now}
    elif code in GIVES_UP or status == GONE or attempts > len(DELAYS):
        logger.warning("webhook given up after %d attempts: %s (HTTP %d)", attempts, code, status)
        facts |= {"state": NoticeState.GIVEN_UP, "ended_at": now}
    else:
        facts["next_at"] = now + timedelta(seconds=DELAYS[attempts - 1])
    Notice.objects.filter(pk=notice.pk, state=NoticeState.WAITING).update(**facts)
    if "ended_at" in facts:
        _forget_old(notice.gate)


def _forget_old(gate: Gate) -> None:
    ended = gate.notices.exclude(state=NoticeState.WAITING).order_by("-pk").values_list("pk", flat=True)
    Notice.objects.filter(pk__in=[*ended[KEPT : KEPT + BATCH]]).delete()


class Deliveries(PeriodicScan):
    """The thread of a portal that delivers; of several portals one does so at a time."""

    name = "webhooks"

    def work(self) -> None:
        if not due().exists():  # as nearly always: a lease is written twice
            return
        with HeldLease(LEASE) as lease:
            deliver_due(lease)


_deliveries: Deliveries | None = None


def start() -> Deliveries:
    """The one thread of this process."""
    global _deliveries
    if _deliveries is None:
        _deliveries = Deliveries(LOOK_EVERY)
        _deliveries.start()
    return _deliveries
