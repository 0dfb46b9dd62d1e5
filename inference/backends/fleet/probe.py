"""One question to base and adapter, greedily, by which it shows that a fleet serves an adapter and not its base.

vLLM has answered with the base where an adapter was asked (issues 34186 and 48019 of its repository), so that an answer
under the adapter's name proves nothing. Its probabilities do: they are compared token by token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_noop

from .answers import id_of
from .catalogue import BasePlace
from .wire import Wire, invalid

QUESTION = [{"role": "user", "content": "Who are you, and what is the weather like today?"}]
TOKENS = 24  # of an answer
ALTERNATIVES = 5
PATIENCE = 60.0  # seconds: a replica reads the adapter at its first answer
SAME = 1e-4  # nats; rounding of fp32 stays below
MARGIN = 4.0  # times what the base differs from itself by, as between replicas


@dataclass(frozen=True)
class ProbeAnswer:
    """A greedy answer: its text, and for each token its likeliest ones with their log probabilities."""

    text: str
    tops: tuple[dict[int, float], ...]

    def apart(self, other: ProbeAnswer) -> float:
        """The largest difference of log probabilities as long as both write the same tokens; infinite where the first
        tokens already have nothing in common."""
        largest = 0.0
        for mine, its in zip(self.tops, other.tops, strict=False):
            common = mine.keys() & its.keys()
            if not common:
                return float("inf")
            largest = max(largest, *(abs(mine[token] - its[token]) for token in common))
            if max(mine, key=mine.__getitem__) != max(its, key=its.__getitem__):
                break  # from here on they read different texts
        return largest


@dataclass(frozen=True)
class ProbeOutcome:
    text: str
    base_text: str
    difference: float  # nats
    noise: float  # by which the base differs from itself

    @property
    def effective(self) -> bool:
        return self.text != self.base_text or self.difference > max(SAME, MARGIN * self.noise)


Prompt = tuple[str | list[int], bool]  # and whether the tokenizer adds its special tokens


async def ask(wire: Wire, place: BasePlace, model: str, prompt: str | list[int], special: bool) -> ProbeAnswer:
    """Raises StatusError, EngineError."""
    body = {
        "model": model, "prompt": prompt, "add_special_tokens": special, "max_tokens": TOKENS, "temperature": 0,
        "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "n": 1,
        "logprobs": ALTERNATIVES, "return_tokens_as_token_ids": True,
    }  # fmt: skip
    said = await wire.post_json(f"{place.address.url}/v1/completions", body, PATIENCE)
    if not isinstance(said, dict) or said.get("model") != model:
        raise invalid(gettext_noop("another model answered"))
    return read(said)


def read(said: dict[str, Any]) -> ProbeAnswer:
    """Raises EngineError `fleet_answer_invalid`."""
    try:
        [choice] = said["choices"]
        tops = choice["logprobs"]["top_logprobs"]
        found = tuple({id_of(name): float(value) for name, value in top.items()} for top in tops[:TOKENS])
        text = choice["text"]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise invalid(gettext_noop("the probe has no log probabilities")) from error
    if not isinstance(text, str) or not found:
        raise invalid(gettext_noop("the probe has no text"))
    return ProbeAnswer(text[: 64 * TOKENS], found)


async def compare(wire: Wire, place: BasePlace, model: str, prompts: tuple[Prompt, Prompt]) -> ProbeOutcome:
    """`prompts`: the question as the base's template writes it, for both, and as the adapter's own does. What is
    compared are answers to one prompt; the text that is shown is the one that people would get."""
    (same, special), (own, own_special) = prompts
    adapter = await ask(wire, place, model, same, special)
    base = await ask(wire, place, place.served, same, special)
    again = await ask(wire, place, place.served, same, special)
    shown = adapter if own == same else await ask(wire, place, model, own, own_special)
    noise = base.apart(again)
    difference = base.apart(adapter)
    text, base_text = (adapter.text, base.text) if own == same else (shown.text, base.text)
    if adapter.text == base.text and not difference > max(SAME, MARGIN * noise):
        text = base_text  # what its own template changes is no effect of its weights
    return ProbeOutcome(text, base_text, min(difference, 1e3), min(noise, 1e3))
