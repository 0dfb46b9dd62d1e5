"""Conversations of other programs: OpenAI's messages, ShareGPT, Open WebUI. Their shapes, and what they say in ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from common.shapes import CHARACTERS, Lenient, Str, not_empty, refuse
from inference.params import Text

from .flows import MOST_MESSAGES

Turn = dict[str, Any]  # a message of an export of ours
BETWEEN = "\n\n"  # system messages, and parts of a message


def _plain(value: Any) -> Any:
    """A message's parts as one text. What is not text cannot be kept, and nothing is left out silently."""
    if not isinstance(value, list):
        return "" if value is None else value
    texts = [part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in value]
    if not all(isinstance(text, str) for text in texts):
        raise refuse("not_text")
    return BETWEEN.join(map(str, texts))


def _bounded(value: Any) -> Any:
    if isinstance(value, (list, dict)) and len(value) > MOST_MESSAGES:
        raise refuse("too_many_messages")
    return value


def _cut(length: int) -> BeforeValidator:
    """A name of another program: what is no text is none, and a long one is shortened."""
    return BeforeValidator(lambda value: value[:length].strip() if isinstance(value, str) else "")


Content = Annotated[Text, BeforeValidator(_plain)]
Title = Annotated[str, CHARACTERS, _cut(200)]
Model = Annotated[str, CHARACTERS, _cut(128)]
ModelTitle = Annotated[str, CHARACTERS, _cut(255)]
Bounded = BeforeValidator(_bounded)
Some = AfterValidator(not_empty)


class OpenAiMessage(Lenient):
    role: Literal["system", "developer", "user", "assistant"]
    content: Content = ""


class OpenAiChat(Lenient):
    """OpenAI's messages. Those of the system stand first; the list may also be sent alone."""

    messages: Annotated[list[OpenAiMessage], Bounded, Some]
    title: Title = ""
    model: Model = ""

    @model_validator(mode="after")
    def _system_first(self) -> Self:
        self.exported()
        return self

    def exported(self) -> dict[str, Any]:
        return linear(self.title, self.model, [(one.role, one.content) for one in self.messages], "messages", "role")


SHAREGPT = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "model": "assistant",
}  # fmt: skip


class ShareGptTurn(Lenient):
    speaker: Annotated[
        Literal["system", "human", "user", "gpt", "assistant", "chatgpt", "bing", "bard", "model"], Field(alias="from")
    ]
    value: Content = ""


class ShareGptChat(Lenient):
    conversations: Annotated[list[ShareGptTurn], Bounded, Some]
    title: Title = ""
    system: Annotated[Text, BeforeValidator(lambda value: value or "")] = ""

    @model_validator(mode="after")
    def _system_first(self) -> Self:
        self.exported()
        return self

    def exported(self) -> dict[str, Any]:
        said = [(SHAREGPT[one.speaker], one.value) for one in self.conversations]
        if self.system:
            said.insert(0, ("system", self.system))
        return linear(self.title, "", said, "conversations", "from")


class OpenWebUiMessage(Lenient):
    role: Literal["user", "assistant"]
    content: Content = ""
    parentId: Annotated[Str | None, Field(max_length=128)] = None  # noqa: N815  (their names)
    model: Model = ""
    modelName: ModelTitle = ""  # noqa: N815


class OpenWebUiHistory(Lenient):
    messages: Annotated[dict[Annotated[Str, Field(max_length=128)], OpenWebUiMessage], Bounded]
    currentId: Str | None = None  # noqa: N815


class OpenWebUiBody(Lenient):
    history: OpenWebUiHistory
    title: Title = ""
    system: Annotated[Text, BeforeValidator(lambda value: value or "")] = ""
    models: Any = None
    params: Any = None

    @model_validator(mode="before")
    @classmethod
    def _system_of_params(cls, data: Any) -> Any:
        """Newer versions keep the system prompt among the parameters."""
        params = data.get("params") if isinstance(data, Mapping) else None
        if isinstance(params, Mapping) and params.get("system") and not data.get("system"):
            return {**data, "system": params["system"]}
        return data


class OpenWebUiChat(Lenient):
    chat: OpenWebUiBody
    title: Title = ""

    def exported(self) -> dict[str, Any]:
        body = self.chat
        nodes = body.history.messages
        numbers: dict[str, int] = {}
        turns: list[Turn] = []
        children: dict[str | None, list[str]] = {}
        for key, node in nodes.items():
            children.setdefault(node.parentId if node.parentId in nodes else None, []).append(key)
        waiting = children.get(None, [])[::-1]
        while waiting:  # parents first; what nobody leads to is in a circle
            key = waiting.pop()
            node = nodes[key]
            numbers[key] = len(turns) + 1
            of_model = {"target": node.model, "target_name": node.modelName or node.model}
            turn = {"id": numbers[key], "parent": numbers.get(node.parentId or ""), "role": node.role}
            turns.append(turn | {"content": node.content} | (of_model if node.role == "assistant" else {}))
            waiting += children.get(key, [])[::-1]
        if len(turns) < len(nodes):
            raise refuse("not_exported", param="chat.history.messages")
        models = body.models if isinstance(body.models, list) else []
        target = next((one[:128] for one in models if isinstance(one, str)), "")
        return {
            "title": self.title or body.title, "system": body.system, "target": target, "messages": turns,
            "leaf": numbers.get(body.history.currentId or ""),
        }  # fmt: skip

    @model_validator(mode="after")
    def _is_a_tree(self) -> Self:
        self.exported()
        return self


Foreign = OpenAiChat | ShareGptChat | OpenWebUiChat


def linear(title: str, target: str, said: list[tuple[str, str]], field: str, name: str) -> dict[str, Any]:
    """What an export of ours holds of a conversation without versions. Raises PydanticCustomError."""
    system: list[str] = []
    turns: list[Turn] = []
    for place, (role, content) in enumerate(said):
        if role not in ("system", "developer"):
            number = len(turns) + 1
            of_model = {"target": target, "target_name": target} if role == "assistant" else {}
            turns.append({"id": number, "parent": number - 1 or None, "role": role, "content": content, **of_model})
        elif turns:  # ours is one for the whole conversation
            raise refuse("late_system", param=f"{field}.{place}.{name}")
        else:
            system.append(content)
    return {"title": title, "target": target, "system": BETWEEN.join(system), "messages": turns}


def kind_of(data: Any) -> type[Foreign] | None:
    """Whose shape this looks like; None: our own, or nothing known."""
    if not isinstance(data, dict):
        return None
    if "conversations" in data:
        return ShareGptChat
    if isinstance(data.get("chat"), dict):
        return OpenWebUiChat
    messages = data.get("messages")
    if isinstance(messages, list) and messages and all(is_openai(one) for one in messages):
        return OpenAiChat
    return None


def is_openai(message: Any) -> bool:
    """A message without a place in a tree."""
    return isinstance(message, dict) and "role" in message and not {"id", "parent"} & set(message)
