"""What single tokens stand for: bytes, which need not be whole characters."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

BYTE = re.compile(r"<0x([0-9A-F]{2})>\Z")  # SentencePiece's byte fallback


def byte_alphabet() -> dict[str, int]:
    """The character by which byte-level BPE writes each byte (GPT-2's `bytes_to_unicode`), turned round."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


ALPHABET = byte_alphabet()


class Vocabulary:
    """The tokens of a Transformers tokenizer, one by one.

    A tokenizer decodes alone only what is whole: a part of a character becomes U+FFFD, and a leading space may be lost.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self.added: dict[int, Any] = dict(added)
        core = getattr(tokenizer, "backend_tokenizer", None)
        decoder = getattr(core, "decoder", None)
        steps = list(flat(json.loads(decoder.__getstate__()))) if decoder is not None else []
        kinds = {step["type"] for step in steps}
        self.read: Callable[[str], bytes | None] = lambda piece: None
        if "ByteLevel" in kinds:
            self.read = byte_level
        elif kinds & {"ByteFallback", "Metaspace"}:
            self.spaces = [space for step in steps if (space := space_of(step))]
            self.read = self.sentence_piece

    def bytes_of(self, token: int) -> bytes | None:
        """None for what stands for no text: special tokens, and ids that the tokenizer does not know."""
        if token in self.added:
            return None if self.added[token].special else str(self.added[token].content).encode()
        piece = self.tokenizer.convert_ids_to_tokens(token)
        if not isinstance(piece, str):
            return None
        raw = self.read(piece)
        return self.tokenizer.decode([token]).encode("utf-8", "replace") if raw is None else raw

    def name_of(self, token: int) -> str:
        """Of a token that stands for no text."""
        return str(self.added[token].content) if token in self.added else f"token_id:{token}"

    def alone(self, token: int) -> tuple[str, list[int] | None]:
        """(text, bytes) of a token; (name, None) of one that stands for no text."""
        raw = self.bytes_of(token)
        return (self.name_of(token), None) if raw is None else (raw.decode("utf-8", "replace"), list(raw))

    def spelled(self, tokens: list[int]) -> str:
        """The text of a prompt's tokens, those that stand for no text by their names."""
        parts = [(token, self.bytes_of(token)) for token in tokens]
        text = b"".join(self.name_of(token).encode() if raw is None else raw for token, raw in parts)
        return text.decode("utf-8", "replace")

    def sentence_piece(self, piece: str) -> bytes:
        if byte := BYTE.match(piece):
            return bytes([int(byte.group(1), 16)])
        for space in self.spaces:
            piece = piece.replace(space, " ")
        return piece.encode()


def byte_level(piece: str) -> bytes:
    try:
        return bytes(ALPHABET[character] for character in piece)
    except KeyError:
        return piece.encode()


def flat(decoder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The steps of a decoder of the `tokenizers` library."""
    if decoder["type"] == "Sequence":
        for step in decoder["decoders"]:
            yield from flat(step)
    else:
        yield decoder


def space_of(step: dict[str, Any]) -> str:
    """The character that a step makes a space of."""
    if step["type"] == "Metaspace":
        return str(step["replacement"])
    return str(step["pattern"].get("String", "")) if step["type"] == "Replace" and step["content"] == " " else ""


class Offsets:
    """Where each token of an answer begins in its text, in characters; a part of one begins where that one does."""

    def __init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.characters = 0

    def take_of_prompt(self, name: str, raw: list[int] | None, text: str | None) -> int:
        """Of a token that was given; one that stands for no text counts where `text` names it."""
        if raw is None and (text or "").startswith(name, self.characters):
            return self.take(name.encode())
        return self.take(bytes(raw or ()))

    def take(self, raw: bytes) -> int:
        at = self.characters
        self.characters += len(self.decoder.decode(raw))
        return at
