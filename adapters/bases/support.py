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
from adapters.identifiers import text_hash
from adapters.leases import HeldLease
from adapters.models import BaseModel

logger = logging.getLogger(__name__)

LEASE = "judging"
CODE = "base_unsupported"
_thread: threading.Thread | None = None


def question(base: BaseModel) -> str:
    """What an answer is valid for: these files under these releases of the libraries that read them. The files and not
    the configuration alone, for a refusal may lie in the weights or the tokenizer, and ends when they are replaced."""
    return text_hash(base.config_hash, base.signature, version("transformers"), version("tokenizers"))


def known_refusal(base: BaseModel) -> str:
    return base.refusal if base.judged_for == question(base) else ""


def waiting() -> list[BaseModel]:
    """Whole bases that were not checked yet, and refused ones whose refusal is no longer valid."""
    rows = BaseModel.objects.filter(missing=False, problem_code__in=["", CODE]).order_by("pk")
    return [base for base in rows if base.judged_for != question(base)]


def start() -> None:
    """Begin to check what waits, beside the caller; at most one thread of a process and one process do it."""
    global _thread
    running = _thread is not None and _thread.is_alive()
    if running or not hooks.is_registered() or not settings.CHECK_BASES or not waiting():
        return
    _thread = threading.Thread(target=_run, name="base-support", daemon=True)
    _thread.start()


def wait() -> None:
    """Until what `start` began in this process has ended."""
    if _thread is not None:
        _thread.join()


def _run() -> None:
    try:
        with HeldLease(LEASE):
            check_waiting()
    except Busy:
        pass  # another process does it
    except Exception:  # the database may be away; the next scan asks again
        logger.exception("base models could not be checked")
    finally:
        connections.close_all()


def check_waiting() -> int:
    """Check what waits; returns how many were refused."""
    refused = 0
    for base in waiting():
        try:
            reason = hooks.base_support(base.path)
        except (OSError, TimeoutError) as error:
            logger.warning("%s could not be checked: %s", base.name, error)
            continue
        refused += record(base, reason)
    return refused


def record(base: BaseModel, reason: str) -> bool:
    """Write an answer, unless the base has become another meanwhile. True where it is a refusal."""
    refusal = reason[:300]
    same = BaseModel.objects.filter(pk=base.pk, signature=base.signature, problem_code__in=["", CODE])
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
