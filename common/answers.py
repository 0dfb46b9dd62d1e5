"""Shapes of what the portal sends: an answer is made by its declaration, and described by it in the OpenAPI schema."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, create_model


def _bare(schema: dict[str, Any]) -> None:
    """Without what a reader of the description does not need: names told twice, and what stands for "not there"."""
    schema.pop("title", None)
    for field in schema.get("properties", {}).values():
        field.pop("title", None)
        field.pop("default", None)


class _Joined:
    def __init__(self, source: Any, more: Mapping[str, Any]) -> None:
        self._source = source
        self.__dict__.update(more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


class Answer(BaseModel):
    """An object with these fields, each taken from the attribute of its name. What has a default may be missing."""

    model_config = ConfigDict(from_attributes=True, validate_by_name=True, json_schema_extra=_bare)

    @classmethod
    def of(cls, source: Any = None, **more: Any) -> dict[str, Any]:
        """Made of a row or another object, and of values that it lacks."""
        return cls.model_validate(_Joined(source, more)).model_dump(by_alias=True, exclude_unset=True)


class Frame(Answer):
    """A message of a websocket; `type` says which."""

    type: ClassVar[str]

    @classmethod
    def of(cls, source: Any = None, **more: Any) -> dict[str, Any]:
        return {"type": cls.type, **super().of(source, **more)}


class ErrorObject(Answer, extra="allow"):
    code: str = Field(description="Stable, for programs.")
    message: str = Field(description="A sentence for people, in the reader's language.")
    param: str | None = Field(description="The field of the request at fault.")


class Error(Answer):
    error: ErrorObject


def one_of(values: Iterable[str]) -> Any:
    """Of a string: the description lists what it may be."""
    return Field(json_schema_extra={"enum": [*values]})


def page_of(item: type[Answer], name: str, **extra: Any) -> type[Answer]:
    """A page of a list, as `common.api.Pagination` gives it; `extra`: further fields, each (type, ...)."""
    fields: dict[str, Any] = {
        "count": (int, ...), "next": (str | None, ...), "previous": (str | None, ...), "results": (list[item], ...)  # type: ignore[valid-type]
    }  # fmt: skip
    return create_model(name, __base__=Answer, **fields, **extra)
