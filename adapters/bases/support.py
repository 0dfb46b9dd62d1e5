"""Whether the running side can serve a base model at all, asked once for a content when the base is registered.

The registry does not know the engine: it asks the running side by `hooks.py`. An answer takes seconds, so it never
holds up a scan: a thread asks afterwards, base by base.
"""

from __future__ import annotations

import logging
import threading
from importlib.metadata import version

from django.conf import settings
from django.db import connections
from django.utils import timezone

from adapters import hooks
from adapters.failures import Busy
from adapters.leases import Hold
from adapters.models import BaseModel
from adapters.names import text_hash

logger = logging.getLogger(__name__)

LEASE = "judging"
CODE = "base_unsupported"
_thread: threading.Thread | None = None


def question(base: BaseModel) -> str:
    """What a judgement holds for: this configuration under this release of Transformers."""
    return text_hash(base.config_hash, version("transformers"))


def known_refusal(base: BaseModel) -> str:
    return base.refusal if base.judged_for == question(base) else ""


def waiting() -> list[BaseModel]:
    """Whole bases that nobody has judged yet, and refused ones whose judgement no longer holds."""
    rows = BaseModel.objects.filter(missing=False, problem_code__in=["", CODE]).order_by("pk")
    return [base for base in rows if base.judged_for != question(base)]


def start() -> None:
    """Begin to judge what waits, beside the caller; at most one thread of a process and one process do it."""
    global _thread
    running = _thread is not None and _thread.is_alive()
    if running or not hooks.is_registered() or not settings.CHECK_BASES or not waiting():
        return
    _thread = threading.Thread(target=_run, name="base-judge", daemon=True)
    _thread.start()


def wait() -> None:
    """Until what `start` began in this process has ended."""
    if _thread is not None:
        _thread.join()


def _run() -> None:
    try:
        with Hold(LEASE):
            judge_all()
    except Busy:
        pass  # another process does it
    except Exception:  # the database may be away; the next scan asks again
        logger.exception("base models could not be judged")
    finally:
        connections.close_all()


def judge_all() -> int:
    """Judge what waits; returns how many were refused."""
    refused = 0
    for base in waiting():
        try:
            reason = hooks.base_support(base.path)
        except (OSError, TimeoutError) as error:
            logger.warning("%s could not be judged: %s", base.name, error)
            continue
        refused += record(base, reason)
    return refused


def record(base: BaseModel, reason: str) -> bool:
    """Write a judgement, unless the base has become another meanwhile. True where it is a refusal."""
    refusal = reason[:300]
    same = BaseModel.objects.filter(pk=base.pk, config_hash=base.config_hash, problem_code__in=["", CODE])
    same.update(
        judged_for=question(base),
        refusal=refusal,
        problem_code=CODE if refusal else "",
        problem_details={"reason": refusal} if refusal else {},
        updated_at=timezone.now(),
    )
    if refusal:
        logger.warning("%s cannot be served: %s", base.name, refusal)
    return bool(refusal)


def record_refusal(key: str, reason: str) -> None:
    """What only the first load showed, for the base of this content key."""
    for base in BaseModel.objects.filter(key=key, missing=False, problem_code=""):
        record(base, reason)
