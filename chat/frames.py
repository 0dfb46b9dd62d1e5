"""The frames of `/ws/chat`. What goes wrong is told in an `ErrorFrame`, as on `/ws/generate`."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from common.answers import Frame
from common.shapes import ExportedId, Id, Lenient
from inference.engine.params import SamplingParams
from inference.params import Prompt

from .answers import ChatMessage, Conversation

# Client -> server


class ChatFrame(Lenient):
    """`begins`: it starts an answer, with `params`."""

    begins: ClassVar[bool] = False


class Beginning(ChatFrame):
    """`seen`: the conversation's `leaf` as its asker knows it, 0 for none; where it has another one by now, it went on
    elsewhere, and the frame is refused."""

    begins: ClassVar[bool] = True

    conversation: Id
    seen: ExportedId | None = None
    params: SamplingParams | None = None


class Ask(Beginning):
    """A question after `parent`, the message that it follows; null begins the conversation."""

    parent: Id | None = None
    content: Prompt
    target: Any = None


class Again(Beginning):
    """Another answer to the question `message`."""

    message: Id
    target: Any = None


class Continue(Beginning):
    """Write on at the answer `message`."""

    message: Id


class Follow(ChatFrame):
    message: Id


class Stop(ChatFrame):
    message: Id


ClientFrame = type[Ask | Again | Continue | Follow | Stop]
CLIENT_FRAMES: dict[str, ClientFrame] = {
    "ask": Ask, "again": Again, "continue": Continue, "follow": Follow, "stop": Stop
}  # fmt: skip


# Server -> client


class Started(Frame):
    """What a frame that begins an answer has made; `id` is that frame's."""

    type: ClassVar[str] = "started"
    id: str | None
    conversation: Conversation
    question: ChatMessage | None
    answer: ChatMessage


class Sync(Frame):
    """All of the answer so far."""

    type: ClassVar[str] = "sync"
    message: int
    text: str


class More(Sync):
    """What comes after that."""

    type: ClassVar[str] = "text"


class Trimmed(Frame):
    """How many earlier messages are left out of the prompt."""

    type: ClassVar[str] = "trimmed"
    message: int
    count: int


class Progress(Frame):
    """Why the answer has not begun: what the `queued` or `loading` frame of `/ws/generate` tells, `kind` its type."""

    type: ClassVar[str] = "progress"
    message: int
    kind: Literal["queued", "loading"]
    position: int = 0
    reason: str = ""
    detail: dict[str, Any] = {}
    stage: str = ""
    progress: float = 0.0
    name: str = ""
    expected: int = 0


class Done(Frame):
    """The answer has ended, however it did. `logprobs`: where they were asked for, as in `/ws/generate`; not kept."""

    type: ClassVar[str] = "done"
    message: ChatMessage
    logprobs: list[dict[str, Any]] = []
