"""Files that are sent in pieces, from wherever the client wants (RFC 9110, section 14): a broken download goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.http import content_disposition_header
from rest_framework.request import Request

from adapters.exports import zipped
from adapters.exports.zipped import Piece

LONGEST_NUMBER = 18  # digits


class AnyAccept:
    """Goes before a view whose answer is a file: what a client says it accepts is about JSON or not at all."""

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        return super().perform_content_negotiation(request, force=True)  # type: ignore[misc]


def wanted(said: str, size: int) -> tuple[int, int] | None:
    """(first byte, the one after the last) of a `Range` header; None for the whole, also where there are several.

    Raises ValueError where nothing of the file lies there.
    """
    unit, _, span = said.partition("=")
    first, dash, last = span.strip().partition("-")
    digits = all(part == "" or (part.isascii() and part.isdigit()) for part in (first, last))
    if unit.strip().lower() != "bytes" or not dash or not digits or not (first or last):
        return None
    if max(len(first), len(last)) > LONGEST_NUMBER:
        raise ValueError(said)
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return None
    if start >= stop:
        raise ValueError(said)
    return start, stop


def download(
    request: Request, pieces: Sequence[Piece], name: str, tag: str, kind: str, held: ExitStack
) -> HttpResponseBase:  # fmt: skip
    """`tag`: changes with the content, in any way. `held` is closed when the answer has ended."""
    size, tag = zipped.length(pieces), f'"{tag}"'
    headers = {
        "Accept-Ranges": "bytes", "ETag": tag, "Cache-Control": "private, no-cache",
        "Content-Disposition": content_disposition_header(True, name) or "attachment",
        "X-Content-Type-Options": "nosniff",
    }  # fmt: skip
    start, stop, status = 0, size, 200
    same = request.headers.get("If-Range", tag) == tag
    if same and "Range" in request.headers:
        try:
            found = wanted(request.headers["Range"], size)
        except ValueError:
            held.close()
            return HttpResponse(status=416, headers={**headers, "Content-Range": f"bytes */{size}"})
        if found is not None:
            start, stop = found
            status = 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    headers["Content-Length"] = str(stop - start)
    body = _Body(zipped.read(pieces, start, stop), held)
    return StreamingHttpResponse(body, status=status, content_type=kind, headers=headers)


class _Body:
    """What a response reads in pieces, on threads, and closes at its end, also where nobody has read a byte."""

    def __init__(self, parts: Iterator[bytes], held: ExitStack) -> None:
        self.parts, self.held = parts, held

    async def __aiter__(self) -> AsyncIterator[bytes]:
        following = sync_to_async(lambda: next(self.parts, None), thread_sensitive=False)
        try:
            while (part := await following()) is not None:
                yield part
        finally:
            self.close()

    def close(self) -> None:
        self.held.close()
