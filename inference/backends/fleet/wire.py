"""HTTP to the fleet's addresses. What comes back is bounded in length and time; nothing is asked twice.

Retrying a request that has not begun is the router's work, and one that has begun is never repeated.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from django.utils.translation import gettext_noop

from inference.engine.errors import EngineError

CONNECT = 5.0  # seconds
LONGEST_BODY = 8 * 2**20  # bytes of an answer that is read whole; a list of thousands of adapters fits
LONGEST_ERROR = 64 * 2**10
LONGEST_REASON = 300  # characters
AWAY = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


@dataclass(frozen=True)
class Refusal:
    """An answer with another status than 200. `retry_after`: seconds, where it names some."""

    code: int
    message: str = ""
    param: str | None = None
    retry_after: float | None = None


class StatusError(Exception):
    def __init__(self, status: Refusal) -> None:
        super().__init__(f"{status.code} {status.message}")
        self.status = status


class Wire:
    """Belongs to one event loop. Connections are kept and used again."""

    def __init__(self, key: str = "", silence: float = 120.0, connections: int = 64) -> None:
        """`silence`: seconds without a byte after which an answer is given up."""
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self.silence = silence
        self.client = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(silence, connect=CONNECT, pool=CONNECT),
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=min(32, connections)),
            trust_env=False,  # an address in VLLM_URL is meant as it is written
        )

    async def close(self) -> None:
        await self.client.aclose()

    async def get(self, url: str, timeout: float) -> bytes:
        """Raises StatusError, EngineError, within `timeout` seconds."""
        return await self._whole("GET", url, None, timeout)

    async def get_json(self, url: str, timeout: float) -> Any:
        """Raises StatusError, EngineError."""
        return parsed(await self.get(url, timeout))

    async def post_json(self, url: str, body: Mapping[str, Any], timeout: float) -> Any:
        """Raises StatusError, EngineError."""
        return parsed(await self._whole("POST", url, body, timeout))

    async def post_whole(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str], limit: int) -> Any:
        """An answer that comes in one piece of at most `limit` bytes. Raises StatusError, EngineError."""
        return parsed(await self._whole("POST", url, body, self.silence, headers, limit))

    async def post(self, url: str, body: Mapping[str, Any], timeout: float) -> bytes:
        """Raises StatusError, EngineError."""
        return await self._whole("POST", url, body, timeout)

    @asynccontextmanager
    async def stream(
        self, url: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The pieces of an answer as they come. Leaving the context closes the connection of one that is not whole,
        by which vLLM knows that nobody waits. Raises StatusError, EngineError."""
        try:
            async with self.client.stream("POST", url, json=body, headers=dict(headers)) as response:
                if response.status_code != 200:
                    raise StatusError(await said(response))
                yield pieces_of(response)
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL) as error:
            raise away(error) from error

    async def _whole(
        self, method: str, url: str, body: Mapping[str, Any] | None, timeout: float,
        headers: Mapping[str, str] | None = None, limit: int = LONGEST_BODY,
    ) -> bytes:  # fmt: skip
        try:
            async with (
                asyncio.timeout(timeout),
                self.client.stream(method, url, json=body, headers=dict(headers or {})) as response,
            ):
                if response.status_code != 200:
                    raise StatusError(await said(response))
                return await bounded(response, limit)
        except TimeoutError as error:
            raise EngineError("engine_timeout", "The fleet did not answer in time.") from error
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL) as error:
            raise away(error) from error


async def pieces_of(response: httpx2.Response) -> AsyncIterator[bytes]:
    """Raises EngineError where the connection breaks."""
    try:
        async for piece in response.aiter_raw():
            yield piece
    except (httpx2.HTTPError, httpx2.StreamError) as error:
        raise away(error) from error


def away(error: Exception) -> EngineError:
    """What an exception of the HTTP client means. Its text names the address, which is not for everybody."""
    if isinstance(error, AWAY):
        return EngineError("fleet_unavailable", "The fleet cannot be reached.")
    if isinstance(error, httpx2.TimeoutException):
        return EngineError("engine_timeout", "The fleet did not answer in time.")
    return EngineError("fleet_interrupted", "The connection to the fleet broke.")


async def bounded(response: httpx2.Response, limit: int) -> bytes:
    """Raises EngineError `fleet_answer_invalid`."""
    found = bytearray()
    async for piece in response.aiter_raw():
        found += piece
        if len(found) > limit:
            raise invalid(gettext_noop("it is too long"))
    return bytes(found)


def parsed(data: bytes | str) -> Any:
    """Raises EngineError `fleet_answer_invalid`."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise invalid(gettext_noop("it is not JSON")) from error


def invalid(reason: str) -> EngineError:
    return EngineError("fleet_answer_invalid", f"The fleet's answer cannot be read: {reason}.", reason=reason)


async def said(response: httpx2.Response) -> Refusal:
    """A refusal, as vLLM and its router write them."""
    try:
        found = parsed(await bounded(response, LONGEST_ERROR))
    except EngineError:
        found = None
    error = found.get("error") if isinstance(found, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    param = error.get("param") if isinstance(error, dict) else None
    return Refusal(
        response.status_code,
        plain(message) if isinstance(message, str) else "",
        param[:100] if isinstance(param, str) else None,
        seconds(response.headers.get("retry-after", "")),
    )


def plain(text: str) -> str:
    """Short, on one line, and without what a log or a page chokes on."""
    line = " ".join(text[: 4 * LONGEST_REASON].split())[:LONGEST_REASON]
    return "".join(character if character.isprintable() else "\ufffd" for character in line)


def seconds(text: str) -> float | None:
    return float(min(int(text), 3600)) if text.isascii() and text.isdigit() and len(text) < 9 else None
