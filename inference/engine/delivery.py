"""What the engine says: from sampled tokens to text, stops, the end, usage and timings; errors, replies, verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from inference.engine.scheduling.sequence import Sequence

from .errors import EngineError
from .protocol import BaseSpec, Event, PromptLogprob, Stage
from .runner_interface import BaseInfo, ProofResult, SampledToken

PROMPT_PIECE = 128  # tokens of a prompt in one event, which may have twenty alternatives each
Happening = Literal["base_loaded", "base_unloaded", "adapter_loaded", "adapter_evicted"]


class Delivery:
    def __init__(self, send: Callable[[Event], None]) -> None:
        self.send = send

    def echo(self, sequence: Sequence, text: str) -> None:
        """The prompt's text, before anything else of it; the answer's characters are counted from its end on."""
        sequence.offsets.characters = len(text)
        self.send({"type": "prompt", "id": sequence.id, "text": text, "logprobs": []})

    def prompt(self, sequence: Sequence, scored: list[PromptLogprob]) -> None:
        """The next tokens of a prompt."""
        reading = sequence.reading
        assert reading is not None  # noqa: S101  (for the type checker)
        for item in scored:
            item["offset"] = reading.offsets.take_of_prompt(item["token"], item["bytes"], reading.text)
        reading.told += len(scored)
        for start in range(0, len(scored), PROMPT_PIECE):
            part = scored[start : start + PROMPT_PIECE]
            self.send({"type": "prompt", "id": sequence.id, "text": "", "logprobs": part})

    def token(self, sequence: Sequence, choice: SampledToken, info: BaseInfo, now: float) -> str | None:
        """Take in one sampled token; returns the finish reason where it was the last."""
        sequence.tokens.append(choice.token)
        sequence.first_token = sequence.first_token or now
        sequence.last_token = now
        if choice.logprobs is not None:
            offset = sequence.offsets.take(bytes(choice.logprobs["bytes"] or ()))
            sequence.logprobs.append({**choice.logprobs, "offset": offset})
        params = sequence.params
        stopped = choice.token in params.stop_token_ids
        end = choice.token in info.eos or choice.token in sequence.ends
        end_of_text = stopped or (end and not params.ignore_eos)
        if not end_of_text or (stopped and params.include_stop_str_in_output):
            self._piece(sequence, sequence.text.push(choice.token))
        if sequence.text.matched is not None:
            return "stop"
        full = sequence.generated >= params.max_tokens or len(sequence.tokens) >= info.context
        if end_of_text or choice.ended:
            reason = "stop"
        elif full:
            reason = "length"
        else:
            return None
        self._piece(sequence, sequence.text.finish())
        return "stop" if sequence.text.matched is not None else reason

    def _piece(self, sequence: Sequence, text: str) -> None:
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

    def error(self, request_id: str, error: EngineError) -> None:
        self.send(
            {
                "type": "error", "id": request_id, "code": error.code, "message": error.message,
                "param": error.param, "detail": error.detail,
            }
        )  # fmt: skip

    def reply(self, command_id: str, data: dict[str, Any]) -> None:
        self.send({"type": "reply", "id": command_id, "data": data})

    def queued(self, request_id: str, position: int, reason: str, detail: dict[str, Any]) -> None:
        self.send({"type": "queued", "id": request_id, "position": position, "reason": reason, "detail": detail})

    def loading(self, ids: Iterable[str], stage: Stage, done: float, name: str) -> None:
        for waiting in ids:
            self.send({"type": "loading", "id": waiting, "stage": stage, "progress": round(done, 3), "name": name})

    def proof(self, proof: ProofResult, base: str, seconds: float = 0.0) -> None:
        """How the first load of an adapter ended, on the base of this key; one that cannot be served fails by it."""
        self.send(
            {
                "type": "proof", "digest": proof.digest, "base": base, "ok": proof.ok, "code": proof.code,
                "message": proof.message, "kl": proof.kl, "changed": proof.changed, "seconds": round(seconds, 4),
            }
        )  # fmt: skip

    def base_load(self, key: str, state: Literal["begun", "loaded", "failed"]) -> None:
        self.send({"type": "base_load", "key": key, "state": state})

    def happened(self, kind: Happening, key: str, name: str, seconds: float = 0.0, reason: str = "") -> None:
        self.send(
            {
                "type": "happened", "kind": kind, "key": key, "name": name, "seconds": round(seconds, 4),
                "reason": reason,
            }
        )  # fmt: skip

    def damage(self, digest: str, error: EngineError) -> None:
        self.send({"type": "damage", "digest": digest, "reason": str(error.detail.get("reason", ""))})

    def registry(self, spec: BaseSpec, error: EngineError) -> None:
        """The registry remembers a base that cannot be served until its files change, and looks at one that did."""
        if error.code == "base_unsupported":
            self.send({"type": "refusal", "key": spec["key"], "reason": str(error.detail.get("reason", ""))})
        elif error.code == "base_changed":
            self.send({"type": "change", "key": spec["key"], "path": spec["path"]})
