"""Which base model here is meant by the name that an adapter recorded: a hub's id, or a path on another machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from adapters.failures import Refused
from adapters.identifiers import text_hash
from adapters.models import BaseMapping, BaseModel, MatchedBy

SUFFIXES = ("-unsloth-bnb-4bit", "-bnb-4bit", "-unsloth")  # the same model, packed for training
# What follows a model's name in a path: versions, and the revisions of a hub's cache.
REVISION = re.compile(r"v?\d{1,9}(\.\d{1,9}){0,3}|main|master|latest|snapshots|[0-9a-f]{40}|[0-9a-f]{64}", re.I | re.A)
FRAMEWORKS = {"transformers", "pytorch", "flax", "keras", "other"}  # .../<model>/<framework>/<variation>/<version>


class Match(NamedTuple):
    base: BaseModel
    by: MatchedBy
    agrees: bool  # the recorded name is that of the base


class Matcher:
    """Finds the base model that a recorded name means. Reads the tables once; use one per scan."""

    def __init__(self) -> None:
        self.bases = list(BaseModel.objects.all())
        self.by_id = {base.pk: base for base in self.bases}
        self.present = [base for base in self.bases if not base.missing]
        self.mapped = dict(BaseMapping.objects.values_list("recorded_hash", "base_id"))

    def match(self, recorded: str, adapter_config_hash: str = "") -> Match:
        """Raises Refused: base_not_recorded, base_not_found, base_ambiguous."""
        mapped = self.by_id.get(self.mapped.get(text_hash(recorded), 0))
        if mapped is not None:
            return Match(mapped, MatchedBy.MAPPING, True)
        for wanted, by in names_of(recorded):
            found, exact = self._named(wanted)
            if len(found) > 1 and adapter_config_hash:
                found = [b for b in found if b.config_hash == adapter_config_hash] or found
            if len(found) == 1:
                by = MatchedBy.HUB_ID if exact and by == MatchedBy.NAME else by
                return Match(found[0], by, by != MatchedBy.PACKED)
            if found:
                raise Refused("base_ambiguous", base=recorded, candidates=", ".join(b.slug for b in found))
        by_hash = [b for b in self.present if adapter_config_hash and b.config_hash == adapter_config_hash]
        if len(by_hash) == 1:
            return Match(by_hash[0], MatchedBy.CONFIG, not recorded)
        if not recorded:
            raise Refused("base_not_recorded")
        raise Refused("base_not_found", base=recorded)

    def _named(self, wanted: str) -> tuple[list[BaseModel], bool]:
        """(the bases of this name, whether by the id of a hub)"""
        wanted = plain(wanted)
        last = wanted.rpartition("/")[2]
        if not last:  # nothing is left of the name, which is not the id that a base without one has
            return [], False
        exact = [b for b in self.present if plain(b.hub_id) == wanted]
        if exact and "/" in wanted:
            return exact, True
        return [b for b in self.present if last in {plain(b.name), plain(b.hub_id).rpartition("/")[2]}], False


def plain(name: str) -> str:
    """A name as it is compared: ModelScope writes three underscores for a dot in the folders of its cache."""
    return name.replace("___", ".").casefold()


def names_of(recorded: str) -> Iterator[tuple[str, MatchedBy]]:
    """What `recorded` may be called here, best first; hub ids where a path holds one."""
    parts = [part for part in recorded.replace("\\", "/").split("/") if part not in {"", ".", ".."}]
    is_hub_id = len(parts) == 2 and not recorded.startswith(("/", ".", "~")) and "\\" not in recorded
    cached = [part for part in parts if part.startswith("models--")]
    if cached:  # a hub's cache: .../models--organisation--name/snapshots/<commit>
        yield cached[0].removeprefix("models--").replace("--", "/", 1), MatchedBy.PATH
        return
    if not parts:
        return
    yield from _packed("/".join(parts[-2:]), MatchedBy.NAME)
    above = list(parts)
    while not is_hub_id and len(above) > 1 and REVISION.fullmatch(above[-1]):
        above.pop()
    if len(above) == len(parts):
        return
    name = above[-1]
    if name.count("--") == 1:  # ModelScope's cache: .../organisation--name/snapshots/<revision>
        yield from _packed(name.replace("--", "/"), MatchedBy.PATH)
    if len(above) > 2 and above[-2].lower() in FRAMEWORKS:
        yield from _packed(f"{above[-3]}-{name}", MatchedBy.PATH)
    yield from _packed("/".join(above[-2:]), MatchedBy.PATH)


def _packed(name: str, by: MatchedBy) -> Iterator[tuple[str, MatchedBy]]:
    yield name, by
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            yield name[: -len(suffix)], MatchedBy.PACKED
            break
