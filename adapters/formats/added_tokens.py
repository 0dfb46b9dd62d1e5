"""Which tokens the tokenizer in an adapter's folder adds to its base's.

The files have up to tens of megabytes, and what they hold is somebody else's: a child process compares them.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from django.utils.translation import gettext_noop

import launching
from adapters.failures import Refused

from .files import open_below, parse_json, read_small
from .tokenizer import LARGEST_ID

FILE = "tokenizer.json"
SETTINGS, LISTED, SPECIAL = "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"
LIMIT = 64 * 2**20  # bytes of a tokenizer
SMALL = 16 * 2**20  # of the files beside it
MOST = 4096  # tokens that are added
LONGEST = 200  # characters of one
CHILD = Path(__file__).with_name("added_tokens_child.py")
TIMEOUT = 60.0
KEPT = 256
FLAGS = ("special", "normalized", "lstrip", "rstrip", "single_word")
NOT_READ, DIFFERS, MERGES, TOO_MANY = (
    gettext_noop("%(file)s cannot be read"),
    gettext_noop("%(token)s has id %(id)s, which is %(other)s in the base model's"),
    gettext_noop("it joins other pieces of text to tokens"),
    gettext_noop("it adds more than %(limit)s tokens, or one of more than %(length)s characters"),
)

Added = list[dict[str, Any]]  # {"id", "content"}, and those of FLAGS that are true; by ids
_known: dict[tuple[str, str], str] = {}  # hashes of the two tokenizers -> what the child said


class Location(NamedTuple):
    """A folder below one of the resolved `roots`."""

    roots: tuple[str, ...]
    path: str


def added_tokens(own: Location, names: Collection[str], base: Location) -> Added:
    """The tokens that the tokenizer in `own`, which holds files of these `names`, has and the base's has not.

    Nothing where there is no tokenizer, or where the base's is of a kind that cannot be compared: it is used then, as
    for adapters without one. Raises Refused: tokenizer_differs where it is not the base's with more tokens, and as
    `read_small`.
    """
    listed: Added = [] if FILE in names else _listed(own, names)
    if FILE not in names and not listed:
        return []
    with ExitStack() as stack:
        try:
            theirs = stack.enter_context(open_below(base.roots, base.path, FILE))
        except Refused:
            return []
        mine = stack.enter_context(open_below(own.roots, own.path, FILE)) if FILE in names else None
        said = json.dumps(listed).encode()
        key = _hash(mine) if mine is not None else hashlib.sha256(said).hexdigest(), _hash(theirs)
        if key[0] == key[1]:
            return []
        if key not in _known:
            found = _compare(mine, theirs, said)
            if len(_known) >= KEPT:
                _known.pop(next(iter(_known)))
            _known[key] = found
    return _judged(json.loads(_known[key]))


def _judged(found: dict[str, Any]) -> Added:
    """Raises Refused tokenizer_differs."""
    if "unread" in found:
        raise Refused("tokenizer_differs", reason=NOT_READ, file=FILE)
    if "conflict" in found:
        reason = MERGES if found["conflict"] == "merges" else DIFFERS
        raise Refused("tokenizer_differs", reason=reason, **found.get("details", {}))
    added: Added = found.get("added", [])
    if len(added) > MOST or any(len(one["content"]) > LONGEST or one["id"] > LARGEST_ID for one in added):
        raise Refused("tokenizer_differs", reason=TOO_MANY, limit=MOST, length=LONGEST)
    return added


def _hash(file: BinaryIO) -> str:
    """Raises Refused."""
    file.seek(0, 2)
    if file.tell() > LIMIT:
        raise Refused("config_too_large", file=FILE, limit=LIMIT)
    file.seek(0)
    found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    file.seek(0)
    return found


def _compare(mine: BinaryIO | None, theirs: BinaryIO, listed: bytes) -> str:
    """What the child prints. Raises Refused where it does not come to an end."""
    files = [theirs.fileno(), *([mine.fileno()] if mine is not None else [])]
    words = [sys.executable, "-I", str(CHILD), *map(str, files)]
    refused = Refused("tokenizer_differs", reason=NOT_READ, file=FILE)
    try:
        done = launching.run(
            words, launching.of_these(LANG="C.UTF-8"), stdin=listed, timeout=TIMEOUT, descriptors=files,
            longest=4 * 2**20,
        )  # fmt: skip
    except launching.TookTooLongError:
        raise refused from None
    if done.status != 0:
        raise refused
    try:
        json.loads(done.output)
    except ValueError:  # cut: more tokens than anybody adds
        raise Refused("tokenizer_differs", reason=TOO_MANY, limit=MOST, length=LONGEST) from None
    return done.output.decode()


def _listed(own: Location, names: Collection[str]) -> Added:
    """The added tokens of a folder that has no tokenizer.json, as Transformers reads them. Raises Refused."""

    def table(name: str) -> dict[str, Any]:
        found = parse_json(read_small(own.roots, own.path, name, SMALL), name, strict=False) if name in names else {}
        return found if isinstance(found, dict) else {}

    settings = table(SETTINGS)
    decoder = settings.get("added_tokens_decoder")
    if isinstance(decoder, dict) and decoder:
        entries = [
            {"id": int(number), **entry} for number, entry in decoder.items()
            if isinstance(entry, dict) and number.isdecimal() and len(number) <= 10
        ]  # fmt: skip
    else:
        special = _special({**table(SPECIAL), **settings})
        entries = [
            {"id": number, "content": token, "special": token in special, "normalized": token not in special}
            for token, number in table(LISTED).items()
        ]
    return [
        {"id": entry["id"], "content": entry["content"], **{flag: True for flag in FLAGS if entry.get(flag) is True}}
        for entry in entries
        if type(entry["id"]) is int and 0 <= entry["id"] <= LARGEST_ID and isinstance(entry.get("content"), str)
    ]


def _special(said: dict[str, Any]) -> set[str]:
    """Texts of the special tokens that a tokenizer's settings name."""
    found: list[Any] = []
    for name, value in said.items():
        if name.endswith("_token") or name in ("additional_special_tokens", "extra_special_tokens"):
            several = list(value.values()) if isinstance(value, dict) and "content" not in value else value
            found += several if isinstance(several, list) else [several]
    texts = [one.get("content") if isinstance(one, dict) else one for one in found]
    return {text for text in texts if isinstance(text, str)}
