"""An answer is what its declaration says, wherever its values come from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import Field, ValidationError

from common.answers import Answer, Frame, one_of, page_of
from common.api import error_body


class Ref(Answer):
    id: int
    name: str


class Thing(Answer):
    id: int
    state: Annotated[str, one_of(["on", "off"])]
    owner: Ref | None
    group: int | None = Field(validation_alias="group_id")
    from_: str = Field(validation_alias="origin", serialization_alias="from")
    note: str = Field("", description="Where there is one.")


class Moved(Frame):
    type: ClassVar[str] = "moved"
    thing: Thing


ROW = SimpleNamespace(id=1, state="on", owner=SimpleNamespace(id=2, name="x", secret="s"), origin="a", path="/private")  # noqa: S106
SENT = {"id": 1, "state": "on", "owner": {"id": 2, "name": "x"}, "group": None, "from": "a"}


def test_of_a_row_and_what_it_lacks() -> None:
    assert Thing.of(ROW, group_id=None) == SENT
    assert Thing.of(ROW, group_id=None, note="new", owner=None) == {**SENT, "owner": None, "note": "new"}


def test_of_another_answer() -> None:
    row = SimpleNamespace(**vars(ROW), group_id=None)
    assert Moved.of(thing=row) == {"type": "moved", "thing": SENT}


@pytest.mark.parametrize("wrong", [{}, {"group_id": "many"}])
def test_what_is_missing_or_of_another_type_is_not_sent(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Thing.of(ROW, **wrong)


def test_the_description() -> None:
    schema = page_of(Thing, "ThingPage", total=(int, ...)).model_json_schema(mode="serialization")
    assert schema["required"] == ["count", "next", "previous", "results", "total"]
    thing = schema["$defs"]["Thing"]
    assert thing["required"] == ["id", "state", "owner", "group", "from"]
    assert thing["properties"]["state"] == {"type": "string", "enum": ["on", "off"]}
    assert thing["properties"]["note"] == {"type": "string", "description": "Where there is one."}


def test_errors_carry_what_else_is_told() -> None:
    told = {"code": "x", "message": "Why.", "param": None}
    assert error_body("x", "Why.") == {"error": told}
    assert error_body("x", "Why.", checks={"store": False}) == {"error": {**told, "checks": {"store": False}}}
