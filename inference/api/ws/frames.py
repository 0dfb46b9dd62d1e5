"""The frames of `/ws/generate`: their types, and the strict reading of what a client sends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

from django.utils.translation import gettext as _

from common.api import ApiError
from inference import params as reading
from inference.engine.protocol import Params, Timings, Usage

MAX_ID_CHARS = 64
MAX_TARGETS = 8


# Client -> server


class GenerateFrame(TypedDict):
    """Ask every target the same; the answers arrive interleaved, each under its target."""

    type: Literal["generate"]
    id: str
    targets: list[str]
    messages: NotRequired[list[dict[str, str]]]
    prompt: NotRequired[str]  # raw text, instead of messages
    params: NotRequired[Params]


class StopFrame(TypedDict):
    type: Literal["stop"]
    id: str


class AckFrame(TypedDict):
    """The client has dealt with every piece up to `index`; of all targets where none is named."""

    type: Literal["ack"]
    id: str
    index: int
    target: NotRequired[str]


# Server -> client


class QueuedFrame(TypedDict):
    """`expected`: seconds until the answer is likely to begin, where enough was seen to say so (here and below)."""

    type: Literal["queued"]
    id: str
    target: str
    position: int
    reason: str
    detail: dict[str, Any]
    expected: NotRequired[int]


class LoadingFrame(TypedDict):
    type: Literal["loading"]
    id: str
    target: str
    stage: str
    progress: float
    name: str
    expected: NotRequired[int]


class TokenFrame(TypedDict):
    type: Literal["token"]
    id: str
    target: str
    text: str
    index: int
    logprobs: NotRequired[list[dict[str, Any]]]


class DoneFrame(TypedDict):
    type: Literal["done"]
    id: str
    target: str
    finish_reason: str
    usage: Usage
    timings: Timings
    digest: str
    stop: NotRequired[str]
    logprobs: NotRequired[list[dict[str, Any]]]


class ErrorFrame(TypedDict):
    """`id` and `target` are null where the error concerns the connection or a frame that names none."""

    type: Literal["error"]
    id: str | None
    target: str | None
    code: str
    message: str
    param: str | None
    status: int  # what HTTP would answer
    retry_after: NotRequired[float]


@dataclass(frozen=True)
class Generate:
    """A `generate` frame that was read and found good."""

    id: str
    targets: tuple[str, ...]
    messages: list[dict[str, str]] | None
    prompt: str | None
    params: Params


@dataclass(frozen=True)
class Stop:
    id: str


@dataclass(frozen=True)
class Ack:
    id: str
    index: int
    target: str | None


def interpret(data: Any) -> Generate | Stop | Ack:
    if not isinstance(data, Mapping):
        raise ApiError("malformed_frame", _("A frame is a JSON object with a type."))
    kind = data.get("type")
    if kind not in ("generate", "stop", "ack"):
        raise ApiError("malformed_frame", _("type must be generate, stop or ack."), param="type")
    frame_id = reading.text(data.get("id"), "id", MAX_ID_CHARS)
    if not frame_id:
        raise reading.refuse("id", "empty", _("%(param)s must not be empty."))
    if kind == "stop":
        return Stop(frame_id)
    if kind == "ack":
        target = data.get("target")
        named = None if target is None else reading.text(target, "target", 200)
        return Ack(frame_id, reading.integer(data.get("index"), "index", 0, 2**53), named)
    names = targets(data.get("targets"))
    messages, prompt = reading.either(data)
    params = data.get("params")
    return Generate(frame_id, names, messages, prompt, reading.sampling({} if params is None else params, "params."))


def targets(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise reading.refuse("targets", "invalid_type", _("%(param)s must be a list of model names."))
    if len(value) > MAX_TARGETS:
        raise reading.refuse("targets", "too_many", _("%(param)s has more than %(limit)s entries."), limit=MAX_TARGETS)
    names = tuple(reading.text(item, f"targets.{index}", 200) for index, item in enumerate(value))
    if len(set(names)) != len(names):
        raise reading.refuse("targets", "duplicate", _("%(param)s names a model twice."))
    return names


def error_frame(error: ApiError, frame_id: str | None, target: str | None = None) -> ErrorFrame:
    frame: ErrorFrame = {
        "type": "error",
        "id": frame_id,
        "target": target,
        "code": error.code,
        "message": error.message,
        "param": error.param,
        "status": error.status,
    }
    if error.retry_after is not None:
        frame["retry_after"] = error.retry_after
    return frame
