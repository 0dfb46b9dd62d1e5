"""The texts of prompts and the names of tokens, from the base's files and the adapter's stored copy.

Files are read and templates rendered on threads of the caller's; templates run in the child of `text/rendering.py`.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from django.utils.translation import gettext_noop

from inference.backends.interface import Request
from inference.engine import content
from inference.engine.errors import EngineError
from inference.engine.protocol import AdapterSpec, BaseSpec
from inference.engine.text.literal import Marked, control_tokens, mark
from inference.engine.text.plain_tokenizer import PlainTokenizer
from inference.engine.text.prompting import NOTHING, Prompting, parse
from inference.engine.text.prompts import encode_pair, literally, written
from inference.engine.text.vocabulary import Vocabulary

KEPT_BASES, KEPT_ADAPTERS = 8, 256


class Prompts:
    """Any thread may ask."""

    def __init__(self, raw_control_tokens: bool = False) -> None:
        self.raw_control_tokens = raw_control_tokens
        self._lock = threading.Lock()
        self._tokenizers: dict[str, PlainTokenizer] = {}  # by key and signature of the base
        self._vocabularies: dict[str, Vocabulary] = {}
        self._promptings: dict[str, Prompting] = {}  # by digest

    def text(self, request: Request) -> tuple[str | list[int], bool]:
        """The prompt, and whether the tokenizer adds its special tokens. Raises EngineError.

        Token ids where they were given, and where somebody typed control tokens into a message, which are text
        (`text/literal.py`).
        """
        if request.tokens is not None:
            return request.tokens, False
        tokenizer = self.tokenizer(request.base)
        prompting = self.prompting(request.adapter)
        try:
            marked = self._marked(tokenizer, request)
            if marked is not None:
                return literally(tokenizer, marked, request.continue_last, prompting), False
            return written(tokenizer, request.messages, request.prompt, request.continue_last, prompting)
        except OSError as error:
            raise EngineError("template_failed", "The chat template could not be rendered.", "messages") from error

    def pair(self, request: Request, continuation: str) -> tuple[list[int], int]:
        """As `text/prompts.py` has it. Raises EngineError."""
        prompting = self.prompting(request.adapter)
        tokenizer, raw = self.tokenizer(request.base), self.raw_control_tokens
        try:
            return encode_pair(tokenizer, request.messages, request.prompt, continuation, prompting, raw)
        except (OSError, ValueError) as error:
            raise unreadable(request.base) from error

    def _marked(self, tokenizer: PlainTokenizer, request: Request) -> Marked | None:
        if request.messages is None or self.raw_control_tokens:
            return None
        try:
            return mark(request.messages, control_tokens(tokenizer))
        except (OSError, ValueError):  # without a tokenizer.json nobody but the replica knows tokens
            return None

    def prompting(self, adapter: AdapterSpec | None) -> Prompting:
        """What the adapter's training left; `NOTHING` for the base itself. Raises EngineError, also for an adapter with
        tokens of its own, which the replicas' tokenizer does not know."""
        found = self.left(adapter)
        if found.added and adapter is not None:
            message = f"The tokenizer of {adapter['name']} adds tokens to its base's, which the fleet does not support."
            raise EngineError("adapter_incompatible", message, name=adapter["name"])
        return found

    def left(self, adapter: AdapterSpec | None) -> Prompting:
        """The same for any adapter. Raises EngineError."""
        expected = adapter.get("prompting") if adapter is not None else ""
        if adapter is None or not expected:
            return NOTHING
        with self._lock:
            found = self._promptings.get(adapter["digest"])
        if found is None:
            data = content.read_prompting(Path(adapter["path"]), adapter["digest"], adapter["name"], expected)
            found = keep(self._promptings, adapter["digest"], parse(data, adapter["name"]), KEPT_ADAPTERS, self._lock)
        return found

    def ends(self, base: BaseSpec, adapter: AdapterSpec | None) -> frozenset[int]:
        """Tokens that end the adapter's answers besides the base's own. Raises EngineError."""
        prompting = self.prompting(adapter)
        if not prompting.end_tokens:
            return frozenset(prompting.end_ids)
        try:
            return prompting.ends(self.tokenizer(base))
        except (OSError, ValueError) as error:
            raise unreadable(base) from error

    def vocabulary(self, base: BaseSpec) -> Vocabulary:
        """Names and bytes of single tokens. Raises EngineError."""
        tokenizer = self.tokenizer(base)
        with self._lock:
            found = self._vocabularies.get(name_of(base))
        if found is None:
            try:
                found = Vocabulary(tokenizer)
            except (OSError, ValueError) as error:
                raise unreadable(base) from error
            found = keep(self._vocabularies, name_of(base), found, KEPT_BASES, self._lock)
        return found

    def tokenizer(self, base: BaseSpec) -> PlainTokenizer:
        """Raises EngineError `base_changed`, `base_load_failed`."""
        with self._lock:
            found = self._tokenizers.get(name_of(base))
        if found is None:
            with content.unchanged(base):
                try:
                    made = PlainTokenizer(Path(base["path"]))
                except (OSError, ValueError) as error:
                    raise unreadable(base) from error
            found = keep(self._tokenizers, name_of(base), made, KEPT_BASES, self._lock)
        return found


def name_of(base: BaseSpec) -> str:
    return f"{base['key']} {base.get('signature', '')}"


def unreadable(base: BaseSpec) -> EngineError:
    return EngineError(
        "base_load_failed",
        f"The tokenizer of {base['name']} could not be read.",
        reason=gettext_noop("its tokenizer cannot be read"),
    )


def keep(kept: dict[str, Any], key: str, made: Any, most: int, lock: threading.Lock) -> Any:
    with lock:
        while len(kept) >= most:
            kept.pop(next(iter(kept)))
        return kept.setdefault(key, made)
