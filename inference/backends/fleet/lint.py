"""What a vLLM replica would refuse of an adapter, said before it is published.

The checks are vLLM 0.32's own: `PEFTHelper.validate_legal` of `vllm/lora/peft_helper.py`. The engine on this machine
serves more than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

PLAIN_INITS = {"gaussian", "eva", "orthogonal", "mica", "lora_ga", "true", "false"}
VARIANTS = ("alora_invocation_tokens", "use_bdlora", "use_qalora", "target_parameters", "trainable_token_indices")
PAIRS = (".lora_A.weight", ".lora_B.weight")


@dataclass(frozen=True)
class Objection:
    """A code of `adapters/failures.py` with its details."""

    code: str
    details: Mapping[str, Any] = field(default_factory=dict)


def objection(
    config: Mapping[str, Any], max_rank: int, tensors: Iterable[str], added: int = 0
) -> Objection | None:  # fmt: skip
    """The first thing that stands against an `adapter_config.json`, the names of the stored tensors and so many `added`
    tokens; None where nothing does. Layers of `modules_to_save` that equal the base's own are not among the tensors.
    """
    if config.get("use_dora"):
        return Objection("dora_unsupported", {"field": "use_dora"})
    if config.get("lora_bias"):
        return Objection("bias_unsupported", {"field": "lora_bias"})
    if config.get("bias") not in (None, "none"):
        return Objection("bias_unsupported", {"field": f"bias={str(config['bias'])[:40]}"})
    if config.get("layer_replication"):
        return Objection("layer_replication_unsupported", {"field": "layer_replication"})
    for name in VARIANTS:
        if config.get(name):
            return Objection("variant_unsupported", {"field": name})
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in PLAIN_INITS:
        return Objection("init_changes_base", {"method": init[:64]})
    more = sorted(name for name in tensors if not name.endswith(PAIRS))
    if any(".lora_embedding_" in name for name in more):
        return Objection("variant_unsupported", {"field": "lora_embedding"})
    if more and more[0].endswith(".bias"):
        return Objection("bias_unsupported", {"field": more[0]})
    if more:
        return Objection("modules_to_save_unsupported", {"modules": ", ".join(more[:8])})
    if added:
        return Objection("tokens_unsupported", {"count": added})
    rank = max([config.get("r") or 8, *(config.get("rank_pattern") or {}).values()])
    if rank > max_rank:
        return Objection("fleet_rank", {"rank": rank, "limit": max_rank})
    return None
