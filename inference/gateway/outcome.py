"""What one request comes to, gathered while it is answered and posted once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from accounts.grants import Grant
from common.api import ApiError, code_of
from common.request_ids import began, request_id, traceparent
from inference.backends.interface import CHARS_OF_TOKEN, Reading, Request
from inference.engine.params import SamplingParams
from inference.engine.protocol import Token, Usage
from inference.measuring import refusals
from inference.measuring.entries import Record
from inference.measuring.recorder import recorder
from inference.measuring.trace import RequestTrace
from inference.quota.limits import LimitError

from .targets import Target

TEXT_CHARS = 2000  # of a prompt and of an answer that are kept, where MONITORING_TEXTS is on
# Errors whose reason is the engine's own word; others may quote what somebody wrote.
ENGINES_OWN = frozenset(
    {
        "engine_crashed",
        "base_unsupported",
        "base_load_failed",
        "store_damaged",
        "adapter_load_failed",
        "fleet_answer_invalid",
    }
)


@dataclass(frozen=True)
class Question:
    """What one model is asked: exactly one of `messages`, `prompt` and `tokens`."""

    target: Target
    params: SamplingParams
    messages: list[dict[str, str]] | None = None
    prompt: str | None = None
    continue_last: bool = False  # the last message is the answer's beginning
    tokens: list[int] | None = None
    reading: Reading = Reading()
    background: bool = False  # nobody waits for it: it comes after everybody else, and counts as nobody's turn

    def request(self, user: str) -> Request:
        """As a backend takes it. `user`: the key of fairness."""
        target = self.target
        return Request(
            f"background:{user}" if self.background else user,
            target.base,
            target.adapter,
            self.messages,
            self.prompt,
            self.params,
            self.continue_last,
            self.tokens,
            self.reading,
            self.background,
        )

    @property
    def most(self) -> int:
        """Tokens that are reserved for it: of the answer and, where that is told of, about those of the prompt."""
        answer = self.params.max_tokens if self.reading.answer else 0
        told = self.reading.logprobs is not None or not self.reading.answer
        return answer + (self.request("").chars // CHARS_OF_TOKEN if told else 0)

    def end_of_prompt(self, chars: int) -> str:
        """The last characters of what was asked, which say more than the first: those may be a long conversation's."""
        if self.prompt is not None:
            return last(self.prompt, chars)
        text = ""
        for turn in reversed(self.messages or []):
            text = f"{turn['role']}: {turn['content'][-chars - 1 :]}\n\n{text}"
            if len(text) > chars:
                break
        return last(text.rstrip(), chars)


def last(text: str, chars: int) -> str:
    return text if len(text) <= chars else "…" + text[1 - chars :]


class Outcome:
    """Of the answers to `questions`: a trace for each, and where a setting says so the beginning of its text."""

    def __init__(self, grant: Grant, questions: Sequence[Question]) -> None:
        self._grant = grant
        self._questions = questions
        self._request_id, self._traceparent = request_id.get(), traceparent.get()
        self._begun = began.get() or time.monotonic()
        self._traces: list[RequestTrace] = []
        self._texts: list[str] | None = [""] * len(questions) if settings.MONITORING_TEXTS else None
        self._last = 0  # the question whose end came last
        self._posted = False

    def begin(self, waited_since: float | None = None) -> RequestTrace:
        """The trace of the next question, which waited for the end of earlier ones since then."""
        self._traces.append(RequestTrace(self._begun, waited_since))
        return self._traces[-1]

    def token(self, index: int, event: Token) -> None:
        """A piece of this answer is handed out."""
        trace = self._traces[index]
        if trace.told is None:
            trace.told = time.monotonic()
            # The door writes it now; it goes out when the loop has come round to the socket.
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._sent, trace)
        if self._texts is not None and len(self._texts[index]) <= TEXT_CHARS:
            self._texts[index] += event["text"][: TEXT_CHARS + 1]

    def _sent(self, trace: RequestTrace) -> None:
        if not self._posted:
            trace.told = time.monotonic()

    def ended(self, index: int) -> None:
        self._last = index

    def failed(self, error: Exception, usages: Sequence[Usage] = ()) -> None:
        """It ends by this exception, which a door that tells of it is not to count as a refusal."""
        detail = str(error.limit) if isinstance(error, LimitError) else ""
        self.post("error", usages, error.code if isinstance(error, ApiError) else code_of(error), detail)
        refusals.settle(error)

    def post(self, reason: str, usages: Sequence[Usage] = (), code: str = "", detail: str = "") -> None:
        """Safe to repeat. Of several answers the first token, the last end, and all tokens.

        What nobody waits for is not among the times of what somebody did."""
        if self._posted:
            return
        self._posted = True
        if self._questions[0].background:
            return
        now = time.monotonic()
        for trace in self._traces:
            trace.close(now)
        firsts = [trace.told for trace in self._traces if trace.told is not None]
        gaps = [Counter(dict(trace.gaps)) for trace in self._traces]  # copies: the engine may still feed them
        usage: Counter[str] = Counter()
        for one in usages:
            usage.update({name: count for name, count in one.items() if isinstance(count, int)})
        latest = max(self._traces, key=lambda trace: trace.ended or now, default=None)
        target = self._questions[0].target
        came_to: dict[str, Any] = {**usage, **self._kept_texts()}
        recorder.post(
            Record(
                time.time(),
                self._request_id,
                self._grant.user_id,
                self._grant.token_id or 0,
                target.slug,
                target.digest,
                reason=reason,
                code=code,
                detail=detail,
                total=now - self._begun,
                ttft=min(firsts) - self._begun if firsts else None,
                stages=latest.stages if latest else {},
                spans=latest.spans if latest else (),
                traceparent=self._traceparent,
                gaps=sum(gaps, Counter()),
                gap_seconds=sum(trace.gap_seconds for trace in self._traces),
                members=tuple(part.model for part in target.recipe),
                **came_to,
            )
        )

    def _kept_texts(self) -> dict[str, Any]:
        if self._texts is None:
            return {}
        answer = self._texts[self._last]
        if len(answer) > TEXT_CHARS:
            answer = answer[: TEXT_CHARS - 1] + "…"
        return {"prompt": self._questions[self._last].end_of_prompt(TEXT_CHARS), "answer": answer}
