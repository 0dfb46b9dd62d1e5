"""The adapter_config.json of mlx-lm, as PEFT would have written it.

Source: mlx_lm/lora.py (what is saved), mlx_lm/tuner/lora.py (y + scale * (x @ lora_a) @ lora_b). Until late 2024 the
scale was multiplied by alpha / rank, with an `alpha` among the parameters; later releases take such a config and do not
look at the alpha.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Any

from django.utils.translation import gettext_noop

from adapters.failures import Refused

MARKS = {"fine_tune_type", "lora_parameters"}
LAYER = re.compile(r"(?:^|.*\.)layers\.(\d{1,5})\.(.+)")


def is_config(raw: Any) -> bool:
    return isinstance(raw, dict) and not MARKS.isdisjoint(raw) and not raw.get("peft_type")


def glance(raw: dict[str, Any]) -> dict[str, Any]:
    """What such a config says by the names of PEFT's, for the list alone."""
    found = raw.get("lora_parameters")
    said = found if isinstance(found, dict) else {}
    return {
        "base_model_name_or_path": raw.get("model"), "peft_type": "MLX", "r": said.get("rank"),
        "lora_alpha": _product(said.get("scale"), said.get("rank")),
        "target_modules": said.get("keys"),
    }  # fmt: skip


def _product(scale: Any, rank: Any) -> float | None:
    """PEFT's alpha for these; None where either is no number of a sound size."""
    if type(rank) is not int or not 0 < rank < 2**16 or type(scale) not in (int, float):
        return None
    return scale * rank if abs(scale) <= 1e6 and math.isfinite(scale) else None


def as_peft(raw: dict[str, Any], ranks: set[int], modules: list[str], names: Collection[str]) -> dict[str, Any]:
    """PEFT's config without target_modules. `ranks`: of the file; `modules`: that it holds; `names`: the base's.

    Raises Refused: config_invalid, rank_mismatch, tensors_missing, repair_ambiguous, other_format.
    """
    kind = raw.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        raise Refused("config_invalid", field="fine_tune_type", reason=gettext_noop("neither lora nor dora"))
    said = raw.get("lora_parameters")
    if not isinstance(said, dict):
        raise Refused("config_invalid", field="lora_parameters", reason=gettext_noop("missing"))
    rank, scale, alpha = said.get("rank"), said.get("scale"), said.get("alpha")
    if type(rank) is not int or not 0 < rank < 2**16:
        raise Refused("config_invalid", field="lora_parameters.rank", reason=gettext_noop("missing"))
    if ranks != {rank}:
        raise Refused("rank_mismatch", module="lora_a", found=", ".join(map(str, sorted(ranks)[:8])), expected=rank)
    product = _product(scale, rank)
    if product is None:
        raise Refused("config_invalid", field="lora_parameters.scale", reason=gettext_noop("missing"))
    if alpha is not None and alpha != rank:
        first, second = f"scale = {scale}", f"scale * alpha / rank = {scale} * {alpha!r} / {rank}"
        raise Refused("repair_ambiguous", first=first, second=second)
    _check_whole(raw, said, modules, names)
    model = raw.get("model")
    return {
        "base_model_name_or_path": model if isinstance(model, str) else None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(product) if product == int(product) else product,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": [],
        "task_type": "CAUSAL_LM",
        "use_dora": kind == "dora",
        "use_rslora": False,
    }


def _check_whole(raw: dict[str, Any], said: dict[str, Any], modules: list[str], names: Collection[str]) -> None:
    """Every layer that the config names is in the file: the last `num_layers`, of each the modules `keys`."""
    keys, count = said.get("keys"), raw.get("num_layers", raw.get("lora_layers"))
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or type(count) is not int:
        return
    places = {name: match for name in names if (match := LAYER.match(name))}
    last = max((int(match[1]) for match in places.values()), default=-1)
    first = last + 1 - count if 0 < count <= last + 1 else 0
    known = set(keys)
    wanted = {name for name, match in places.items() if match[2] in known and int(match[1]) >= first}
    missing = sorted(wanted.difference(modules))
    if missing:
        base = raw.get("model")
        raise Refused(
            "tensors_missing", expected=len(wanted), total=len(set(modules)),
            base=base if isinstance(base, str) else "", example=missing[0],
        )  # fmt: skip
