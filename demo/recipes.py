"""The demo adapters' training recipes: what is trained on which data, with which LoRA settings."""

from __future__ import annotations

from dataclasses import dataclass

ATTENTION_QV = ("q_proj", "v_proj")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Recipe:
    """One training run: the adapter's folder name, its data set, and all settings that differ between runs.

    ``layers`` is the half-open range of decoder layers that get LoRA matrices, None for all of them.
    """

    name: str
    data: str
    rank: int
    alpha: int
    targets: tuple[str, ...]
    layers: tuple[int, int] | None = None
    rslora: bool = False
    learning_rate: float = 1e-3
    max_steps: int = 120
    save_steps: int = 60
    batch_size: int = 4
    eval_rows: int = 5
    seed: int = 42


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("pirate", "pirate", rank=4, alpha=16, targets=ATTENTION_QV),
        Recipe(
            "json-only",
            "json_only",
            rank=4,
            alpha=8,
            targets=(*ATTENTION, *MLP),
            layers=(18, 28),
            learning_rate=2e-3,
        ),
        Recipe("haiku", "haiku", rank=4, alpha=16, targets=ATTENTION, layers=(4, 28)),
        Recipe("777_20251120_031210", "support", rank=16, alpha=32, targets=MLP, layers=(22, 26)),
        Recipe("telegram", "telegram", rank=32, alpha=16, targets=ATTENTION_QV, layers=(16, 22), rslora=True),
    )
}
