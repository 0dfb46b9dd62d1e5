"""The frames that a client of `/ws/chat` sends."""

from __future__ import annotations

from typing import Any, ClassVar

from common.shapes import Id, Lenient
from inference.engine.params import SamplingParams
from inference.params import Prompt


class ChatFrame(Lenient):
    """`begins`: it starts an answer, with `params`."""

    begins: ClassVar[bool] = False


class Beginning(ChatFrame):
    begins: ClassVar[bool] = True

    conversation: Id
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


CLIENT_FRAMES: dict[str, type[Ask | Again | Continue | Follow | Stop]] = {
    "ask": Ask, "again": Again, "continue": Continue, "follow": Follow, "stop": Stop
}  # fmt: skip
