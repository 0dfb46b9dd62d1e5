"""From the chunks of `/v1/completions` to the events of a request."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from django.utils.translation import gettext_noop

from inference.backends.interface import Event
from inference.engine.errors import EngineError
from inference.engine.protocol import Done, Logprob, Timings, Token, Usage
from inference.engine.text.vocabulary import Offsets, Vocabulary

from .wire import invalid, parsed

MARK = "token_id:"
LONGEST_ANSWER = 2**24  # characters
REASONS = {"stop": "stop", "length": "length"}


class Answering:
    """One answer as far as it has come. Whatever the fleet says that is not of the form it has raises EngineError."""

    def __init__(
        self,
        request_id: str,
        model: str,
        digest: str,
        most: int,
        alternatives: int | None,
        vocabulary: Vocabulary | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`model`: as whom the fleet has to answer; `most`: tokens at most; `alternatives`: asked for each token."""
        self.id, self.model, self.digest = request_id, model, digest
        self.most = most
        self.alternatives = alternatives
        self.vocabulary = vocabulary
        self.clock = clock
        self.began = clock()
        self.first = self.last = 0.0
        self.usage: Usage = {"prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0}
        self.pieces = 0
        self.chunks = 0
        self.chars = 0
        self.offsets = Offsets()
        self.waiting: list[Logprob] = []  # of tokens that no piece has carried yet
        self.reason = ""
        self.stop: str | None = None
        self.error: Any = None  # what the fleet says in an answer's place, see `refusals.in_stream`

    def take(self, data: str) -> Event | None:
        """The event that a chunk makes, if any. Raises EngineError."""
        return self.take_object(parsed(data))

    def take_object(self, chunk: Any) -> Event | None:
        """The same of a chunk that was read already, or of a whole answer."""
        if not isinstance(chunk, dict):
            raise invalid(gettext_noop("a part of it is not an object"))
        if "error" in chunk:
            self.error = chunk["error"] or {}
            return None
        self.chunks += 1
        if self.chunks > 2 * self.most + 64:
            raise invalid(gettext_noop("it does not come to an end"))
        if chunk.get("model") != self.model:  # never an answer of another adapter than the one that was asked
            raise invalid(gettext_noop("another model answered"))
        self._use(chunk.get("usage"))
        choices = chunk.get("choices")
        if not isinstance(choices, list) or len(choices) > 1:
            raise invalid(gettext_noop("it is not a single answer"))
        return self._choice(choices[0]) if choices else None

    def _choice(self, choice: Any) -> Token | None:
        text = choice.get("text") if isinstance(choice, dict) else None
        if not isinstance(text, str) or self.reason:
            raise invalid(
                gettext_noop("it goes on after its end") if self.reason else gettext_noop("a part of it has no text")
            )
        self.chars += len(text)
        if self.chars > LONGEST_ANSWER:
            raise invalid(gettext_noop("it is too long"))
        if self.vocabulary is not None:
            self.waiting += logprobs(choice.get("logprobs"), self.vocabulary, self.offsets, self.alternatives or 0)
        reason, stop = choice.get("finish_reason"), choice.get("stop_reason")
        if reason is not None:
            if reason not in REASONS:
                raise EngineError("fleet_interrupted", "A replica has given this answer up.")
            self.reason = reason
            self.stop = stop if isinstance(stop, str) else None
        if not text:
            return None
        self.last = self.clock()
        self.first = self.first or self.last
        event: Token = {
            "type": "token", "id": self.id, "index": self.pieces, "text": text,
            "tokens": self.usage["completion_tokens"],
        }  # fmt: skip
        if self.waiting:
            event["logprobs"], self.waiting = self.waiting, []
        self.pieces += 1
        return event

    def _use(self, usage: Any) -> None:
        """Token counts; a chunk without them has one token more."""
        if not isinstance(usage, dict):
            self.usage["completion_tokens"] = min(self.most, self.usage["completion_tokens"] + 1)
            return
        details = usage.get("prompt_tokens_details")
        self.usage = {
            "prompt_tokens": count(usage.get("prompt_tokens")),
            "completion_tokens": min(self.most, count(usage.get("completion_tokens"))),
            "cached_tokens": count(details.get("cached_tokens") or 0) if isinstance(details, dict) else 0,
        }

    def leave_out(self) -> None:
        """The one token that the fleet wrote where no answer was wanted."""
        self.reason, self.stop, self.waiting = "length", None, []
        self.usage = {**self.usage, "completion_tokens": 0}

    def done(self, reason: str = "") -> Done:
        """The final event. `reason`: where it is not the fleet's own, as of one that was cancelled."""
        event: Done = {
            "type": "done",
            "id": self.id,
            "finish_reason": reason or REASONS[self.reason],  # type: ignore[typeddict-item]
            "usage": self.usage,
            "timings": self.timings(),
            "digest": self.digest,
        }
        if self.stop is not None and not reason:
            event["stop"] = self.stop
        if self.waiting:
            event["logprobs"] = self.waiting
        return event

    def timings(self) -> Timings:
        """As they are seen from here. How long a replica let it wait is not told, and counts as reading the prompt."""
        now = self.clock()
        span, decoded = self.last - self.first, self.usage["completion_tokens"] - 1
        return {
            "queue": 0.0,
            "load": 0.0,
            "ttft": round((self.first or now) - self.began, 4),
            "total": round(now - self.began, 4),
            "tokens_per_second": round(decoded / span, 2) if decoded > 0 and span > 0 else 0.0,
        }


def count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**31:
        raise invalid(gettext_noop("a token count is not a number"))
    return value


def logprobs(said: Any, vocabulary: Vocabulary, offsets: Offsets, alternatives: int) -> list[Logprob]:
    """Of the tokens of one chunk, each named by its id."""
    if said is None:
        return []
    try:
        tokens, values, tops = said["tokens"], said["token_logprobs"], said["top_logprobs"]
        return [
            one(id_of(token), float(value), top or {}, vocabulary, offsets, alternatives)
            for token, value, top in zip(tokens, values, tops, strict=True)
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise invalid(gettext_noop("its logprobs are invalid")) from error


def one(
    token: int, logprob: float, top: dict[str, float], vocabulary: Vocabulary, offsets: Offsets, alternatives: int
) -> Logprob:
    text, raw = vocabulary.alone(token)
    ranked = sorted(((float(value), id_of(name)) for name, value in top.items()), key=lambda pair: -pair[0])
    found: list[tuple[str, int, float, list[int] | None]] = []
    for value, other in ranked[:alternatives]:
        name, its_bytes = vocabulary.alone(other)
        found.append((name, other, value, its_bytes))
    return {
        "token": text,
        "token_id": token,
        "logprob": logprob,
        "bytes": raw,
        "offset": offsets.take(bytes(raw or ())),
        "top": found,
    }


def id_of(name: str) -> int:
    """Raises ValueError."""
    if not isinstance(name, str) or not name.startswith(MARK):
        raise ValueError("no token id")
    return int(name.removeprefix(MARK))
