"""The judge model of the settings: an OpenAI-compatible server, and the only one that is ever asked.

Its address comes from JUDGE_URL alone. No redirect is followed and no proxy of the environment is used, so that
questions, answers and the key go nowhere else; what comes back is bounded in time and length.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2
from django.conf import settings

from evaluations.items import digest_of
from evaluations.runs.settling import Said

from .errors import JudgeError

CONNECT = 5.0  # seconds
LONGEST_BODY = 256 * 2**10  # bytes
LONGEST_REASON = 300  # characters
MOST_TOKENS = 10**9  # that a server may say it used


def is_configured() -> bool:
    return bool(settings.JUDGE_URL)


def name() -> str:
    """Model and host, as people see them."""
    return f"{settings.JUDGE_MODEL} ({urlsplit(settings.JUDGE_URL).netloc})"[:255]


def digest() -> str:
    """Of address and name: what stands behind them, only its server knows."""
    return digest_of({"url": settings.JUDGE_URL, "model": settings.JUDGE_MODEL})


class Outside:
    """Belongs to one event loop; to be closed."""

    def __init__(self) -> None:
        key = settings.JUDGE_API_KEY
        self.client = httpx2.AsyncClient(
            headers={"Accept-Encoding": "identity", **({"Authorization": f"Bearer {key}"} if key else {})},
            timeout=httpx2.Timeout(settings.JUDGE_TIMEOUT, connect=CONNECT),
            limits=httpx2.Limits(max_connections=settings.EVALUATION_CONCURRENT),
            follow_redirects=False,
            trust_env=False,
        )

    async def close(self) -> None:
        await self.client.aclose()

    async def ask(self, messages: list[dict[str, str]], params: Mapping[str, Any]) -> Said:
        """Raises JudgeError."""
        body = {"model": settings.JUDGE_MODEL, "messages": messages, "stream": False, **params}
        begun = time.monotonic()
        try:
            async with (
                asyncio.timeout(settings.JUDGE_TIMEOUT),
                self.client.stream("POST", f"{settings.JUDGE_URL}/v1/chat/completions", json=body) as response,
            ):
                data = await _bounded(response)
        except (TimeoutError, httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL) as error:
            raise JudgeError("judge_unavailable") from error
        if response.status_code != 200:
            raise _refusal(response, data)
        return _said(data, time.monotonic() - begun)


async def _bounded(response: httpx2.Response) -> bytes:
    found = bytearray()
    async for piece in response.aiter_raw():
        found += piece
        if len(found) > LONGEST_BODY:
            raise JudgeError("judge_answer_invalid")
    return bytes(found)


def _refusal(response: httpx2.Response, data: bytes) -> JudgeError:
    status = response.status_code
    if status in (400, 413, 422):
        return JudgeError("judge_refused", status=status, reason=_reason(data))
    if status in (408, 425, 429) or status >= 500:
        after = response.headers.get("retry-after", "")
        seconds = float(min(int(after), 3600)) if after.isascii() and after.isdigit() and len(after) < 9 else None
        return JudgeError("judge_unavailable", retry_after=seconds)
    return JudgeError("judge_denied", status=status)


def _reason(data: bytes) -> str:
    """In the server's words: short, on one line, and without the key where it repeats that."""
    try:
        error = json.loads(data)["error"]
        said = error["message"] if isinstance(error, dict) else error
    except (ValueError, RecursionError, LookupError, TypeError):
        said = ""
    if not isinstance(said, str):
        return ""
    if settings.JUDGE_API_KEY:
        said = said.replace(settings.JUDGE_API_KEY, "…")
    line = " ".join(said[: 4 * LONGEST_REASON].split())[:LONGEST_REASON]
    return "".join(character if character.isprintable() else "\ufffd" for character in line)


def _said(data: bytes, seconds: float) -> Said:
    """Raises JudgeError."""
    try:
        found = json.loads(data)
        choice = found["choices"][0]
        text, reason, usage = choice["message"]["content"], choice.get("finish_reason"), found.get("usage") or {}
        prompt, completion = (_count(usage.get(part)) for part in ("prompt_tokens", "completion_tokens"))
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        raise JudgeError("judge_answer_invalid") from None
    if not isinstance(text, str):
        raise JudgeError("judge_answer_invalid")
    text = text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
    return Said(text, "length" if reason == "length" else "stop", prompt, completion, seconds)


def _count(value: Any) -> int:
    return min(value, MOST_TOKENS) if type(value) is int and value >= 0 else 0
