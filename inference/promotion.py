"""What is activated is promoted to the fleet."""

from __future__ import annotations

from django.conf import settings

from adapters.hooks import Promotion, Stored
from inference.backends.fleet import promotion
from inference.engine.protocol import AdapterSpec, BaseSpec

from .manager import fleet_options

PASSING = {  # codes that say nothing of the adapter
    "fleet_unreachable", "fleet_key_refused", "fleet_base_missing", "fleet_unwritable", "fleet_not_seen",
    "changed_meanwhile",
}  # fmt: skip


def promote(stored: Stored) -> Promotion:
    base: BaseSpec = {
        "key": stored.base_key,
        "path": stored.base_path,
        "name": stored.base_name,
        "signature": stored.base_signature,
    }
    adapter: AdapterSpec = {
        "digest": stored.digest,
        "path": stored.path,
        "name": stored.name,
        "prompting": stored.prompting,
    }
    found = promotion.promote(fleet_options(), settings.FLEET_MAX_RANK, base, adapter)
    if found.objection is None:
        return Promotion(report=found.report)
    code = found.objection.code
    return Promotion(code, found.objection.details, code not in PASSING, found.report)
