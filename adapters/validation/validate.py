"""Validation of one adapter folder, by its config and headers alone. Nothing is run, loaded or unpickled."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

from adapters.bases.registry import Matcher, config_hash, shapes_of
from adapters.failures import Refused
from adapters.formats import config as adapter_config
from adapters.formats.config import AdapterConfig, Glance
from adapters.formats.files import open_below, parse_json, read_small
from adapters.formats.safetensors import Header, read_header
from adapters.models import BaseModel
from adapters.training.layout import CONFIG, WEIGHTS, AdapterFolder

from .fit import check_fit


@dataclass
class ValidationResult:
    """`code` "" means: may be activated. `incomplete` is no refusal yet; the folder is still being written."""

    glance: Glance = field(default_factory=Glance)
    config: AdapterConfig | None = None
    header: Header | None = None  # None for .bin weights, which are converted first
    base: BaseModel | None = None
    rank: int | None = None
    code: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    incomplete: bool = False
    flags: list[str] = field(default_factory=list)

    def refuse(self, refused: Refused) -> None:
        self.code, self.details = refused.code, refused.details


def validate(
    candidate: AdapterFolder,
    matcher: Matcher,
    roots: tuple[str, ...],
    settle: float,
    chosen: BaseModel | None = None,
    now: float | None = None,
) -> ValidationResult:
    """Validate a folder. `settle`: seconds that its files must have held still; `chosen`: a base set by hand."""
    verdict = ValidationResult(flags=sorted(candidate.remarks))
    age = (time.time() if now is None else now) - candidate.newest / 1e9
    settling = 0 <= age < settle
    try:
        _validate(verdict, candidate, matcher, roots, chosen)
    except Refused as refused:
        verdict.refuse(refused)
    except OSError as error:
        verdict.refuse(Refused("unreadable", file=CONFIG, reason=os.strerror(error.errno or 0)))
    if verdict.code == "config_missing":
        verdict.incomplete = True
        verdict.refuse(Refused("incomplete", reason=CONFIG))
    elif verdict.code == "weights_missing" and candidate.has_checkpoints:
        # axolotl writes the config of the run before training starts, the checkpoints as it goes.
        verdict.incomplete = True
        verdict.refuse(Refused("incomplete", reason=WEIGHTS))
    elif settling:
        verdict.incomplete = True
        verdict.refuse(Refused("incomplete", reason=f"{age:.0f} s"))
    return verdict


def _validate(
    verdict: ValidationResult,
    candidate: AdapterFolder,
    matcher: Matcher,
    roots: tuple[str, ...],
    chosen: BaseModel | None,
) -> None:
    if CONFIG not in candidate.stats:
        raise Refused("config_missing")
    raw = parse_json(read_small(roots, candidate.path, CONFIG, adapter_config.LIMIT), CONFIG)
    verdict.glance = adapter_config.glance(raw)
    if not candidate.weights:
        raise Refused("weights_missing")
    if candidate.weights == WEIGHTS:  # a cut-off file is the first thing to say, whatever the config holds
        verdict.header = _header(candidate, roots)
    config = verdict.config = adapter_config.check(raw)
    if config.has_code:
        verdict.flags = sorted({*verdict.flags, "contains_code"})
    verdict.base = chosen
    if chosen is None:
        verdict.base, agrees = matcher.match(config.base_name, _recorded_hash(candidate, roots))
        if not agrees:
            verdict.flags = sorted({*verdict.flags, "base_name_differs"})
    assert_fit(verdict)


def assert_fit(verdict: ValidationResult) -> None:
    """Compare config and header with the base. Raises Refused; does nothing where the header is not known yet."""
    if verdict.base is None or verdict.config is None:
        return
    shapes = shapes_of(verdict.base)
    if verdict.header is None:
        return
    verdict.rank = check_fit(verdict.config, verdict.header, shapes, verdict.base.name).max_rank


def _header(candidate: AdapterFolder, roots: tuple[str, ...]) -> Header:
    with open_below(roots, candidate.path, WEIGHTS) as file:
        return read_header(file, os.fstat(file.fileno()).st_size)


def _recorded_hash(candidate: AdapterFolder, roots: tuple[str, ...]) -> str:
    """Hash of the base's config.json where training left a copy beside the adapter."""
    if "config.json" not in candidate.stats:
        return ""
    try:
        raw = parse_json(read_small(roots, candidate.path, "config.json", adapter_config.LIMIT), "config.json")
    except Refused:
        return ""
    return config_hash(raw) if isinstance(raw, dict) else ""
