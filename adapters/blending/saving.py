"""From active adapters with weights to a folder where finished uploads lie: weights, config, recipe, and what the first
member brings for its prompts."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from typing import Any

from django.conf import settings
from django.utils import timezone

from adapters import store
from adapters.failures import Refused
from adapters.files import removal
from adapters.formats.files import open_below, parse_json, read_small
from adapters.models import LoraAdapter
from adapters.places import Place
from adapters.training import prompting
from adapters.training.layout import ADDED, ARRIVING, CONFIG, WEIGHTS
from adapters.uploads import arriving, finishing, naming
from adapters.uploads import refusals as upload_refusals

from . import refusals
from .planning import Member, Plan, plan
from .writing import Error, write

RECIPE = "recipe.json"


@dataclass(frozen=True)
class Part:
    adapter: LoraAdapter
    weight: float


@dataclass(frozen=True)
class Saved:
    """`folder`: its path from `UPLOADS_DIR` on; `error` is None where nothing was left out; `rank`: the largest."""

    folder: str
    rank: int
    size: int
    error: Error | None


def save(user: int, name: str, parts: Sequence[Part], rank: int | None) -> Saved:
    """Write a blend as an adapter of this user. `rank`: that its layers are reduced to by a singular value
    decomposition; None: the ranks side by side, exactly. Weights of 0 take no part.

    Raises ApiError, OSError.
    """
    taking_part = [part for part in parts if part.weight]
    base = check_parts(parts)
    with ExitStack() as stack:
        try:
            members = [_opened(stack, part) for part in taking_part]
            planned = plan(members, rank)
            prompts = _prompt_files(members[0])
        except Refused:
            raise refusals.damaged(", ".join(part.adapter.name for part in taking_part)[:200]) from None
        if planned.size > settings.UPLOAD_MAX_BYTES:
            raise upload_refusals.too_large(settings.UPLOAD_MAX_BYTES)
        with arriving.shelf() as root, arriving.folder_in(root, ARRIVING) as waiting:
            arriving.check_room(root, waiting, user, planned.size)
            # What is cut off here is swept as an upload is that nobody continues.
            with waiting.make(f"blend-{os.urandom(8).hex()}", 0o755) as place:
                try:
                    return _fill(place, user, name, members, planned, rank, prompts, base)
                except BaseException:
                    with suppress(OSError):
                        removal.remove(place)
                    raise


def check_parts(parts: Sequence[Part]) -> dict[str, str]:
    """The members' base, as the recipe names it. Raises ApiError."""
    for part in parts:
        if part.adapter.base is None or not part.adapter.digest:
            raise refusals.inactive(part.adapter.name)
    bases = [part.adapter.base for part in parts if part.adapter.base is not None]
    for part, base in zip(parts, bases, strict=True):
        if base.pk != bases[0].pk:
            raise refusals.other_base(part.adapter.name, base.name, bases[0].name)
    return {"name": bases[0].name, "key": bases[0].key}


def _opened(stack: ExitStack, part: Part) -> Member:
    """With its stored copy read and found to be what its digest names. Raises ApiError, Refused."""
    digest = part.adapter.digest
    if store.fault(digest) is not None:
        raise refusals.damaged(part.adapter.name)
    if part.adapter.prompting.get("added_tokens"):
        raise refusals.not_linear(part.adapter.name, "added_tokens")
    folder = store.entry(digest)
    root = os.path.realpath(folder.parent)
    file = stack.enter_context(open_below((root,), os.path.join(root, folder.name), WEIGHTS))
    return Member(part.adapter, part.weight, folder, file)


def _fill(
    place: Place, user: int, name: str, members: Sequence[Member], planned: Plan, rank: int | None,
    prompts: dict[str, Any], base: dict[str, str],
) -> Saved:  # fmt: skip
    found = write(place, planned, members, rank is not None)
    error = found if rank is not None else None
    recipe = {
        "blend": 1,
        "made_at": timezone.now().isoformat(timespec="seconds"),
        "base": base,
        "method": "concatenate" if rank is None else "svd",
        "rank": planned.rank,
        "error": asdict(error) if error is not None else None,
        "adapters": [
            {"name": one.adapter.name, "slug": one.adapter.slug, "digest": one.adapter.digest, "weight": one.weight}
            for one in members
        ],
    }
    for file, content in {CONFIG: planned.config, RECIPE: recipe, **prompts}.items():
        data = content.encode() if isinstance(content, str) else json.dumps(content, indent=1).encode() + b"\n"
        with place.create(file) as target:
            target.write(data)
    os.fsync(place.descriptor)
    return Saved(finishing.publish(place, user, naming.folder_name(name)), planned.rank, planned.size, error)


def _prompt_files(member: Member) -> dict[str, Any]:
    """What `training/prompting.py` reads as the first member's own: template, tokens, defaults. Raises Refused."""
    digest = member.adapter.prompting.get("sha256", "")
    if not digest:
        return {}
    root = os.path.realpath(member.folder.parent)
    said = read_small((root,), os.path.join(root, member.folder.name), prompting.FILE, prompting.STORED_LIMIT)
    found = parse_json(said, prompting.FILE)
    generation = dict(found.get("defaults", {}))
    if found.get("end_ids"):
        generation["eos_token_id"] = found["end_ids"]
    files: dict[str, Any] = {
        prompting.TEMPLATE: found.get("chat_template", ""),
        prompting.TOKENS: found.get("special_tokens", {}),
        ADDED: found.get("token_ids", {}),
        prompting.GENERATION: generation,
    }
    return {name: content for name, content in files.items() if content}
