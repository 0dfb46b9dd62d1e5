"""Whether the running side can serve a base model at all, and what it calls its layers: asked once for a content when
the base is registered.

The registry does not know the engine: it asks the running side by `hooks.py`. An answer takes seconds, so it never
holds up a scan: a thread asks afterwards, base by base.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

from django.conf import settings
from django.db import connections
from django.utils import timezone

from adapters import hooks
from adapters.containment import contained
from adapters.failures import BusyError
from adapters.identifiers import text_hash
from adapters.leases import HeldLease
from adapters.models import BaseLayers, BaseModel

logger = logging.getLogger(__name__)

LEASE = "judging"
CODE = "base_unsupported"
Judged = Callable[[BaseModel], None]
_thread: threading.Thread | None = None


def question(base: BaseModel) -> str:
    """What an answer is valid for: these files under these releases of the libraries that read them. The files and not
    the configuration alone, for a refusal may lie in the weights or the tokenizer, and ends when they are replaced."""
    known = [release("transformers"), release("tokenizers")] if settings.INFERENCE_BACKEND == "local" else ["fleet"]
    return text_hash(base.config_hash, base.signature, *known)


def release(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def known_refusal(base: BaseModel) -> str:
    return base.refusal if base.judged_for == question(base) else ""


def waiting() -> list[BaseModel]:
    """Whole bases that were not checked yet, and refused ones whose refusal is no longer valid."""
    rows = BaseModel.objects.filter(missing=False, problem_code__in=["", CODE]).order_by("pk")
    return [base for base in rows if base.judged_for != question(base)]


def start(judged: Judged | None = None) -> None:
    """Begin to check what waits, beside the caller; at most one thread of a process and one process do it. `judged` is
    called, on that thread, with each base that an answer was written for."""
    global _thread
    running = _thread is not None and _thread.is_alive()
    if running or not _may_ask() or not waiting():
        return
    _thread = threading.Thread(target=_run, args=(judged,), name="base-support", daemon=True)
    _thread.start()


def wait() -> None:
    """Until what `start` began in this process has ended."""
    if _thread is not None:
        _thread.join()


def _may_ask() -> bool:
    return hooks.is_registered() and settings.CHECK_BASES


def _run(judged: Judged | None) -> None:
    try:
        with HeldLease(LEASE):
            check_waiting(judged)
    except BusyError:
        pass  # another process does it
    except Exception:  # the database may be away; the next scan asks again
        logger.exception("base models could not be checked")
    finally:
        connections.close_all()


def check_waiting(judged: Judged | None = None) -> int:
    """Check what waits; returns how many were refused."""
    refused = 0
    for base in waiting():
        with contained("%s could not be checked", base.name):
            if not check(base):
                continue
            refused += bool(base.refusal)
            if judged is not None:
                judged(base)
    return refused


def check(base: BaseModel) -> bool:
    """Ask about one base now, which takes seconds. False where there was no answer, or none was needed."""
    if not _may_ask() or base.judged_for == question(base):
        return False
    try:
        support = hooks.base_support(base.path)
    except (OSError, TimeoutError) as error:
        logger.warning("%s could not be checked: %s", base.name, error)
        return False
    if support.layers:
        said = {"layers": dict(support.layers), "earlier_names": dict(support.earlier_names)}
        BaseLayers.objects.update_or_create(base=base, defaults={"signature": base.signature, **said})
    record(base, support.refusal)
    base.refresh_from_db()
    return True


def layers_of(base: BaseModel) -> hooks.BaseSupport | None:
    """What the running side calls the base's linear layers; None where it has not said."""
    try:
        return _layers(base.pk, base.signature, base.judged_for)
    except BaseLayers.DoesNotExist:
        return None


@lru_cache(maxsize=16)
def _layers(base: int, signature: str, judged_for: str) -> hooks.BaseSupport:
    """Raises BaseLayers.DoesNotExist, which no cache keeps."""
    found = BaseLayers.objects.get(base_id=base, signature=signature)
    layers = {name: (outputs, inputs, role) for name, (outputs, inputs, role) in found.layers.items()}
    return hooks.BaseSupport("", layers, found.earlier_names)


def record(base: BaseModel, reason: str) -> None:
    """Write an answer, unless the base has become another meanwhile."""
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


def record_refusal(key: str, reason: str) -> None:
    """What only the first load showed, for the base of this content key."""
    for base in BaseModel.objects.filter(key=key, missing=False, problem_code=""):
        record(base, reason)
