"""What the prompt library answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from common.answers import Answer

from .models import PARTS, PREVIEW
from .models import SavedPrompt as Row


class PromptFacts(Answer):
    id: int
    name: str
    params: dict[str, Any]
    shared: bool
    owner: str = Field(description="Account that made it.")
    mine: bool
    created_at: datetime
    updated_at: datetime


class SavedPrompt(PromptFacts):
    system: str
    prompt: str


class ListedPrompt(PromptFacts):
    parts: list[str] = Field(description="What it holds: " + ", ".join(PARTS) + ".")
    preview: str = Field(description=f"The first {PREVIEW} characters of its system prompt, or else of its prompt.")


def whole(row: Row, user_id: int) -> dict[str, Any]:
    return SavedPrompt.of(row, owner=row.owner.get_username(), mine=row.owner_id == user_id)


def listed(row: Any, user_id: int) -> dict[str, Any]:
    """Of a row of `SavedPromptQuerySet.listed`."""
    held = {"system": row.system_start, "prompt": row.prompt_start, "params": row.params}
    more = {"parts": [part for part in PARTS if held[part]], "preview": row.system_start or row.prompt_start}
    return ListedPrompt.of(row, owner=row.owner.get_username(), mine=row.owner_id == user_id, **more)
