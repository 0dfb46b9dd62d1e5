"""Which modules of a base model a config targets, by the rules of PEFT's `check_target_module_exists`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from adapters.failures import Refused
from adapters.formats.config import AdapterConfig

from .patterns import first_matches, is_simple


def targeted(config: AdapterConfig, modules: Sequence[str]) -> set[str]:
    """The names among `modules` (such as model.layers.0.self_attn.q_proj) that get LoRA matrices."""
    chosen = list(modules)
    if config.exclude_modules:
        excluded = _matching(config.exclude_modules, chosen, "exclude_modules")
        chosen = [name for name in chosen if name not in excluded]
    found = _matching(config.target_modules, chosen, "target_modules")
    if isinstance(config.target_modules, tuple) and config.layers is not None:
        layers = set(config.layers)
        exact = set(config.target_modules)
        patterns = _layer_patterns(config)
        found = {name for name in found if name in exact or _layer(name, patterns) in layers}
    return found


def _matching(rule: str | tuple[str, ...], names: Sequence[str], field: str) -> set[str]:
    if isinstance(rule, str):
        if rule == "all-linear":  # PEFT stores the resolved names; an unresolved word matches what it means
            return {name for name in names if name.rpartition(".")[2] != "lm_head"}
        return {name for name, index in zip(names, first_matches([rule], names, field), strict=True) if index >= 0}
    exact = set(rule)
    return {name for name in names if name in exact or _suffixes(name) & exact}


def _suffixes(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[i:]) for i in range(1, len(parts))}


def _layer_patterns(config: AdapterConfig) -> list[re.Pattern[str]]:
    if not config.layers_patterns:
        return [re.compile(r".*?\.[^.]*\.(?P<idx>\d+)\.")]
    found = []
    for pattern in config.layers_patterns:
        if not is_simple(pattern, budget=0):
            raise Refused("pattern_too_slow", field="layers_pattern")
        try:
            found.append(re.compile(rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\."))
        except re.error:
            raise Refused("config_invalid", field="layers_pattern", reason="not a regular expression") from None
    return found


def _layer(name: str, patterns: list[re.Pattern[str]]) -> int | None:
    for pattern in patterns:
        match = pattern.match(name)
        if match is not None:
            return int(match.group("idx"))
    return None


def by_pattern(table: Sequence[tuple[str, int]], modules: Sequence[str], field: str, default: int) -> dict[str, int]:
    """module -> value of the first key of `table` that matches it at its end, as PEFT's `get_pattern_key` does."""
    if not table:
        return dict.fromkeys(modules, default)
    patterns = [rf"(.*\.)?({key})$" for key, _ in table]
    indices = first_matches(patterns, modules, field)
    return {name: table[index][1] if index >= 0 else default for name, index in zip(modules, indices, strict=True)}
