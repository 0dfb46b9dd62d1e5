"""The adapter as it is stored, as a zip with a folder in PEFT's form: verified, streamed, and of the same content
wherever it is activated next."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from django.utils.translation import gettext_noop

from adapters import store
from adapters.failures import Refused
from adapters.files import store_folder
from adapters.formats.added_tokens import FLAGS
from adapters.formats.safetensors import CHUNK
from adapters.training.layout import CONFIG, PROMPT_FILES, WEIGHTS

from .beside import written
from .zipped import Entry

TEMPLATE, SETTINGS, TOKENS, ADDED, GENERATION, _ = PROMPT_FILES


def entries(digest: str, folder: str, held: ExitStack) -> list[Entry]:
    """The files of a stored copy, below `folder`, and those that training had left in the place of `prompting.json`:
    an adapter that is made of them again has the same digest. Descriptors are open until the end of `held`.

    Raises Refused store_lost, store_damaged.
    """
    try:
        found = _open(digest, held)
    except FileNotFoundError:
        raise Refused("store_lost") from None
    except OSError as error:
        raise Refused("store_damaged", reason=os.strerror(error.errno or 0)) from None
    sums = _verified(digest, found)
    made = [Entry(f"{folder}/{one.name}", one.size, sums[one.name], descriptor=one.descriptor) for one in found]
    for one in found:
        if one.name == store.PROMPTING:
            said = json.loads(os.pread(one.descriptor, store.PROMPTING_LIMIT, 0))
            made += [_entry(f"{folder}/{name}", data) for name, data in _as_left(said).items()]
    return made


def prompting_of(digest: str) -> dict[str, Any]:
    """What `prompting.json` of a stored copy says; {} where there is none. Raises OSError, ValueError."""
    with store_folder.opened() as shelf, shelf.below(digest) as place:
        try:
            descriptor = place.open(store.PROMPTING)
        except FileNotFoundError:
            return {}
        with os.fdopen(descriptor, "rb") as file:
            said = json.loads(file.read(store.PROMPTING_LIMIT))
    return said if isinstance(said, dict) else {}


@dataclass(frozen=True)
class _Opened:
    """`state` changes with anything that is written to the file; files of one state are the same."""

    name: str
    size: int
    state: tuple[int, ...]
    descriptor: int = field(compare=False)


def _open(digest: str, held: ExitStack) -> tuple[_Opened, ...]:
    found = []
    with store_folder.opened() as shelf, shelf.below(digest) as place:
        for name in (CONFIG, WEIGHTS, store.PROMPTING):
            if name == store.PROMPTING and place.stat(name) is None:
                continue
            descriptor = place.open(name)
            held.callback(os.close, descriptor)
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            state = (info.st_dev, info.st_ino, info.st_mtime_ns, info.st_ctime_ns)
            found.append(_Opened(name, info.st_size, state, descriptor))
    return tuple(found)


@lru_cache(maxsize=64)
def _verified(digest: str, files: tuple[_Opened, ...]) -> dict[str, int]:
    """CRC-32 by name, of content that has this digest; not read again while the files are the same.

    Raises Refused store_damaged, which no cache keeps.
    """
    hashes, sums = [], {}
    for file in files:
        hasher, crc, position = hashlib.sha256(), 0, 0
        while data := os.pread(file.descriptor, CHUNK, position):
            hasher.update(data)
            crc = zlib.crc32(data, crc)
            position += len(data)
        hashes.append(hasher.hexdigest())
        sums[file.name] = crc
    if store.combine(*hashes) != digest:
        raise Refused("store_damaged", reason=gettext_noop("its content has changed"))
    return sums


def _entry(name: str, data: bytes) -> Entry:
    return Entry(name, len(data), zlib.crc32(data), data)


def _as_left(said: Mapping[str, Any]) -> dict[str, bytes]:
    """The files that `training/prompting.py` reads this from."""
    defaults = dict(said.get("defaults", {}))
    if defaults.get("temperature") == 0:
        defaults = {**defaults, "do_sample": False}
        del defaults["temperature"]
    generation = {**({"eos_token_id": said["end_ids"]} if said.get("end_ids") else {}), **defaults}
    found = {
        SETTINGS: _tokenizer_settings(said), TOKENS: said.get("special_tokens"), ADDED: said.get("token_ids"),
        GENERATION: generation,
    }  # fmt: skip
    files = {name: written(value) for name, value in found.items() if value}
    if said.get("chat_template"):
        files[TEMPLATE] = str(said["chat_template"]).encode("utf-8", "replace")
    return files


def _tokenizer_settings(said: Mapping[str, Any]) -> dict[str, Any]:
    """Tokens that are added to the base's, in Transformers' form."""
    decoder = {
        str(one["id"]): {"content": one["content"], **{flag: flag in one for flag in FLAGS}}
        for one in said.get("added_tokens", ())
    }
    return {"added_tokens_decoder": decoder} if decoder else {}
