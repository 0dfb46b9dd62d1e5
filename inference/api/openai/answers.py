"""The objects that OpenAI's calls answer with, whole and in chunks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from inference.engine.protocol import Done, Logprob, Token, Usage
from inference.gateway.asking import Answer

REASONS = {"stop": "stop", "length": "length", "cancelled": "stop"}


def total_usage(usages: Mapping[int, Usage], n: int) -> dict[str, Any]:
    """Of all choices of one request, as OpenAI counts: a prompt once, however many answers (`n`) it got."""
    asked = [usage for choice, usage in usages.items() if choice % n == 0]
    prompt = sum(usage["prompt_tokens"] for usage in asked)
    completion = sum(usage["completion_tokens"] for usage in usages.values())
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(usage["cached_tokens"] for usage in asked)},
    }


class ChatShape:
    """POST /v1/chat/completions."""

    prefix = "chatcmpl-"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def opening(self, choice: int) -> dict[str, Any] | None:
        return self.delta(choice, {"role": "assistant", "content": ""})

    def piece(self, choice: int, event: Token, before: int) -> dict[str, Any]:
        return self.delta(choice, {"content": event["text"]}, event.get("logprobs"))

    def closing(self, choice: int, event: Done, before: int) -> dict[str, Any]:
        return self.delta(choice, {}, event.get("logprobs"), REASONS[event["finish_reason"]])

    def delta(
        self,
        choice: int,
        delta: Mapping[str, Any],
        logprobs: Sequence[Logprob] | None = None,
        reason: str | None = None,
    ) -> dict[str, Any]:
        return {
            "index": choice,
            "delta": delta,
            "logprobs": self.logprobs(logprobs) if logprobs else None,
            "finish_reason": reason,
        }

    def whole(self, choice: int, answer: Answer, logprobs: bool) -> dict[str, Any]:
        return {
            "index": choice,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": self.logprobs(answer.logprobs) if logprobs else None,
            "finish_reason": REASONS[answer.finish_reason],
        }

    def logprobs(self, items: Sequence[Logprob]) -> dict[str, Any]:
        content = [
            entry(item["token"], item["logprob"])
            | {"top_logprobs": [entry(token, logprob) for token, _id, logprob in item["top"]]}
            for item in items
        ]
        return {"content": content, "refusal": None}


class CompletionShape:
    """POST /v1/completions."""

    prefix = "cmpl-"
    whole_object = chunk_object = "text_completion"

    def opening(self, choice: int) -> dict[str, Any] | None:
        return None

    def piece(self, choice: int, event: Token, before: int) -> dict[str, Any]:
        return self.text(choice, event["text"], event.get("logprobs"), None, before)

    def closing(self, choice: int, event: Done, before: int) -> dict[str, Any]:
        return self.text(choice, "", event.get("logprobs"), REASONS[event["finish_reason"]], before)

    def whole(self, choice: int, answer: Answer, logprobs: bool) -> dict[str, Any]:
        return self.text(choice, answer.text, answer.logprobs if logprobs else None, REASONS[answer.finish_reason], 0)

    def text(
        self,
        choice: int,
        text: str,
        logprobs: Sequence[Logprob] | None,
        reason: str | None,
        before: int,
    ) -> dict[str, Any]:
        """`before`: characters of the answer that earlier chunks carried; offsets count from the answer's start."""
        listed = self.logprobs(logprobs, before) if logprobs is not None else None
        return {"index": choice, "text": text, "logprobs": listed, "finish_reason": reason}

    def logprobs(self, items: Sequence[Logprob], before: int) -> dict[str, Any]:
        offsets: list[int] = []
        for item in items:
            offsets.append(before)
            before += len(item["token"])
        return {
            "tokens": [item["token"] for item in items],
            "token_logprobs": [item["logprob"] for item in items],
            "top_logprobs": [{token: logprob for token, _id, logprob in item["top"]} for item in items],
            "text_offset": offsets,
        }


Shape = ChatShape | CompletionShape


def entry(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", "replace"))}


class Envelope:
    """What every object of one request shares: id, time, model, and the digest of what answers."""

    def __init__(self, shape: Shape, model: str, digest: str) -> None:
        self.shape = shape
        self.common = {
            "id": shape.prefix + secrets.token_hex(12),
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": digest,
        }

    @property
    def id(self) -> str:
        return str(self.common["id"])

    def chunk(self, choices: list[dict[str, Any]], **extra: Any) -> dict[str, Any]:
        return {**self.common, "object": self.shape.chunk_object, "choices": choices, **extra}

    def whole(self, answers: Sequence[Answer], n: int, logprobs: bool) -> dict[str, Any]:
        return {
            **self.common,
            "object": self.shape.whole_object,
            "choices": [self.shape.whole(choice, answer, logprobs) for choice, answer in enumerate(answers)],
            "usage": total_usage({choice: answer.usage for choice, answer in enumerate(answers)}, n),
            "timings": max((answer.timings for answer in answers), key=lambda timings: timings["total"]),
        }
