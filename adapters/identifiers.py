"""Names, slugs and hashes by which rows are known."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable

UNKNOWN = "-"  # the content key of files that cannot be read
SLUG = re.compile(r"[\w](?:[\w.-]{0,126}[\w])?\Z")


def text_hash(*parts: str) -> str:
    """A key of fixed length for texts that are too long, or too case-sensitive, for an index on MySQL."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def slugify(name: str) -> str:
    """A readable model id: lower case, letters of any script, digits, `_`, `.` and `-`; "adapter" for nothing."""
    text = unicodedata.normalize("NFKC", name).lower()
    text = re.sub(r"[^\w.-]+", "-", text)
    text = re.sub(r"-{2,}", "-", text).strip("-._")
    return text[:110].rstrip("-._") or "adapter"


def unique_slug(name: str, taken: Callable[[str], bool]) -> str:
    """`slugify(name)`, with -2, -3 ... where that is taken."""
    stem = slug = slugify(name)
    number = 1
    while taken(slug):
        number += 1
        slug = f"{stem}-{number}"
    return slug
