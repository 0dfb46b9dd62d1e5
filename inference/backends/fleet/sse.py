"""Server-sent events from the pieces of a response, with a bound on every line."""

from __future__ import annotations

from collections.abc import AsyncIterator

from django.utils.translation import gettext_noop

from .wire import invalid

LONGEST_LINE = 2**20  # bytes; a token with twenty alternatives takes a few thousand


async def data_of(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The `data` of each event. What follows the last line break is half a line: it is not handed out.

    Raises EngineError `fleet_answer_invalid` for a line or an event that is too long, or no UTF-8.
    """
    rest = b""
    event: list[bytes] = []
    size = 0
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > LONGEST_LINE:
            raise invalid(gettext_noop("a line is too long"))
        for line in lines:
            line = line.removesuffix(b"\r")
            size += len(line)
            if size > LONGEST_LINE:
                raise invalid(gettext_noop("an event is too long"))
            if line.startswith(b"data:"):
                event.append(line[5:].removeprefix(b" "))
            elif not line:
                if event:
                    yield text_of(b"\n".join(event))
                event, size = [], 0


def text_of(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise invalid(gettext_noop("it is not UTF-8")) from error
