"""One adapter made of several, exactly: their ranks side by side.

    Σ wᵢ sᵢ Bᵢ Aᵢ  =  [w₁ s₁ B₁ … wₙ sₙ Bₙ] [A₁; …; Aₙ]

for members i with weights w and scalings s (PEFT's `add_weighted_adapter` calls it "cat"). A layer that only some of
them have gets only theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from inference.engine.errors import EngineError
from inference.engine.recipes import MAX_RANK

from .bank import AdapterFile, AdapterPairs, Own, Pair

Part = tuple[AdapterFile, float]  # a member and its weight


def joined(digest: str, name: str, parts: Sequence[Part]) -> AdapterFile:
    """The members as one adapter in fp32, with weights and scalings in its B matrices.

    Raises EngineError `blend_rank_exceeded`.
    """
    found: dict[str, dict[tuple[int, int], list[Pair]]] = {}
    for read, weight in parts:
        for key, kind in read.kinds.items():
            for pair in kind.pairs:
                places = found.setdefault(key, {})
                places.setdefault((pair.layer, pair.member), []).append(pair._replace(scale=pair.scale * weight))
    ranks = {key: ranks_of(parts, key, places) for key, places in found.items()}
    own, scales = embeddings(parts)
    embedded = max((len(roles["embedding_A"]) for roles in own.values()), default=0)
    top = max((embedded, *(max(each) for each in ranks.values())))
    if top > MAX_RANK:
        message = f"The members' ranks come to {top}; a blend may have {MAX_RANK}."
        raise EngineError("blend_rank_exceeded", message, name=name, rank=top, limit=MAX_RANK)
    kinds = {key: AdapterPairs(ranks[key], [one(pairs) for pairs in places.values()]) for key, places in found.items()}
    return AdapterFile(digest, name, top, kinds, own, scales)


def ranks_of(parts: Sequence[Part], key: str, places: dict[tuple[int, int], list[Pair]]) -> tuple[int, ...]:
    """Of each member of the group the largest over its layers."""
    ranks = [0] * next(len(read.kinds[key].ranks) for read, _ in parts if key in read.kinds)
    for (_, member), pairs in places.items():
        ranks[member] = max(ranks[member], sum(len(pair.a) for pair in pairs))
    return tuple(ranks)


def one(pairs: Sequence[Pair]) -> Pair:
    """The pairs of one layer as one; what stands alone stays as the file has it."""
    if len(pairs) == 1:
        return pairs[0]
    a = torch.cat([pair.a.float() for pair in pairs])
    b = torch.cat([pair.b.float() * pair.scale for pair in pairs], dim=1)
    return Pair(pairs[0].layer, pairs[0].member, a, b, 1.0)


def embeddings(parts: Sequence[Part]) -> tuple[Own, dict[str, float]]:
    """LoRA's matrices on embeddings, joined alike: A (rank, vocabulary), B (width, rank)."""
    found: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for read, weight in parts:
        for path, roles in read.own.items():
            a, b = roles.get("embedding_A"), roles.get("embedding_B")
            if a is not None and b is not None:
                found.setdefault(path, []).append((a.float(), b.float() * (read.scales[path] * weight)))
    own: Own = {}
    for path, pairs in found.items():
        own[path] = {
            "embedding_A": torch.cat([a for a, _ in pairs]),
            "embedding_B": torch.cat([b for _, b in pairs], dim=1),
        }
    return own, dict.fromkeys(own, 1.0)
