"""Whole answers are compressed and padded at random; streams are not touched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.test import AsyncClient, RequestFactory

from common.middleware import CompressionMiddleware

REQUEST = RequestFactory().get("/", headers={"Accept-Encoding": "gzip"})


def answered(response: HttpResponseBase) -> Any:
    return CompressionMiddleware(lambda _request: response)(REQUEST)


def test_the_length_of_a_page_is_random() -> None:
    """Lest it tells a guesser how much of a guess the page holds (BREACH)."""
    lengths = {answered(HttpResponse("secret " * 100)).headers["Content-Length"] for _time in range(30)}
    assert len(lengths) > 5


async def test_a_stream_goes_out_as_it_is() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n" * 100
        yield b"data: [DONE]\n\n"

    response = answered(StreamingHttpResponse(pieces(), content_type="text/event-stream"))
    assert "Content-Encoding" not in response.headers
    assert isinstance(response, StreamingHttpResponse)
    assert [piece async for piece in response] == [b"data: 1\n\n" * 100, b"data: [DONE]\n\n"]


async def test_json_of_the_api() -> None:
    client = AsyncClient()
    plain = await client.get("/api/schema")
    packed = await client.get("/api/schema", headers={"accept-encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert len(packed.content) * 5 < len(plain.content)
