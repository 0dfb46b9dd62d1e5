"""Strengths of players who met in pairs, by the model of Bradley and Terry."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PRIOR = 0.5  # wins, and as many losses, that every player is given against one of strength 0
LONGEST_STEP = 1.0
MOST_STEPS = 200
CLOSE = 1e-9


def strengths(wins: Array, prior: float = PRIOR) -> Array:
    """Strengths b with the mean 0, in natural log odds. Shape of `wins` (..., n, n), of the result (..., n).

    `wins[i, j]`: how often i won against j, a tie being half a win of each. The model (Bradley and Terry 1952,
    "Rank analysis of incomplete block designs: I", Biometrika 39):

        P(i beats j) = p_ij = 1 / (1 + exp(b_j - b_i))

    What is returned is where sum_ij wins_ij ln p_ij + prior * sum_i ln(p_i0 p_0i) is greatest. The second sum is the
    prior: everybody won and lost so often against a player 0 of strength 0. With it the strength of who never lost, or
    never won, is finite, and there is exactly one solution. Newton's method; the function is concave.
    """
    if prior <= 0:
        raise ValueError("without a prior there may be no solution")
    met = wins + np.swapaxes(wins, -1, -2)
    found = np.zeros(wins.shape[:-1])
    diagonal = np.arange(wins.shape[-1])
    for _step in range(MOST_STEPS):
        chance = _chance(found[..., :, None] - found[..., None, :])
        own = _chance(found)
        slope = (wins - met * chance).sum(axis=-1) + prior * (1 - 2 * own)
        bend = met * chance * (1 - chance)
        curvature = -bend
        curvature[..., diagonal, diagonal] += bend.sum(axis=-1) + 2 * prior * own * (1 - own)
        step = np.linalg.solve(curvature, slope[..., None])[..., 0]
        reach = np.abs(step).max(axis=-1, keepdims=True)
        found += step * np.minimum(1.0, LONGEST_STEP / np.maximum(reach, CLOSE))
        if reach.max() < CLOSE:
            break
    return found - found.mean(axis=-1, keepdims=True)


def _chance(difference: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(difference, -500, 500)))


def interval(players: int, met: Array, groups: int, samples: int, seed: int) -> tuple[Array, Array]:
    """Lower and upper ends of the 95 % intervals of the strengths, each of shape (players,).

    `met`: rows of (group, one, other, score of one: 1, 0.5 or 0). Efron's percentile bootstrap over the groups, which
    are what was drawn independently: the questions, with all comparisons of the answers to each.
    """
    group, one, other = (met[:, column].astype(np.intp) for column in range(3))
    score = met[:, 3]
    chance = np.random.default_rng(seed)
    size = players * players
    wins = np.empty((samples, players, players))
    for sample in range(samples):
        times = np.bincount(chance.integers(0, groups, groups), minlength=groups)[group]
        flat = np.bincount(one * players + other, times * score, size)
        flat += np.bincount(other * players + one, times * (1 - score), size)
        wins[sample] = flat.reshape(players, players)
    low, high = np.percentile(strengths(wins), [2.5, 97.5], axis=0)
    return low, high
