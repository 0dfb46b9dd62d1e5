"""From logits to tokens: penalties, temperature, top-k, top-p, min-p, seeds, logprobs.

Each sequence draws from a generator of its own, so its text depends on its seed and logits and not on who else is in
the batch. The order of the filters is Transformers': penalties, temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inference.engine.faults import ENDS_PROCESS
from inference.engine.params import SamplingParams

GUESS = 256  # candidates tried before a full sort of the vocabulary
COLDEST = 1e-5  # below this temperature only the most likely token is left, as in vLLM; float32 could not divide by it


@dataclass
class Sampled:
    """`token` is -1 where the logits were not finite, or where `error` ended the choice. `top` lists (token, logprob),
    most likely first."""

    token: int
    logprob: float | None = None
    top: list[tuple[int, float]] | None = None
    error: BaseException | None = None


def generator(params: SamplingParams) -> torch.Generator:
    made = torch.Generator(device="cpu")
    if params.seed is None:
        made.seed()
    else:
        made.manual_seed(params.seed)
    return made


def penalise(row: Tensor, prompt: list[int], answer: list[int], params: SamplingParams) -> Tensor:
    """Repetition penalty (Keskar et al. 2019, over prompt and answer) and OpenAI's presence and frequency penalties
    (over the answer) on logits (vocabulary,)."""
    row = row.clone()
    if params.repetition_penalty != 1.0 and (prompt or answer):
        # An embedding may have more rows than there are logits.
        known = sorted(token for token in {*prompt, *answer} if token < row.shape[0])
        seen = torch.tensor(known, dtype=torch.long, device=row.device)
        values = row[seen]
        penalty = params.repetition_penalty
        row[seen] = torch.nan_to_num(torch.where(values > 0, values / penalty, values * penalty))  # may be 1e-300
    if answer and (params.presence_penalty or params.frequency_penalty):
        seen, counts = torch.unique(torch.tensor(answer, device=row.device), return_counts=True)
        row[seen] -= params.presence_penalty + params.frequency_penalty * counts.to(row.dtype)
    return row


def needs_penalty(params: SamplingParams) -> bool:
    return params.repetition_penalty != 1.0 or bool(params.presence_penalty or params.frequency_penalty)


def candidates(row: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """Probabilities and token ids, most likely first, that temperature, top-k, top-p and min-p leave.

    Exact whatever `GUESS` is: the guess only serves where it provably holds every token that can be drawn.
    """
    scaled = (row - row.max()).float() / params.temperature
    total = torch.logsumexp(scaled, dim=-1)
    size = scaled.shape[-1]
    if 0 < params.top_k < size:
        kept, ids = torch.topk(scaled, params.top_k)
        total = torch.logsumexp(kept, dim=-1)  # top-p and min-p act on what top-k left
    elif params.top_p < 1.0 or params.min_p > 0.0:
        kept, ids = torch.topk(scaled, min(GUESS, size))
        enough = torch.exp(kept - total)
        covered = float(enough.sum()) >= params.top_p if params.top_p < 1.0 else False
        below = params.min_p > 0.0 and float(enough[-1]) < params.min_p * float(enough[0])
        if not covered and not below:
            kept, ids = torch.sort(scaled, descending=True)
    else:
        return torch.softmax(scaled, dim=-1), torch.arange(size, device=row.device)
    probs = torch.exp(kept - total)
    keep = torch.ones_like(probs, dtype=torch.bool)
    if params.top_p < 1.0:
        # A token stays while the mass before it is below top_p; the first always stays.
        keep &= torch.cumsum(probs, dim=-1) - probs < params.top_p
    if params.min_p > 0.0:
        keep &= probs >= params.min_p * probs[0]
    keep[0] = True
    return probs[keep], ids[keep]


def draw(probs: Tensor, ids: Tensor, random: torch.Generator) -> int:
    """One token by the inverse of the cumulative distribution, in double precision."""
    mass = torch.cumsum(probs.double().cpu(), dim=-1)
    point = torch.rand(1, generator=random, dtype=torch.float64) * mass[-1]
    index = int(torch.searchsorted(mass, point, right=True).clamp(max=mass.shape[-1] - 1))
    return int(ids[index])


@dataclass
class Drawing:
    """What the sampler needs of one sequence."""

    params: SamplingParams
    tokens: list[int]
    prompt_length: int
    random: torch.Generator | None
    banned: list[int]  # for example end-of-text before min_tokens
    grammar: Any = None  # an object with `mask(row) -> Tensor`, see grammar.py
    logits: int | None = None  # how many of the row are its own; None: all


def sample(logits: Tensor, asks: list[Drawing]) -> list[Sampled]:
    """One token for each row of logits (rows, vocabulary), of which a row may have fewer, with minus infinity behind.
    What fails at one row is kept in its `error`: the others have drawn from their generators by then, and must not draw
    again."""
    if not asks:
        return []
    logits = logits.float()
    best, argmax = torch.max(logits, dim=-1)
    finite = torch.isfinite(best).tolist()
    greedy = argmax.tolist()
    out = []
    for index, ask in enumerate(asks):
        if not finite[index]:
            out.append(Sampled(-1))
            continue
        try:
            out.append(choose(logits[index, : ask.logits], ask, greedy[index]))
        except ENDS_PROCESS:
            raise
        except BaseException as error:  # noqa: BLE001  (a grammar may panic; the other rows have their tokens)
            out.append(Sampled(-1, error=error))
    return out


def choose(row: Tensor, ask: Drawing, best: int) -> Sampled:
    """One token by logits (vocabulary,), whose most likely is `best`."""
    params, own = ask.params, row
    changed = needs_penalty(params)
    if changed:
        row = penalise(row, ask.tokens[: ask.prompt_length], ask.tokens[ask.prompt_length :], params)
    if ask.banned or ask.grammar is not None:
        row = row if changed else row.clone()
        changed = True
        if ask.grammar is not None:
            row = ask.grammar.mask(row)
        row[[token for token in ask.banned if token < row.shape[0]]] = float("-inf")
    if params.temperature < COLDEST:
        token = int(torch.argmax(row)) if changed else best
    else:
        assert ask.random is not None  # noqa: S101  (for the type checker)
        token = draw(*candidates(row, params), ask.random)
    return with_logprobs(own, token, params.logprobs)


def with_logprobs(row: Tensor, token: int, count: int | None) -> Sampled:
    """Logprobs of the model itself, before penalties and temperature, as vLLM and OpenAI report them."""
    if count is None:
        return Sampled(token)
    logprobs = torch.log_softmax(row, dim=-1)
    top: list[tuple[int, float]] = []
    if count:
        values, ids = torch.topk(logprobs, min(count, row.shape[-1]))
        top = list(zip(ids.tolist(), values.tolist(), strict=True))
    return Sampled(token, float(logprobs[token]), top)
