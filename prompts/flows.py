"""Finding and keeping entries of the library. Synchronous."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from django.contrib.auth.models import User
from django.http import Http404
from django.utils.translation import gettext as _
from pydantic import AfterValidator, Field, model_validator

from common.api import ApiError
from common.shapes import CHARACTERS, Shape, refuse
from inference.engine.params import SamplingParams, shown
from inference.params import Text, body

from .models import PARTS, SavedPrompt, SavedPromptQuerySet

MOST = 500  # of one account
MAX_NAME = 80
SHOWN = frozenset(name for name, _shown in shown())  # parameters that pages have a field for


def _one_line(value: str) -> str:
    """Without the spaces around it."""
    value = value.strip()
    if not value:
        raise refuse("empty")
    if any(ord(character) < 32 for character in value) or len(value.splitlines()) > 1:
        raise refuse("one_line")
    return value


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise refuse("nul")
    return value if value.strip() else ""


KeptText = Annotated[Text, AfterValidator(_no_nul)]


class PromptBody(Shape):
    """A new entry has a name and at least one of `system`, `prompt` and `params`; a change names what it changes."""

    name: Annotated[str, Field(max_length=MAX_NAME), CHARACTERS, AfterValidator(_one_line)] = ""
    system: KeptText = ""
    prompt: KeptText = ""
    params: Annotated[SamplingParams, Field(description="Of " + ", ".join(sorted(SHOWN)) + ".")] = SamplingParams()
    shared: bool = False

    @model_validator(mode="after")
    def _shown_alone(self) -> PromptBody:
        for name in self.params.given():
            if name not in SHOWN:
                raise refuse("extra_forbidden", param=f"params.{name}")
        return self


def new(user: User, data: Any) -> SavedPrompt:
    """Raises ApiError: 400 for the first field at fault, 409 where the account has too many entries."""
    given = body(PromptBody, data)
    if "name" not in given.model_fields_set:
        raise ApiError("required", _("%(param)s is missing.") % {"param": "name"}, 400, "name")
    if SavedPrompt.objects.of(user).count() >= MOST:
        text = _("You have %(limit)s saved prompts, which is the limit. Delete some first.")
        raise ApiError("too_many", text % {"limit": MOST}, 409)
    return change(SavedPrompt(owner=user), given)


def change(entry: SavedPrompt, given: PromptBody) -> SavedPrompt:
    """Put in what was given, and save. Raises ApiError 400 where nothing would be left in it."""
    for name in given.model_fields_set:
        setattr(entry, name, given.params.given() if name == "params" else getattr(given, name))
    if not any(getattr(entry, part) for part in PARTS):
        raise ApiError("empty", _("Enter a system prompt, a prompt or parameters."), 400, "system")
    entry.save()
    return entry


def own(user: Any, pk: int) -> SavedPrompt:
    """Raises Http404."""
    return _only(SavedPrompt.objects.of(user), pk)


def visible(user_id: int, pk: int) -> SavedPrompt:
    """Raises Http404."""
    return _only(SavedPrompt.objects.visible_to(user_id), pk)


def _only(rows: SavedPromptQuerySet, pk: int) -> SavedPrompt:
    found = rows.select_related("owner").filter(pk=pk).first()
    if found is None:
        raise Http404
    return found


def wanted(user_id: int, query: Mapping[str, str]) -> SavedPromptQuerySet:
    """What `?search= ?part= ?whose=` leave of the entries that this account sees, as lists show it.

    `part`: system, prompt or params, several separated by commas; `whose`: mine or others. Raises ApiError 400.
    """
    rows = SavedPrompt.objects.visible_to(user_id).having(query.get("search", ""))
    if parts := [part for part in query.get("part", "").split(",") if part]:
        if not set(parts) <= set(PARTS):
            raise _not_among("part", PARTS)
        rows = rows.holding(parts)
    whose = query.get("whose", "")
    if whose not in ("", "mine", "others"):
        raise _not_among("whose", ("mine", "others"))
    if whose:
        rows = rows.filter(owner_id=user_id) if whose == "mine" else rows.exclude(owner_id=user_id)
    return rows.listed(user_id)


def _not_among(param: str, choices: tuple[str, ...]) -> ApiError:
    text = _("%(param)s must be one of %(choices)s.") % {"param": param, "choices": ", ".join(choices)}
    return ApiError("invalid_choice", text, 400, param)
