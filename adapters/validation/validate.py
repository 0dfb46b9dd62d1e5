"""Validation of one adapter folder, by its config and headers alone. Nothing is run, loaded or unpickled."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from django.db import DatabaseError
from django.utils.translation import gettext_noop

from adapters.bases.identity import config_hash
from adapters.bases.matching import Matcher
from adapters.bases.registry import shapes_of
from adapters.bases.shapes import EMBEDDING_NAMES, HEADS
from adapters.failures import CHECK_FAILED, Refused
from adapters.formats import config as adapter_config
from adapters.formats.added_tokens import FILE as TOKENIZER
from adapters.formats.added_tokens import Added
from adapters.formats.config import AdapterConfig, Glance
from adapters.formats.content_key import content_key
from adapters.formats.files import open_below, parse_json, read_small
from adapters.formats.safetensors import Header
from adapters.formats.tokenizer import LARGEST_ID
from adapters.identifiers import UNKNOWN
from adapters.models import BaseModel, MatchedBy
from adapters.training.layout import ADDED, CONFIG, INDEX, PICKLE, WEIGHTS, AdapterFolder

from . import copies, repairs
from .fit import check_changed, check_filled, check_fit, not_lora
from .repair.examine import Part
from .repair.parts import opened
from .repair.plan import Plan
from .repairs import Accepted

logger = logging.getLogger(__name__)


@dataclass
class ValidationResult:
    """`code` "" means: may be activated. `incomplete` is no refusal yet; the folder is still being written."""

    glance: Glance = field(default_factory=Glance)
    config: AdapterConfig | None = None
    header: Header | None = None  # None for .bin weights, which are converted first
    base: BaseModel | None = None
    matched_by: str = ""  # how `base` was found
    rank: int | None = None
    code: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    incomplete: bool = False
    content_key: str = UNKNOWN
    changed: frozenset[str] = frozenset()  # tensors that the base has too, and that are not its own, see copies.py
    vocabulary: int = 0  # rows of its embedding and output layer; 0 for as many as the base's
    names_tokens: bool = False  # its folder says which tokens there are
    flags: list[str] = field(default_factory=list)
    plan: Plan | None = None  # of a repair: with no `code` an accepted one, else one that is offered

    def remark(self, *codes: str) -> None:
        self.flags = sorted({*self.flags, *codes})

    def refuse(self, refused: Refused) -> None:
        self.code, self.details = refused.code, refused.details


def validate(
    candidate: AdapterFolder,
    matcher: Matcher,
    roots: tuple[str, ...],
    settle: float,
    chosen: BaseModel | None = None,
    accepted: Accepted | None = None,
    now: float | None = None,
) -> ValidationResult:
    """Validate a folder. `settle`: seconds that its files must have held still; `chosen`: a base set by hand;
    `accepted`: a repair that an operator has agreed to."""
    names_tokens = TOKENIZER in candidate.stats or ADDED in candidate.stats
    verdict = ValidationResult(flags=sorted(candidate.remarks), names_tokens=names_tokens)
    age = (time.time() if now is None else now) - candidate.newest / 1e9
    settling = 0 <= age < settle
    try:
        _validate(verdict, candidate, matcher, roots, chosen, accepted)
    except Refused as refused:
        verdict.refuse(refused)
    except OSError as error:
        verdict.refuse(Refused("unreadable", file=CONFIG, reason=os.strerror(error.errno or 0)))
    except DatabaseError:
        raise
    except Exception:
        logger.exception("%s could not be checked", candidate.path)
        verdict.refuse(Refused(CHECK_FAILED))
    if verdict.base is not None and verdict.vocabulary > verdict.base.vocab_size:
        verdict.flags = [
            flag for flag in verdict.flags if flag != "tokens_added"
        ]  # they have rows of the adapter's own
    if CONFIG in candidate.stats and (candidate.weights or candidate.foreign) and not settling:
        verdict.content_key = key_of(candidate, roots)
    if verdict.code == "config_missing":
        verdict.incomplete = True
        verdict.refuse(Refused("incomplete", reason=CONFIG))
    elif verdict.code == "weights_missing" and candidate.has_checkpoints:
        # axolotl writes the config of the run before training starts, the checkpoints as it goes.
        verdict.incomplete = True
        verdict.refuse(Refused("incomplete", reason=WEIGHTS))
    elif settling:
        verdict.incomplete = True
        verdict.refuse(Refused("incomplete", reason=gettext_noop("changed %(seconds)s s ago"), seconds=round(age)))
    return verdict


def _validate(
    verdict: ValidationResult,
    candidate: AdapterFolder,
    matcher: Matcher,
    roots: tuple[str, ...],
    chosen: BaseModel | None,
    accepted: Accepted | None,
) -> None:
    if CONFIG not in candidate.stats:
        raise Refused("config_missing")
    raw = parse_json(read_small(roots, candidate.path, CONFIG, adapter_config.LIMIT), CONFIG)
    verdict.glance = adapter_config.glance(raw)
    # Known before anything refuses the adapter: nobody is to look for a base that is there.
    no_base = _find_base(verdict, candidate, matcher, roots, chosen)
    if _adds_tokens(candidate, roots, verdict.base):
        verdict.remark("tokens_added")
    if candidate.weights == PICKLE:
        with open_below(roots, candidate.path, PICKLE) as file:
            _compare(verdict, raw, file, no_base)
        return
    other = adapter_config.other_format(raw, candidate.other_weights) or Refused("weights_missing")
    if not candidate.weights and not candidate.foreign:
        raise other
    with _opened(roots, candidate, other) as (files, parts):
        try:
            for part in parts:  # a cut-off or empty file is the first thing to say, whatever the config holds
                check_filled(part.header)
            if not candidate.weights:
                raise no_base or other
            verdict.header = parts[0].header
            _compare(verdict, raw, files[0], no_base)
        except Refused as refused:
            plan = verdict.plan = _planned(verdict, raw, files, parts, refused)
            if plan is None:
                raise
            if accepted != Accepted(plan.key, key_of(candidate, roots)):
                raise repairs.offer(plan) from None
            verdict.remark("repaired")


@contextmanager
def _opened(
    roots: tuple[str, ...], candidate: AdapterFolder, other: Refused
) -> Iterator[tuple[list[BinaryIO], list[Part]]]:
    """`opened`; what cannot be read under the name of another tool is of another format."""
    with ExitStack() as stack:
        try:
            found = stack.enter_context(opened(roots, candidate))
        except Refused as refused:
            if candidate.weights or candidate.foreign == INDEX or refused.code == "outside_root":
                raise
            raise other from None
        yield found


def _planned(
    verdict: ValidationResult, raw: Any, files: list[BinaryIO], parts: list[Part], refused: Refused
) -> Plan | None:
    """Fill in what the doctor makes of files that were `refused`; None where that is nothing. Raises Refused."""
    found = repairs.find(raw, parts, verdict.base, refused)
    if found is None:
        return None
    plan, base = found
    repairs.check_dropped(plan, files, parts, base)
    verdict.config, verdict.header, file = repairs.read_plan(plan, files)
    verdict.remark(*verdict.config.remarks)
    assert_fit(verdict, file)  # type: ignore[arg-type]
    return plan


def key_of(candidate: AdapterFolder, roots: tuple[str, ...]) -> str:
    """What config and weights of a folder hold, see `content_key`."""
    weights = [candidate.weights] if candidate.weights else candidate.foreign_files
    return content_key(roots, candidate.path, CONFIG, *weights)


def _adds_tokens(candidate: AdapterFolder, roots: tuple[str, ...], base: BaseModel | None) -> bool:
    """Whether the folder's tokenizer has tokens that the base has no row for. PEFT's trainers write added_tokens.json
    with the special tokens of the base as well, which are none."""
    if base is None or not base.vocab_size or ADDED not in candidate.stats:
        return False
    try:
        found = parse_json(read_small(roots, candidate.path, ADDED, adapter_config.LIMIT), ADDED, strict=False)
    except Refused:
        return False
    ids = found.values() if isinstance(found, dict) else ()
    return any(type(number) is int and base.vocab_size <= number <= LARGEST_ID for number in ids)


def _compare(verdict: ValidationResult, raw: Any, file: BinaryIO, no_base: Refused | None) -> None:
    config = verdict.config = adapter_config.check(raw)
    verdict.remark(*config.remarks, *(["contains_code"] if config.has_code else []))
    if no_base is not None:
        raise no_base
    assert_fit(verdict, file)


def _find_base(
    verdict: ValidationResult,
    candidate: AdapterFolder,
    matcher: Matcher,
    roots: tuple[str, ...],
    chosen: BaseModel | None,
) -> Refused | None:
    """Fill in the base; why there is none, where there is none."""
    if chosen is not None:
        verdict.base, verdict.matched_by = chosen, MatchedBy.HAND
        return None
    try:
        recorded = verdict.glance.base_name, _recorded_hash(candidate, roots)
        verdict.base, verdict.matched_by, agrees = matcher.match(*recorded)
    except Refused as refused:
        return refused
    if not agrees:
        verdict.flags = sorted({*verdict.flags, "base_name_differs"})
    return None


def assert_fit(verdict: ValidationResult, file: BinaryIO, thorough: bool = False) -> None:
    """Compare config and header of the weights in `file` with the base. Does nothing where the header is not known yet.

    `thorough`: tensors that may be copies of the base's are read to their end. Raises Refused.
    """
    if verdict.base is None or verdict.config is None:
        return
    shapes = shapes_of(verdict.base)
    header = verdict.header
    if header is None:
        return
    check_filled(header)
    repairs.check_gathered(header)
    changed, unknown, verdict.vocabulary = copies.judge(file, header, verdict.base, thorough)
    if unknown:
        raise not_lora(unknown, header.tensors[unknown], header, verdict.base.name)
    verdict.changed = changed
    saved = [name for name in verdict.config.saved_modules if not any(f".{name}." in other for other in header.others)]
    if saved:
        raise Refused("modules_to_save_unsupported", modules=", ".join(saved[:8]))
    check_changed(header, changed, shapes)
    if verdict.vocabulary:
        _check_rows(verdict, header, shapes.vocabulary)
        shapes = shapes.with_vocabulary(verdict.vocabulary)
    verdict.rank = check_fit(verdict.config, header.without_others()[1], shapes, verdict.base.name).max_rank


def _check_rows(verdict: ValidationResult, header: Header, base_rows: int) -> None:
    """Raises Refused vocabulary_resized where nothing says which tokens the rows beyond the base's belong to, or where
    an embedding was trained as a copy, which no output layer shares, and the output layer's rows were not saved."""
    parts = {name.removesuffix(".weight").rpartition(".")[2] for name in header.others}
    copies_of = {name.rpartition(".")[2] for name in verdict.config.saved_modules} if verdict.config else set()
    if copies_of & EMBEDDING_NAMES and not parts & HEADS:
        raise Refused("vocabulary_resized", reason=copies.PARTLY, tensors=", ".join(sorted(parts & EMBEDDING_NAMES)))
    if verdict.vocabulary > base_rows and not verdict.names_tokens:
        reason = gettext_noop("%(file)s is missing")
        raise Refused("vocabulary_resized", reason=reason, file=TOKENIZER, rows=verdict.vocabulary)


def check_tokens(verdict: ValidationResult, added: Added) -> None:
    """Have embeddings of another size a row for each token that the adapter's tokenizer adds? Raises Refused
    vocabulary_resized."""
    rows = verdict.vocabulary
    beyond = next((one for one in added if rows and one["id"] >= rows), None)
    if beyond is not None:
        reason = gettext_noop("the tokenizer gives %(token)s the id %(id)s, and %(rows)s rows were saved")
        raise Refused("vocabulary_resized", reason=reason, token=beyond["content"], id=beyond["id"], rows=rows)


def _recorded_hash(candidate: AdapterFolder, roots: tuple[str, ...]) -> str:
    """Hash of the base's config.json where training left a copy beside the adapter."""
    if "config.json" not in candidate.stats:
        return ""
    try:
        raw = parse_json(read_small(roots, candidate.path, "config.json", adapter_config.LIMIT), "config.json")
    except Refused:
        return ""
    return config_hash(raw) if isinstance(raw, dict) else ""
