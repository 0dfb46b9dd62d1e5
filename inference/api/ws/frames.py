"""The frames of `/ws/generate`, each declared once: what a client sends is read by its declaration, and what the server
sends is made by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from django.utils.translation import gettext as _
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from common.answers import Frame
from common.api import ApiError
from common.shapes import CHARACTERS, Lenient, NotEmpty, refuse, whole
from inference.api.parts import BlendPartObject
from inference.backends.interface import Event
from inference.engine.params import SamplingParams
from inference.engine.protocol import Timings, Usage
from inference.gateway.targets import BlendPart
from inference.params import MAX_MODEL_CHARS, Asked, Blend, Ingredient, body

MAX_ID_CHARS = 64
MAX_TARGETS = 8


# Client -> server


def _some_targets(value: Any) -> Any:
    if not isinstance(value, list) or not value:
        raise refuse("targets_type")
    if len(value) > MAX_TARGETS:
        raise refuse("too_many", limit=MAX_TARGETS)
    return value


def _each_once(names: list[str]) -> list[str]:
    if len(set(names)) != len(names):
        raise refuse("targets_twice")
    return names


FrameId = Annotated[str, Field(max_length=MAX_ID_CHARS), CHARACTERS, NotEmpty]
TargetName = Annotated[str, Field(max_length=MAX_MODEL_CHARS), CHARACTERS]


class GivenBlend(Lenient, extra="forbid"):
    """Adapters that answer as one. `name` is the client's: the answer's frames have it as their target."""

    name: Annotated[TargetName, NotEmpty]
    adapters: Blend


class Generate(Asked, Lenient):
    """Ask every target, and every blend, the same; the answers arrive interleaved, each under its target."""

    type: Literal["generate"] = "generate"
    id: FrameId
    targets: Annotated[
        list[TargetName],
        BeforeValidator(_some_targets),
        AfterValidator(_each_once),
        Field(description="May be missing where there are blends."),
    ] = []
    blends: Annotated[list[GivenBlend], Field(max_length=MAX_TARGETS)] = []
    params: SamplingParams | None = None

    @model_validator(mode="after")
    def _some_of_both(self) -> Self:
        names = [*self.targets, *(blend.name for blend in self.blends)]
        if not names:
            raise refuse("targets_type", param="targets")
        if len(names) > MAX_TARGETS:
            raise refuse("too_many", param="blends", limit=MAX_TARGETS)
        if len(set(names)) != len(names):
            raise refuse("targets_twice", param="blends")
        return self

    @property
    def asked(self) -> dict[str, list[Ingredient] | None]:
        """Whom it asks, by the targets of the answers' frames: the adapters of a blend, None for a model."""
        return {**dict.fromkeys(self.targets), **{blend.name: blend.adapters for blend in self.blends}}


class Stop(Lenient):
    type: Literal["stop"] = "stop"
    id: FrameId


class Ack(Lenient):
    """The client has dealt with every piece up to `index`; of all targets where none is named."""

    type: Literal["ack"] = "ack"
    id: FrameId
    index: Annotated[int, Field(ge=0, le=2**53), BeforeValidator(whole)]
    target: TargetName | None = None


CLIENT_FRAMES: dict[str, type[Generate | Stop | Ack]] = {"generate": Generate, "stop": Stop, "ack": Ack}


def interpret(data: Mapping[str, Any]) -> Generate | Stop | Ack:
    """Raises ApiError."""
    kind = data.get("type")
    shape = CLIENT_FRAMES.get(kind) if isinstance(kind, str) else None
    if shape is None:
        raise ApiError("malformed_frame", _("type must be generate, stop or ack."), param="type")
    return body(shape, data)


# Server -> client


class TargetFrame(Frame):
    id: str
    target: str


class QueuedFrame(TargetFrame):
    """`expected`: seconds until the answer is likely to begin, where enough was seen to say so (here and below)."""

    type: ClassVar[str] = "queued"
    position: int
    reason: str
    detail: dict[str, Any]
    expected: int = 0


class LoadingFrame(TargetFrame):
    type: ClassVar[str] = "loading"
    stage: str
    progress: float
    name: str
    expected: int = 0


class TokenFrame(TargetFrame):
    type: ClassVar[str] = "token"
    text: str
    index: int
    logprobs: list[dict[str, Any]] = []


class DoneFrame(TargetFrame):
    type: ClassVar[str] = "done"
    finish_reason: str
    usage: Usage
    timings: Timings
    digest: str
    stop: str = ""
    logprobs: list[dict[str, Any]] = []
    adapters: list[BlendPartObject] = []  # of a blend


class ErrorFrame(Frame):
    """`id` and `target` are null where the error concerns the connection or a frame that names none."""

    type: ClassVar[str] = "error"
    id: str | None
    target: str | None
    code: str
    message: str
    param: str | None
    status: int = Field(description="What HTTP would answer.")
    retry_after: float | None = Field(None, exclude_if=lambda seconds: seconds is None)


SERVER_FRAMES: dict[str, type[Frame]] = {
    frame.type: frame for frame in (QueuedFrame, LoadingFrame, TokenFrame, DoneFrame)
}  # fmt: skip


def frame_of(event: Event, frame_id: str, target: str, recipe: Sequence[BlendPart] = ()) -> dict[str, Any]:
    """What became of a request, as the reader hears it. `recipe`: of a blend."""
    said = {**event, "id": frame_id, "target": target}
    if recipe and event["type"] == "done":
        said["adapters"] = recipe
    return SERVER_FRAMES[event["type"]].of(**said)


def error_frame(error: ApiError, frame_id: str | None, target: str | None = None) -> dict[str, Any]:
    return ErrorFrame.of(error, id=frame_id, target=target)
