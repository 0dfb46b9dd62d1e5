"""An adapter on its way to the fleet: linted, published, asked once. Runs in whatever thread activates it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.utils.translation import gettext_noop

from adapters import store
from adapters.failures import Refused
from inference.backends.interface import Request
from inference.engine import content
from inference.engine.errors import EngineError
from inference.engine.protocol import AdapterSpec, BaseSpec

from . import probe
from .catalogue import BasePlace, Catalogue
from .lint import Objection, objection
from .prompts import Prompts
from .refusals import NOT_LOADED
from .replies import forget
from .resources import FleetOptions
from .shelf import Shelf
from .states import version
from .wire import StatusError, Wire

logger = logging.getLogger(__name__)

REASONS = {  # why it could not be asked, by the code of the error
    "fleet_unavailable": gettext_noop("it cannot be reached"),
    "engine_timeout": gettext_noop("it did not answer in time"),
    "fleet_interrupted": gettext_noop("the connection broke"),
    "queue_full": gettext_noop("it accepts no more requests"),
    "fleet_answer_invalid": gettext_noop("its response is invalid"),
}


@dataclass(frozen=True)
class Promoted:
    """`objection`: None where the fleet serves the adapter. `report`: JSON for the adapter's page."""

    objection: Objection | None
    report: Mapping[str, Any] = field(default_factory=dict)


def promote(options: FleetOptions, max_rank: int, base: BaseSpec, adapter: AdapterSpec) -> Promoted:
    """Lint, publish, ask. What was published for an adapter that is then refused is withdrawn. Takes seconds."""
    return asyncio.run(_promote(options, max_rank, base, adapter))


async def _promote(options: FleetOptions, max_rank: int, base: BaseSpec, adapter: AdapterSpec) -> Promoted:
    shelf, wire = Shelf(options.folder), Wire(options.key, probe.PATIENCE, 4)
    catalogue = Catalogue(options.addresses, wire)
    report: dict[str, Any] = {"base": base["name"], "steps": []}
    try:
        place = await catalogue.of(base)
        report |= {"root": place.root, "served": place.served, "version": await version(place.address, wire)}
        config = json.loads((Path(adapter["path"]) / content.CONFIG).read_bytes()[: content.CONFIG_LIMIT])
        added = len(Prompts().left(adapter).added)
        refused = objection(config, max_rank, store.names(adapter["digest"]), added)
        if refused is not None:
            return Promoted(refused, report)
        report["steps"].append("linted")
        fresh = not shelf.has(adapter["digest"], place.root)
        shelf.publish(adapter["digest"], Path(adapter["path"]), adapter["name"], place.root)
        report["steps"].append("published")
        refused = await _probed(wire, place, base, adapter, report)
        if refused is not None and fresh:
            shelf.withdraw(adapter["digest"])
            await forget(adapter["digest"], options.addresses, wire)
        return Promoted(refused, report)
    except EngineError as error:
        return Promoted(objection_of(error), report)
    except Refused:
        return Promoted(Objection("changed_meanwhile"), report)
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else gettext_noop("unreadable")
        return Promoted(Objection("fleet_unwritable", {"reason": reason}), report)
    finally:
        await wire.close()


async def _probed(
    wire: Wire, place: BasePlace, base: BaseSpec, adapter: AdapterSpec, report: dict[str, Any]
) -> Objection | None:
    prompts = Prompts()
    try:
        same = await asyncio.to_thread(prompts.text, Request("", base, None, probe.QUESTION))
        own = await asyncio.to_thread(prompts.text, Request("", base, adapter, probe.QUESTION))
        found = await probe.compare(wire, place, adapter["digest"], (same, own))
    except StatusError as error:
        logger.warning("fleet: %s refuses %s: %s", place.address.url, adapter["digest"], error)
        return refused_probe(error, place)
    except EngineError as error:
        return objection_of(error)
    report["steps"].append("probed")
    report["probe"] = {
        "question": probe.QUESTION[0]["content"], "text": found.text, "base_text": found.base_text,
        "difference": round(found.difference, 6), "noise": round(found.noise, 6),
    }  # fmt: skip
    if not found.effective:
        return Objection("no_effect", {"reason": gettext_noop("the fleet's answer equals the base model's")})
    return None


def refused_probe(error: StatusError, place: BasePlace) -> Objection:
    status = error.status
    if status.code == 404:
        return Objection("fleet_not_seen", {"root": place.root})
    if status.code in (401, 403):
        return Objection("fleet_key_refused", {})
    if NOT_LOADED.search(status.message):  # its sentence says no more than ours
        return Objection("fleet_load_refused", {"reason": f"HTTP {status.code}"})
    reason = f"HTTP {status.code}"  # of the question, not of the adapter: as where --max-logprobs is too small
    return Objection("fleet_unreachable", {"reason": f"{reason}: {status.message}" if status.message else reason})


def objection_of(error: EngineError) -> Objection:
    if error.code == "store_damaged":
        return Objection("changed_meanwhile")
    if error.code == "fleet_denied":
        return Objection("fleet_key_refused")
    if error.code == "base_missing":
        return Objection("fleet_base_missing", {"base": str(error.detail.get("name", ""))})
    if error.code in ("template_failed", "adapter_incompatible"):
        return Objection("template_unusable", {"reason": str(error.detail.get("reason", ""))})
    return Objection("fleet_unreachable", {"reason": REASONS.get(error.code, gettext_noop("it failed"))})
