"""A base's tokenizer without Transformers: what its files say of special tokens, templates and single tokens.

For an installation whose models run elsewhere. Prompts become tokens where the model is; here single tokens of an
answer are named (`vocabulary.py`), end tokens found by name, and prompts written by the chat template.
"""

from __future__ import annotations

import json
import threading
from functools import cached_property
from pathlib import Path
from typing import Any

from .prompting import NAMES

LONGEST_CONFIG = 16 * 2**20  # bytes
LONGEST_TOKENIZER = 128 * 2**20


class PlainTokenizer:
    """Has of a Transformers tokenizer what `text/` asks for. Reads `tokenizer.json` when a token is asked for first."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError, ValueError."""
        self.folder = folder
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._tokenizer: Any = None
        self._fault = ""  # of tokenizer.json
        said = read_object(folder / "tokenizer_config.json")
        # A file of older releases, which Transformers reads only where the configuration lists no tokens.
        legacy = {} if "added_tokens_decoder" in said else read_object(folder / "special_tokens_map.json")
        self.special_tokens_map = special_tokens({**said, **legacy})
        self.chat_template = chat_template(folder, said)

    def __call__(
        self, text: str, add_special_tokens: bool = True, split_special_tokens: bool = False
    ) -> dict[str, list[int]]:
        """Token ids, as Transformers names them. Raises OSError, ValueError."""
        with self._lock:  # how it takes special tokens is a state of the tokenizer
            self.backend_tokenizer.encode_special_tokens = split_special_tokens
            return {"input_ids": self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    def get_chat_template(self) -> str:
        return self.chat_template

    @property
    def backend_tokenizer(self) -> Any:
        """The same for all threads. Raises ValueError where there is no `tokenizer.json` that the library understands,
        OSError."""
        with self._reading:
            if self._tokenizer is None:
                self._tokenizer = self._read()
            return self._tokenizer

    def _read(self) -> Any:
        if self._fault:  # it is large, and every conversation asks
            raise ValueError(self._fault)
        from tokenizers import Tokenizer  # takes a moment, and raw prompts do not need it

        file = self.folder / "tokenizer.json"
        if file.stat().st_size > LONGEST_TOKENIZER:
            raise ValueError("tokenizer.json is too large")
        data = file.read_bytes()  # apart from its meaning: a disk that fails once is asked again
        try:
            return Tokenizer.from_buffer(data)
        except Exception as error:
            self._fault = f"tokenizer.json cannot be read: {str(error)[:200]}"
            raise ValueError(self._fault) from error

    @cached_property
    def added_tokens_decoder(self) -> dict[int, Any]:
        return dict(self.backend_tokenizer.get_added_tokens_decoder())

    def convert_tokens_to_ids(self, token: str) -> int | None:
        found = self.backend_tokenizer.token_to_id(token)
        return found if type(found) is int else None

    def convert_ids_to_tokens(self, token: int) -> str | None:
        found = self.backend_tokenizer.id_to_token(token)
        return found if isinstance(found, str) else None

    def decode(self, tokens: list[int]) -> str:
        return str(self.backend_tokenizer.decode(tokens, skip_special_tokens=False))


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is no such file. Raises OSError, ValueError."""
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST_CONFIG + 1)
    except FileNotFoundError:
        return {}
    if len(data) > LONGEST_CONFIG:
        raise ValueError(f"{path.name} is too large")
    try:
        found = json.loads(data)
    except RecursionError as error:
        raise ValueError(f"{path.name} is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} holds no object")
    return found


def special_tokens(said: dict[str, Any]) -> dict[str, str]:
    """The special tokens by name that a template may ask for; a model may have names of its own (`image_token`)."""
    extra = said.get("extra_special_tokens")
    named = {**said, **extra} if isinstance(extra, dict) else said
    own = {name for name in said if name.endswith("_token")}
    names = NAMES | own | (set(extra) if isinstance(extra, dict) else set())
    found = {name: text_of(named.get(name)) for name in sorted(names)}
    return {name: token for name, token in found.items() if token}


def text_of(token: Any) -> str:
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else ""


def chat_template(folder: Path, said: dict[str, Any]) -> str:
    """As Transformers finds it: a file of its own before an entry of the configuration."""
    for name in ("chat_template.jinja", "additional_chat_templates/default.jinja"):
        file = folder / name
        if file.is_file() and file.stat().st_size <= LONGEST_CONFIG:
            return file.read_text(encoding="utf-8", errors="replace")
    template = said.get("chat_template")
    if isinstance(template, list):
        named = [
            entry.get("template") for entry in template if isinstance(entry, dict) and entry.get("name") == "default"
        ]
        template = named[-1] if named else None
    return template if isinstance(template, str) else ""
