"""The objects that OpenAI's calls answer with, whole and in chunks."""

from __future__ import annotations

import operator
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from common import answers as shapes
from inference.api.parts import BlendPartObject
from inference.engine.protocol import Done, Logprob, PromptLogprob, PromptPart, Timings, Token, Usage
from inference.gateway.asking import WholeAnswer
from inference.gateway.targets import BlendPart

REASONS = {"stop": "stop", "length": "length", "cancelled": "stop"}


class PromptDetails(shapes.Answer):
    cached_tokens: int


class OpenAIUsage(shapes.Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class AnswerMessage(shapes.Answer):
    role: Literal["assistant"]
    content: str
    refusal: str | None


class Choice(shapes.Answer):
    index: int
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]


class ChatChoice(Choice):
    message: AnswerMessage


class CompletionChoice(Choice):
    text: str


class Whole(shapes.Answer):
    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str = Field(
        description="Content hash of the adapter that answered, the base's key, or of a blend's recipe."
    )
    adapters: list[BlendPartObject] = Field([], exclude_if=operator.not_, description="A blend's recipe.")
    usage: OpenAIUsage
    timings: Timings | None


class ChatAnswer(Whole):
    choices: list[ChatChoice]


class CompletionAnswer(Whole):
    choices: list[CompletionChoice]


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
    answer = ChatAnswer
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def opening(self, choice: int) -> dict[str, Any] | None:
        return self.delta(choice, {"role": "assistant", "content": ""})

    def prompt(self, choice: int, event: PromptPart) -> dict[str, Any] | None:
        return None

    def piece(self, choice: int, event: Token) -> dict[str, Any]:
        return self.delta(choice, {"content": event["text"]}, event.get("logprobs"))

    def closing(self, choice: int, event: Done) -> dict[str, Any]:
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

    def whole(self, choice: int, answer: WholeAnswer, logprobs: bool) -> dict[str, Any]:
        return {
            "index": choice,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": self.logprobs(answer.logprobs) if logprobs else None,
            "finish_reason": REASONS[answer.finish_reason],
        }

    def logprobs(self, items: Sequence[Logprob]) -> dict[str, Any]:
        content = [
            entry(item["token"], item["logprob"], item["bytes"])
            | {"top_logprobs": [entry(token, logprob, raw) for token, _id, logprob, raw in item["top"]]}
            for item in items
        ]
        return {"content": content, "refusal": None}


class CompletionShape:
    """POST /v1/completions. An echoed prompt is told as the beginning of the answer."""

    prefix = "cmpl-"
    answer = CompletionAnswer
    whole_object = chunk_object = "text_completion"

    def opening(self, choice: int) -> dict[str, Any] | None:
        return None

    def prompt(self, choice: int, event: PromptPart) -> dict[str, Any] | None:
        return self.text(choice, event["text"], event["logprobs"] or None, None)

    def piece(self, choice: int, event: Token) -> dict[str, Any]:
        return self.text(choice, event["text"], event.get("logprobs"), None)

    def closing(self, choice: int, event: Done) -> dict[str, Any]:
        return self.text(choice, "", event.get("logprobs"), REASONS[event["finish_reason"]])

    def whole(self, choice: int, answer: WholeAnswer, logprobs: bool) -> dict[str, Any]:
        told: list[Told] | None = [*answer.prompt_logprobs, *answer.logprobs] if logprobs else None
        return self.text(choice, answer.echo + answer.text, told, REASONS[answer.finish_reason])

    def text(self, choice: int, text: str, logprobs: Sequence[Told] | None, reason: str | None) -> dict[str, Any]:
        listed = self.logprobs(logprobs) if logprobs is not None else None
        return {"index": choice, "text": text, "logprobs": listed, "finish_reason": reason}

    def logprobs(self, items: Sequence[Told]) -> dict[str, Any]:
        return {
            "tokens": [distinct(item["token"], item["bytes"]) for item in items],
            "token_logprobs": [item["logprob"] for item in items],
            "top_logprobs": [alternatives(item) for item in items],
            "text_offset": [item["offset"] for item in items],
        }


Shape = ChatShape | CompletionShape
Told = Logprob | PromptLogprob


def entry(token: str, logprob: float, raw: list[int] | None) -> dict[str, Any]:
    """As OpenAI's chat has it: bytes that are no whole character are written by their values."""
    text = token if raw is None else bytes(raw).decode("utf-8", "backslashreplace")
    return {"token": text, "logprob": logprob, "bytes": raw}


def distinct(token: str, raw: list[int] | None) -> str:
    """As OpenAI's older call has it."""
    try:
        bytes(raw or ()).decode()
    except UnicodeDecodeError as error:
        return "bytes:" + error.object.decode("utf-8", "backslashreplace")
    return token


def alternatives(item: Told) -> dict[str, float] | None:
    """As many as were asked for, and the chosen token. Two tokens may read alike. None for a prompt's first token."""
    if item["logprob"] is None:
        return None
    found: dict[str, float] = {}
    for token, number, logprob, raw in item["top"]:
        name = distinct(token, raw)
        found[name if name not in found else f"token_id:{number}"] = logprob
    if all(number != item["token_id"] for _token, number, _logprob, _raw in item["top"]):
        found.setdefault(distinct(item["token"], item["bytes"]), item["logprob"])
    return found


class Envelope:
    """What every object of one request shares: id, time, model, and the digest of what answers."""

    def __init__(self, shape: Shape, model: str, digest: str, recipe: Sequence[BlendPart] = ()) -> None:
        self.shape = shape
        self.common: dict[str, Any] = {
            "id": shape.prefix + secrets.token_hex(12),
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": digest,
        }
        if recipe:
            self.common["adapters"] = [BlendPartObject.of(part) for part in recipe]

    @property
    def id(self) -> str:
        return str(self.common["id"])

    def chunk(self, choices: list[dict[str, Any]], **extra: Any) -> dict[str, Any]:
        return {**self.common, "object": self.shape.chunk_object, "choices": choices, **extra}

    def whole(self, answers: Sequence[WholeAnswer], n: int, logprobs: bool) -> dict[str, Any]:
        return self.shape.answer.of(
            **self.common,
            object=self.shape.whole_object,
            choices=[self.shape.whole(choice, answer, logprobs) for choice, answer in enumerate(answers)],
            usage=total_usage({choice: answer.usage for choice, answer in enumerate(answers)}, n),
            timings=max((answer.timings for answer in answers), key=lambda timings: timings["total"]),
        )
