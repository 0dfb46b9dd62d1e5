"""What a refusal of the fleet means for whoever asked.

vLLM answers nearly everything that it refuses with 400 and a sentence; where it names a parameter, that says more. The
sentences are those of vLLM 0.32: `entrypoints/openai/models/serving.py` (adapters), `renderers/params.py` and
`v1/engine/input_processor.py` (length, tokens), `sampling_params.py` (parameters). Some come as a chunk of a stream
that has begun with status 200, since it looks at parameters only when it begins to answer.
"""

from __future__ import annotations

import re
from typing import Any

from inference.backends.interface import Request
from inference.engine.errors import EngineError
from inference.engine.params import SamplingParams

from .catalogue import BasePlace, refusal
from .wire import Refusal, plain

NOT_LOADED = re.compile(r"LoRA adapter '[^']*' was found but could not be loaded")
LOST = re.compile(r"Loading lora \S+ failed: No adapter found")
TOO_LONG = re.compile(r"maximum context length|maximum model length")
LENGTH = re.compile(r"contains (\d+) input tokens|\(length (\d+)\)")  # ("at least 513" is no count)
EMPTY = re.compile(r"prompt cannot be empty|must be provided and non-empty")
VOCABULARY = re.compile(r"out[- ]of[- ]vocab")
TOKEN = re.compile(r"[Tt]oken(?: id|_id\(s\))? \[?(\d+)")
FIRST_WORD = re.compile(r"`?([a-z_]+)`? (?:must|cannot|is|are)\b")
LENGTHS = ("input_tokens", "input_text")


def refused(status: Refusal, request: Request, place: BasePlace) -> EngineError:
    """An answer with another status than 200."""
    name = request.adapter["name"] if request.adapter is not None else request.base["name"]
    if status.code == 404 and request.adapter is None:
        return EngineError("base_missing", "The fleet does not serve it.", name=name)
    if status.code == 404:
        return EngineError("adapter_load_failed", "The fleet does not find it.", name=name)
    if status.code == 413:
        return EngineError("prompt_too_long", "The fleet takes no body of this size.", prompt_of(request))
    return bad_request(status, request, place) if status.code in (400, 422) else refusal(status)


def bad_request(status: Refusal, request: Request, place: BasePlace) -> EngineError:
    message = status.message
    if request.adapter is not None and (NOT_LOADED.search(message) or LOST.search(message)):
        return EngineError("adapter_load_failed", "The fleet does not load it.", name=request.adapter["name"])
    if status.param in LENGTHS or TOO_LONG.search(message):
        return too_long(message, request, place)
    if VOCABULARY.search(message) and status.param != "stop_token_ids":
        token = TOKEN.search(message)
        return EngineError(
            "unknown_token", message, prompt_of(request), **({"token": token.group(1)} if token is not None else {})
        )
    param = parameter(status, request.params)
    if not param and (status.param == "prompt" or EMPTY.search(message)):
        param = prompt_of(request)
    if param:
        return EngineError("invalid_parameter", message, param, reason=message)
    return EngineError("engine_error", "The fleet refuses the request.", reason=message)


def too_long(message: str, request: Request, place: BasePlace) -> EngineError:
    length = LENGTH.search(message)
    detail: dict[str, Any] = {"context": place.context} if place.context else {}
    if length is not None:
        detail["tokens"] = int(length.group(1) or length.group(2))
    return EngineError("context_length_exceeded", message, prompt_of(request), **detail)


def parameter(status: Refusal, params: SamplingParams) -> str:
    """The parameter as the client knows it: by the name that the fleet gives, or with which its sentence begins; the
    schema where one was asked for and no other is named, since its grammars say only what they do not take."""
    named = (status.param or "").removeprefix("body.")
    found = FIRST_WORD.match(status.message)
    for name in (named, found.group(1) if found is not None else ""):
        if name in SamplingParams.model_fields:
            return name
    grammar = named in ("structured_outputs", "response_format") or not named
    if grammar and params.json_schema is not None:
        return "json_schema"
    return "json_object" if grammar and params.json_object else ""


def in_stream(error: Any) -> Refusal:
    """Of the `error` in a chunk of a stream; of one that is the fleet's own fault only its kind."""
    said = error if isinstance(error, dict) else {}
    code, param = said.get("code"), said.get("param")
    code = code if type(code) is int and 400 <= code < 600 else 500
    message = said.get("message" if code in (400, 422) else "type")
    return Refusal(
        code, plain(message) if isinstance(message, str) else "", param[:100] if isinstance(param, str) else None
    )


def prompt_of(request: Request) -> str:
    return "prompt" if request.messages is None else "messages"
