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
    max_steps: int = 100
    save_steps: int = 50
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
            max_steps=120,
            save_steps=60,
        ),
        Recipe("haiku", "haiku", rank=8, alpha=32, targets=ATTENTION, layers=(14, 26), learning_rate=2e-3),
        Recipe(
            "777_20251120_031210",
            "support",
            rank=16,
            alpha=32,
            targets=MLP,
            layers=(24, 28),
        ),
        Recipe(
            "telegram",
            "telegram",
            rank=32,
            alpha=16,
            targets=ATTENTION_QV,
            layers=(14, 20),
            rslora=True,
            learning_rate=2e-3,
        ),
    )
}
