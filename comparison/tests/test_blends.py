"""Blends in comparisons: named in an address, voted on as their recipe, never counted as one of their adapters."""

from __future__ import annotations

import csv
import json
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from adapters.models import BaseModel, LoraAdapter, Status
from comparison.addresses import columns
from inference.engine.recipes import recipe_digest
from inference.models import UsageDay

from .test_votes import BASE, PIRATE, POET, URL, body, client, clients, content, put  # noqa: F401  (fixtures)

pytestmark = pytest.mark.django_db(transaction=True)
MIX = [{"model": "pirate", "weight": 0.7, "digest": PIRATE}, {"model": "poet", "weight": -0.3, "digest": POET}]
DIGEST = recipe_digest([(PIRATE, 0.7), (POET, -0.3)])
LABEL = "0.7 × pirate + -0.3 × poet"


def blend(**changes: Any) -> dict[str, Any]:
    return {"adapters": MIX, "digest": DIGEST, "text": "Arr, a rose", **changes}


def vote(*blends: dict[str, Any], best: str | None = None) -> dict[str, Any]:
    """On answers of pirate, poet and `blends`, the last of which is best unless `best` is."""
    given = body(best)
    answers = [*given["candidates"][:2], *blends]
    answers[-1] = {**answers[-1], "chosen": best is None}
    return {**given, "verdict": "best", "candidates": answers}


def test_a_vote_keeps_the_recipe_and_its_digests(client: APIClient) -> None:  # noqa: F811
    run = uuid.uuid4()
    made = put(client, vote(blend(name="0.7 × Pirate + -0.3 × Poet", model="what a call named")), run)
    assert made.status_code == 201, made.content
    found = client.get(f"{URL}/{run}").json()["candidates"]
    assert (found[2]["model"], found[2]["name"]) == (LABEL, "0.7 × Pirate + -0.3 × Poet")
    assert (found[2]["digest"], found[2]["adapters"]) == (DIGEST, MIX)
    assert "adapters" not in found[0]
    again = put(client, {**vote(), "candidates": found}, run)  # as it was fetched
    assert again.json()["candidates"] == found


def test_it_wins_for_its_recipe_alone(client: APIClient) -> None:  # noqa: F811
    other = [{**MIX[0], "weight": 0.5}, MIX[1]]
    weaker = blend(adapters=other, digest=recipe_digest([(PIRATE, 0.5), (POET, -0.3)]))
    assert put(client, vote(blend())).status_code == 201
    assert put(client, vote(weaker, blend())).status_code == 201
    assert put(client, vote(blend(), best="pirate")).status_code == 201
    rows = client.get("/api/compare/summary").json()["results"]
    assert {row["model"]: (row["votes"], row["wins"]) for row in rows} == {
        "pirate": (3, 1), "poet": (3, 0), LABEL: (3, 2), "0.5 × pirate + -0.3 × poet": (1, 0),
    }  # fmt: skip
    assert [row["adapters"] for row in rows if row["digest"] == DIGEST] == [MIX]
    table = client.get("/api/compare/head-to-head").json()
    assert {one["model"]: one["digest"] for one in table["players"]}[LABEL] == DIGEST
    assert client.get(f"{URL}?model=pirate").json()["count"] == 3
    assert len(client.get("/api/compare/summary", {"model": "0.5 × pirate + -0.3 × poet"}).json()["results"]) == 4


def test_exports_name_the_recipe(client: APIClient) -> None:  # noqa: F811
    put(client, vote(blend()))
    pairs = [json.loads(line) for line in content(client.get(f"{URL}/export.jsonl")).splitlines()]
    assert [pair["chosen"]["adapters"] for pair in pairs] == [MIX, MIX]
    assert all("adapters" not in pair["rejected"] for pair in pairs)
    text = content(client.get(f"{URL}/export.csv")).removeprefix("\ufeff")
    rows = list(csv.DictReader(text.splitlines(keepends=True)))
    assert [row["adapters"] for row in rows[:2]] == ["", ""]
    assert (rows[2]["model"], json.loads(rows[2]["adapters"])) == (LABEL, MIX)


def test_one_adapter_with_the_weight_1_is_that_adapter(client: APIClient) -> None:  # noqa: F811
    alone = [{"model": "tiny", "digest": BASE}, {**MIX[0], "weight": 0}]
    made = put(client, vote(blend(adapters=alone, digest=BASE)))
    assert made.status_code == 201, made.content
    assert made.json()["candidates"][2]["model"] == "tiny" and "adapters" not in made.json()["candidates"][2]
    twice = put(client, vote(blend(adapters=[{**MIX[0], "weight": 1}], digest=PIRATE)))
    assert twice.json()["error"]["code"] == "duplicate"


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"digest": PIRATE}, "invalid_digest", "candidates.2.digest"),
        ({"adapters": [MIX[1], MIX[0]]}, "invalid_digest", "candidates.2.digest"),
        ({"adapters": []}, "empty", "candidates.2.adapters"),
        ({"adapters": [{**MIX[0], "weight": 2.5}]}, "out_of_range", "candidates.2.adapters.0.weight"),
        ({"adapters": [{"model": "pirate"}]}, "required", "candidates.2.adapters.0.digest"),
        ({"adapters": MIX * 5}, "too_many", "candidates.2.adapters"),
        ({"adapters": [MIX[0], MIX[0]]}, "duplicate", "candidates.2.adapters"),
        ({"adapters": None}, "required", "candidates.2.model"),
        ({"adapters": None, "model": None}, "required", "candidates.2.model"),
        (
            {"adapters": [{**MIX[0], "digest": "a" * 64}], "digest": recipe_digest([("a" * 64, 0.7)])},
            "unknown_digest",
            "candidates.2.digest",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refusals(client: APIClient, changes: dict[str, Any], code: str, param: str) -> None:  # noqa: F811
    answer = put(client, vote(blend(**changes)))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)


def test_two_of_the_same_recipe_are_one_model_twice(client: APIClient) -> None:  # noqa: F811
    assert put(client, vote(blend(), blend())).json()["error"]["code"] == "duplicate"
    assert put(client, vote(blend(), blend(params={"temperature": 0}))).status_code == 201


def test_a_recipe_of_the_past_counts_for_whom_it_answered(clients: dict[str, APIClient], owner: User) -> None:  # noqa: F811
    """An adapter was trained anew between the answer and the vote."""
    old = [{**MIX[0], "digest": "c" * 64}, MIX[1]]
    digest = recipe_digest([("c" * 64, 0.7), (POET, -0.3)])
    UsageDay.objects.create(day="2026-01-01", user=owner, model=LABEL, digest=digest)
    given = vote(blend(adapters=old, digest=digest))
    assert put(clients["owner"], given).status_code == 201
    assert put(clients["teammate"], given).status_code == 400


def test_the_page_of_votes_shows_what_answered(client: APIClient) -> None:  # noqa: F811
    put(client, vote(blend()))
    page = client.get("/compare/votes").content.decode()
    assert page.count('data-testid="vote-recipe"') == 1
    assert all(f'title="{part["digest"]}"' in page for part in MIX)


def test_a_vote_is_opened_again(clients: dict[str, APIClient], registry: SimpleNamespace) -> None:  # noqa: F811
    run = uuid.uuid4()
    assert put(clients["owner"], vote(blend(params={"temperature": 0.5})), run).status_code == 201
    registry.poet.mark_inactive(None)
    page = clients["owner"].get(f"/compare?vote={run}")
    assert page.context["chosen"] == [{"own": "", "model": "pirate"}]
    assert page.context["unknown"] == f"poet, {LABEL}"
    assert page.context["asked"] == {"prompt": "Hello?", "system": "Be brief.", "temperature": 0, "max_tokens": 9}
    LoraAdapter.objects.filter(slug="poet").update(status=Status.ACTIVE, digest=POET)
    parts = [{"model": part["model"], "weight": part["weight"]} for part in MIX]
    page = clients["owner"].get(f"/compare?vote={run}")
    assert page.context["chosen"][2] == {"own": "temperature=0.5", "blend": parts}
    for wrong in (clients["teammate"].get(f"/compare?vote={run}"), clients["owner"].get("/compare?vote=x")):
        assert wrong.status_code == 200 and wrong.context["asked"] == {}


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("pirate", [("pirate", [])]),
        ("pirate:0.7+poet:-0.3", [("", [("pirate", 0.7), ("poet", -0.3)])]),
        ("pirate:0.7 poet:-0.3;seed=1", [("", [("pirate", 0.7), ("poet", -0.3)])]),  # a + arrives as a space
        ("pirate:1,poet:0+pirate:1", [("pirate", []), ("pirate", [])]),
        ("pirate:x,pirate:3,pirate:nan,pirate:0,a:1+a:1,a:1+b", [("", [])] * 6),
        ("+".join(f"a{n}:1" for n in range(9)), [("", [])]),
    ],
)
def test_columns_of_an_address(address: str, found: list[Any]) -> None:
    assert [(one.model, [(part.model, part.weight) for part in one.blend]) for one in columns(address)] == found


def test_the_page_takes_what_may_be_asked(client: APIClient, registry: SimpleNamespace) -> None:  # noqa: F811
    other = BaseModel.objects.create(name="o", slug="o", path="/models/o", path_hash="o", key="c" * 64)
    LoraAdapter.objects.create(
        name="stranger", slug="stranger", path_hash="s", base=other, status=Status.ACTIVE, digest="f" * 64
    )
    wanted = "pirate;seed=1,pirate:0.7+poet:-0.3;seed=2,pirate:1+stranger:1,pirate:1+idle:1,pirate:1+tiny:1,poet:3"
    page = client.get("/compare", {"models": wanted})
    assert page.context["chosen"] == [
        {"own": "seed=1", "model": "pirate"},
        {"own": "seed=2", "blend": [{"model": "pirate", "weight": 0.7}, {"model": "poet", "weight": -0.3}]},
    ]
    assert page.context["unknown"] == "1 × pirate + 1 × idle"
    assert page.context["unfit"] == "1 × pirate + 1 × stranger, 1 × pirate + 1 × tiny, 3 × poet"
