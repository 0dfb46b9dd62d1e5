"""Texts as the tokens of a `tokenizer.json`, made in a child process within bounds (`tokens_child.py`)."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from django.utils.translation import gettext_noop

import launching

CHILD = Path(__file__).with_name("tokens_child.py")
PATIENCE = 120.0  # seconds, also for its start
LONGEST = 2**27  # bytes of all its answers


class TokenizerError(Exception):
    """`reason`: for people, not translated yet where it is ours."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Written:
    """A text with its tokens; `offsets`: where in the text each begins and ends, in characters."""

    text: str
    ids: list[int]
    offsets: list[tuple[int, int]]

    def piece(self, at: int) -> str:
        begin, end = self.offsets[at]
        return self.text[begin:end]


def tokenize(tokenizer: BinaryIO, texts: Sequence[tuple[str, bool]]) -> list[Written]:
    """Of (text, whether the tokenizer adds its special tokens). Raises TokenizerError, OSError."""
    lines = "".join(json.dumps({"text": text, "special": special}) + "\n" for text, special in texts)
    environment = launching.of_these("PATH", "LANG", "LC_ALL", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")
    words = [sys.executable, "-I", str(CHILD), str(tokenizer.fileno())]
    try:
        ended = launching.run(
            words, environment, timeout=PATIENCE, stdin=lines.encode("utf-8", "surrogatepass"), longest=LONGEST,
            descriptors=[tokenizer.fileno()],
        )  # fmt: skip
        said = [json.loads(line) for line in ended.output.splitlines()]
    except (launching.TookTooLongError, ValueError):
        raise TokenizerError(gettext_noop("its tokenizer takes too long")) from None
    if said and "error" in said[0]:
        raise TokenizerError(said[0]["error"])
    if len(said) != len(texts) + 1:
        raise TokenizerError(gettext_noop("its tokenizer takes too much time or memory"))
    return [
        Written(text, one["ids"], [(begin, end) for begin, end in one["offsets"]])
        for (text, _special), one in zip(texts, said[1:], strict=True)
    ]
