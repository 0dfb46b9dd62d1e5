"""Why a blend is not saved, as errors of the API. Those that asking a blend can meet too have the same codes."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext as _

from common.api import ApiError
from common.numbers import grouped


def inactive(name: str) -> ApiError:
    text = _("The adapter %(name)s is not active. Activate it first.") % {"name": name}
    return ApiError("adapter_inactive", text, 409, "adapters")


def other_base(name: str, base: str, other: str) -> ApiError:
    text = _("The adapters of a blend must have the same base model; %(name)s has %(base)s, not %(other)s.")
    return _refused("blend_bases_differ", text, name=name, base=base, other=other)


def not_linear(name: str, what: str) -> ApiError:
    text = _("The adapter %(name)s cannot be part of a blend: it has %(what)s, which no weight can scale.")
    return _refused("blend_unsupported", text, name=name, what=what)


def rank_exceeded(rank: int, limit: int) -> ApiError:
    text = _(
        "The ranks of these adapters add up to %(rank)s; an adapter may have %(limit)s. Reduce the rank, or use fewer "
        "adapters."
    )
    return _refused("blend_rank_exceeded", text, rank=grouped(rank), limit=grouped(limit))


def damaged(name: str) -> ApiError:
    text = _("The stored copy of the adapter %(name)s is damaged or cannot be read. Check the store, then try again.")
    return ApiError("store_damaged", text % {"name": name}, 409, "adapters")


def not_finite() -> ApiError:
    return _refused("weights_nonfinite", _("The blend would contain non-finite values. Use smaller weights."))


def failed(reason: str) -> ApiError:
    text = _("The blend could not be written: %(reason)s.") % {"reason": reason}
    return ApiError("blend_failed", text, 503, retry_after=30)


def _refused(code: str, sentence: str, **values: Any) -> ApiError:
    return ApiError(code, sentence % values, 422, "adapters")
