"""Which modules of a base model a config targets, by the rules of PEFT's `check_target_module_exists`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from django.utils.translation import gettext_noop

import patterns
from adapters.failures import Refused
from adapters.formats.config import AdapterConfig

Value = TypeVar("Value")


def targeted(config: AdapterConfig, modules: Sequence[str]) -> set[str]:
    """The names among `modules` (such as model.layers.0.self_attn.q_proj) that get LoRA matrices.

    Raises Refused: config_invalid where a pattern is none, pattern_too_slow.
    """
    chosen = list(modules)
    if config.exclude_modules:
        excluded = _matching(config.exclude_modules, chosen, "exclude_modules")
        chosen = [name for name in chosen if name not in excluded]
    found = _matching(config.target_modules, chosen, "target_modules")
    if isinstance(config.target_modules, tuple) and config.layers is not None:
        layers = set(config.layers)
        exact = found.intersection(config.target_modules)
        others = sorted(found - exact)
        with _refusing("layers_pattern"):
            numbers = patterns.layers(config.layers_patterns, others)
        found = exact.union(name for name, number in zip(others, numbers, strict=True) if number in layers)
    return found


def _matching(rule: str | tuple[str, ...], names: Sequence[str], field: str) -> set[str]:
    if isinstance(rule, str):
        if rule == "all-linear":  # PEFT stores the resolved names; an unresolved word matches what it means
            return {name for name in names if name.rpartition(".")[2] != "lm_head"}
        with _refusing(field):
            return {name for name, matches in zip(names, patterns.whole(rule, names), strict=True) if matches}
    exact = set(rule)
    return {name for name in names if name in exact or _suffixes(name) & exact}


def _suffixes(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[i:]) for i in range(1, len(parts))}


def by_pattern(
    table: Sequence[tuple[str, Value]], modules: Sequence[str], field: str, default: Value
) -> dict[str, Value]:
    """module -> value of the first key of `table` that matches it at its end, as PEFT's `get_pattern_key` does.

    Raises Refused as `targeted`.
    """
    with _refusing(field):
        indices = patterns.endings([key for key, _ in table], modules)
    return {name: table[index][1] if index >= 0 else default for name, index in zip(modules, indices, strict=True)}


@contextmanager
def _refusing(field: str) -> Iterator[None]:
    try:
        yield
    except patterns.InvalidPatternError:
        raise Refused("config_invalid", field=field, reason=gettext_noop("not a regular expression")) from None
    except patterns.SlowPatternError:
        raise Refused("pattern_too_slow", field=field) from None
