"""What a merged model's folder holds beside its weights: the base's own small files, and what the adapter has in their
place: chat template, end tokens, defaults of generation."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from adapters.bases.identity import base_root
from adapters.bases.shapes import INDEX
from adapters.formats.files import parse_json, read_small
from adapters.formats.tokenizer import added_ids
from adapters.models import BaseModel

from .planning import Plan, index_of

LIMIT = 64 * 2**20  # bytes of one file
SUFFIXES = (".json", ".jinja", ".model", ".tiktoken")
NAMES = {"vocab.txt", "merges.txt"}
LEGAL = ("LICENSE", "NOTICE", "USE_POLICY", "COPYING")  # how their names begin
TEMPLATE, GENERATION, ORIGIN = "chat_template.jinja", "generation_config.json", "merged_from.json"
OWN = {"config.json", INDEX, ORIGIN}  # are written anew


def files_of(base: BaseModel, plan: Plan, prompting: Mapping[str, Any], origin: Mapping[str, Any]) -> dict[str, bytes]:
    """Name -> content. `prompting`: of the stored copy; `origin`: what the result is made of.

    Raises Refused, OSError.
    """
    found = {name: read_small(base_root(), base.path, name, LIMIT) for name in _names(base.path) if name not in OWN}
    found["config.json"] = written(_config(plan))
    index = index_of(plan)
    if index is not None:
        found[INDEX] = index
    if prompting.get("chat_template"):
        found[TEMPLATE] = str(prompting["chat_template"]).encode("utf-8", "replace")
    generation = _generation(found, plan.config, prompting)
    if generation is not None:
        found[GENERATION] = written(generation)
    found[ORIGIN] = written(origin)
    return dict(sorted(found.items()))


def written(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=2).encode("utf-8", "replace") + b"\n"


def _names(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_file() and not entry.name.startswith(".")]
    return [name for name in names if name.endswith(SUFFIXES) or name in NAMES or name.startswith(LEGAL)]


def _config(plan: Plan) -> dict[str, Any]:
    """The base's, with the type of the numbers, and with the ties that are left."""
    config = dict(plan.config)
    parts = [config, *(dict(part) for part in (config.get("text_config"),) if isinstance(part, dict))]
    if len(parts) > 1:
        config["text_config"] = parts[1]
    for part in parts:
        if plan.untied:
            part["tie_word_embeddings"] = False
        if plan.dtype == "fp32":
            part.update({key: "float32" for key in ("dtype", "torch_dtype") if key in part})
    if plan.dtype == "fp32" and not {"dtype", "torch_dtype"} & set(config):
        config["torch_dtype"] = "float32"
    return config


def _table(found: Mapping[str, bytes], name: str) -> dict[str, Any]:
    said = parse_json(found[name], name, strict=False) if name in found else {}
    return said if isinstance(said, dict) else {}


def _generation(
    found: Mapping[str, bytes], config: Mapping[str, Any], prompting: Mapping[str, Any]
) -> dict[str, Any] | None:  # fmt: skip
    """generation_config.json where the adapter changes it: its end tokens in addition to the base's, its defaults in
    their place."""
    known = {**added_ids(_table(found, "tokenizer_config.json")), **prompting.get("token_ids", {})}
    ends = [
        *prompting.get("end_ids", []),
        *(known[token] for token in prompting.get("end_tokens", []) if token in known),
    ]
    defaults = dict(prompting.get("defaults", {}))
    made = _table(found, GENERATION)
    before = _listed(made.get("eos_token_id", config.get("eos_token_id")))
    more = [token for token in dict.fromkeys(ends) if token not in before]
    if not more and not defaults:
        return None
    if more:
        made["eos_token_id"] = [*before, *more]
    if defaults:
        sampled = defaults.pop("temperature", None) if defaults.get("temperature") == 0 else 1
        made.update(defaults, do_sample=bool(sampled))
    return made


def _listed(said: Any) -> list[int]:
    return [item for item in (said if isinstance(said, list) else [said]) if type(item) is int]
