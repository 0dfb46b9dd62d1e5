"""Control tokens that a person typed into a message are text: `<|im_end|>` in a question ends no turn.

A chat template writes the messages into one text, in which nobody can tell its own control tokens from typed ones. So
typed ones are replaced by marks that no template changes, and put back as plain text once the template has written.
Messages without any are encoded as ever.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

EDGE = "\ue000"  # of a mark; a character of private use


_control_tokens: WeakKeyDictionary[Any, frozenset[str]] = WeakKeyDictionary()


def control_tokens(tokenizer: Any) -> frozenset[str]:
    """The texts that `tokenizer` reads as special tokens. Looked up once: listing thousands takes 20 ms each time."""
    found = _control_tokens.get(tokenizer)
    if found is None:
        added = tokenizer.added_tokens_decoder.values()
        found = _control_tokens[tokenizer] = frozenset(str(token.content) for token in added if token.special)
    return found


@dataclass(frozen=True)
class Marked:
    """Messages with marks, and what each mark stands for."""

    messages: list[dict[str, str]]
    tokens: frozenset[str]
    typed: Mapping[str, str]  # mark -> the text that was typed

    def encode(self, tokenizer: Any, text: str) -> list[int]:
        """Token ids of what a template wrote of `messages`.

        The text is cut at the control tokens that the template wrote, as the tokenizer itself does; what was typed into
        a stretch between them is encoded with it, as text.
        """
        ids: list[int] = []
        ordinary = ""  # with the template's own control tokens, as the tokenizer takes it
        for stretch, control in cut(text, self.tokens):
            restored = stretch
            for mark, typed in self.typed.items():
                restored = restored.replace(mark, typed)
            if restored == stretch:
                ordinary += stretch + control
                continue
            ids += encoded(tokenizer, ordinary) + encoded(tokenizer, restored, as_text=True)
            ordinary = control
        return ids + encoded(tokenizer, ordinary)


def mark(messages: list[dict[str, str]], tokens: frozenset[str]) -> Marked | None:
    """None where nothing that was typed is a control token, which is nearly always so."""
    beginnings = {token[:2] for token in tokens if token}
    typed: dict[str, str] = {}
    nonce = str(secrets.randbelow(10**18))  # digits: a template may change the case of what it writes
    marked = []
    for message in messages:
        content = message["content"]
        if any(beginning in content for beginning in beginnings):
            text = ""
            for stretch, token in cut(content, tokens):
                text += stretch
                if token:
                    name = f"{EDGE}{nonce}:{len(typed)}{EDGE}"
                    typed[name] = token
                    text += name
            content = text
        marked.append({**message, "content": content})
    return Marked(marked, tokens, typed) if typed else None


def cut(text: str, tokens: Iterable[str]) -> list[tuple[str, str]]:
    """(text before it, token) for each of `tokens` in `text`, then (the rest, ""). The longest counts where several
    begin at one place."""
    present = sorted((token for token in tokens if token and token in text), key=len, reverse=True)
    places = {token: text.find(token) for token in present}
    found: list[tuple[str, str]] = []
    start = 0
    while present:
        token = min(present, key=lambda one: places[one])  # the first of equals, which is the longest
        found.append((text[start : places[token]], token))
        start = places[token] + len(token)
        for one in present:
            if places[one] < start:
                places[one] = text.find(one, start)
        present = [one for one in present if places[one] >= 0]
    return [*found, (text[start:], "")]


def encoded(tokenizer: Any, text: str, as_text: bool = False) -> list[int]:
    if not text:
        return []
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=as_text)["input_ids"])
