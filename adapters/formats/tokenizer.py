"""What is taken from a `tokenizer_config.json`, an adapter's or a base's. What has another type is not there."""

from __future__ import annotations

from typing import Any

LARGEST_ID = 2**31 - 1


def default_template(settings: Any) -> str:
    """The chat template in the parsed file, or the default one of several; "" for none."""
    said = settings.get("chat_template") if isinstance(settings, dict) else None
    if isinstance(said, list):
        # The last one of a name counts, as in Transformers.
        named = [entry.get("template") for entry in said if isinstance(entry, dict) and entry.get("name") == "default"]
        said = named[-1] if named else None
    return said if isinstance(said, str) else ""


def added_ids(settings: Any) -> dict[str, int]:
    """The ids of the tokens in the parsed file's `added_tokens_decoder`, by their text."""
    decoder = settings.get("added_tokens_decoder") if isinstance(settings, dict) else None
    found = {}
    for number, entry in decoder.items() if isinstance(decoder, dict) else ():
        token = entry.get("content") if isinstance(entry, dict) else None
        # An id of thousands of digits is none, and is more than `int` takes.
        if isinstance(token, str) and number.isdecimal() and len(number) <= 10 and int(number) <= LARGEST_ID:
            found[token] = int(number)
    return found
