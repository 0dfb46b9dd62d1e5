"""From sampled tokens to the events of a request: text, stops, the end, usage and timings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inference.engine.scheduling.sequence import Sequence

from .protocol import Event
from .runner_interface import BaseInfo, Choice


class Delivery:
    def __init__(self, send: Callable[[Event], None]) -> None:
        self.send = send

    def token(self, sequence: Sequence, choice: Choice, info: BaseInfo, now: float) -> str | None:
        """Take in one sampled token; returns the finish reason where it was the last."""
        sequence.tokens.append(choice.token)
        sequence.first_token = sequence.first_token or now
        sequence.last_token = now
        if choice.logprobs is not None:
            sequence.logprobs.append(choice.logprobs)
        end_of_text = choice.token in info.eos and not sequence.params.ignore_eos
        if not end_of_text:
            self.piece(sequence, sequence.text.push(choice.token))
        if sequence.text.matched is not None:
            return "stop"
        full = sequence.generated >= sequence.params.max_tokens or len(sequence.tokens) >= info.context
        if end_of_text or choice.ended:
            reason = "stop"
        elif full:
            reason = "length"
        else:
            return None
        self.piece(sequence, sequence.text.finish())
        return "stop" if sequence.text.matched is not None else reason

    def piece(self, sequence: Sequence, text: str) -> None:
        if not text:
            return
        event: dict[str, Any] = {
            "type": "token", "id": sequence.id, "index": sequence.pieces, "text": text, "tokens": sequence.generated
        }  # fmt: skip
        if sequence.logprobs:
            event["logprobs"] = sequence.logprobs
            sequence.logprobs = []
        sequence.pieces += 1
        self.send(event)  # type: ignore[arg-type]

    def done(self, sequence: Sequence, reason: str, now: float) -> None:
        decoded = sequence.generated - 1
        span = sequence.last_token - sequence.first_token
        first = sequence.first_token or now
        event: dict[str, Any] = {
            "type": "done",
            "id": sequence.id,
            "finish_reason": reason,
            "usage": {
                "prompt_tokens": sequence.prompt_length,
                "completion_tokens": sequence.generated,
                "cached_tokens": sequence.cached,
            },
            "timings": {
                "queue": round((sequence.admitted or now) - sequence.arrived, 4),
                "load": round(sequence.load_seconds, 4),
                "ttft": round(first - sequence.arrived, 4),
                "total": round(now - sequence.arrived, 4),
                "tokens_per_second": round(decoded / span, 2) if decoded > 0 and span > 0 else 0.0,
            },
            "digest": sequence.adapter or sequence.base_key,
        }
        if sequence.text.matched is not None:
            event["stop"] = sequence.text.matched
        if sequence.logprobs:
            event["logprobs"] = sequence.logprobs
        self.send(event)  # type: ignore[arg-type]
