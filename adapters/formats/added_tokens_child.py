"""Compares two tokenizers, as a program of its own: `python -I added_tokens_child.py BASE [OWN]`; nobody imports it.

BASE and OWN are open descriptors of files `tokenizer.json`; without OWN standard input lists the added tokens. Prints
one JSON object: {"added": [...]}, {"conflict": "token" or "merges", "details": {...}}, {"unread": true} where OWN is no
tokenizer whose tokens are listed, or {} where BASE is none. The kernel bounds memory and time.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any

MEMORY = 3 * 2**30  # bytes; the largest tokenizers that are known take a fifth
SECONDS = 40
FLAGS = ("special", "normalized", "lstrip", "rstrip", "single_word")
SHOWN = 80  # characters of a token in a message

Tokenizer = tuple[dict[str, int], list[dict[str, Any]], list[Any]]


def tokenizer(descriptor: int) -> Tokenizer | None:
    """(tokens of the model by their text, added tokens, merges); None for anything else than a tokenizer."""
    with open(descriptor, "rb") as file:
        data = file.read()
    try:
        said = json.loads(data)
        model, added = said["model"], said.get("added_tokens") or []
        vocabulary = model["vocab"]
        if isinstance(vocabulary, list):  # Unigram: pieces with their scores
            vocabulary = {piece: number for number, (piece, _score) in enumerate(vocabulary)}
        if not all(type(number) is int for number in vocabulary.values()):
            return None
        entries = [entry for entry in added if type(entry["id"]) is int and isinstance(entry["content"], str)]
        merges = [
            tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model.get("merges") or ()
        ]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
    return vocabulary, entries, merges


def compared(base: Tokenizer, own: Tokenizer | None, listed: list[dict[str, Any]]) -> dict[str, Any]:
    known = {**base[0], **{entry["content"]: entry["id"] for entry in base[1]}}
    names = {number: token for token, number in known.items()}

    def conflict(token: str, number: int) -> dict[str, Any]:
        other = names.get(number, known.get(token, ""))
        return {
            "conflict": "token",
            "details": {"token": token[:SHOWN], "id": number, "other": str(other)[:SHOWN]},
        }

    if own is not None:
        vocabulary, listed, merges = own
        for token, number in vocabulary.items():
            if known.get(token) != number:
                return conflict(token, number)
        for token, number in base[0].items():
            if token not in vocabulary:
                return conflict(token, number)
        if merges != base[2]:
            return {"conflict": "merges"}
    added = []
    for entry in sorted(listed, key=lambda one: int(one["id"])):
        token, number = entry["content"], entry["id"]
        if known.get(token) == number:
            continue
        if token in known or number in names:
            return conflict(token, number)
        names[number], known[token] = token, number
        flags = {flag: True for flag in FLAGS if entry.get(flag) is True}
        added.append({"id": number, "content": token, **flags})
    return {"added": added}


def main() -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    descriptors = [int(word) for word in sys.argv[1:]]
    listed = json.load(sys.stdin)
    base = tokenizer(descriptors[0])
    own = tokenizer(descriptors[1]) if base is not None and len(descriptors) > 1 else None
    if base is None:
        found = {}
    elif own is None and len(descriptors) > 1:
        found = {"unread": True}
    else:
        found = compared(base, own, listed)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
