"""Votes as a head to head: who beats whom, for each account its own."""

from __future__ import annotations

import pytest
from rest_framework.test import APIClient

from .test_votes import body, client, clients, put  # noqa: F401  (fixtures)

pytestmark = pytest.mark.django_db(transaction=True)
URL = "/api/compare/head-to-head"


def pairs(client: APIClient, query: str = "") -> dict[tuple[str, str], tuple[int, int, int]]:  # noqa: F811
    found = client.get(f"{URL}{query}").json()
    names = [one["model"] for one in found["players"]]
    return {
        (names[one["one"]], names[one["other"]]): (one["wins"], one["losses"], one["ties"]) for one in found["pairs"]
    }


def test_each_vote_compares_its_answers(client: APIClient) -> None:  # noqa: F811
    put(client, body("pirate", blind=True))
    put(client, body("pirate"))
    put(client, body("tiny"))
    put(client, body(None))  # all equally good
    put(client, body(None, verdict="none"))  # says nothing
    assert pairs(client) == {
        ("pirate", "poet"): (2, 0, 1), ("pirate", "tiny"): (2, 1, 1), ("poet", "tiny"): (0, 1, 1),
    }  # fmt: skip
    assert pairs(client, "?kind=blind") == {("pirate", "poet"): (1, 0, 0), ("pirate", "tiny"): (1, 0, 0)}
    told = client.get(URL).json()
    assert (told["decided"], told["ties"], told["ranking"], told["refusal"]) == (6, 3, None, "few_decided")


def test_votes_enough_for_a_ranking(client: APIClient) -> None:  # noqa: F811
    for best in ["pirate"] * 8 + ["tiny"] * 3 + ["poet"]:
        put(client, body(best))
    told = client.get(URL).json()
    assert [told["players"][one["player"]]["model"] for one in told["ranking"]] == ["pirate", "tiny", "poet"]
    page = client.get("/compare/head-to-head").content.decode()
    assert page.count('data-testid="rank"') == 3 and "never lost" not in page


def test_everybody_sees_their_own(clients: dict[str, APIClient]) -> None:  # noqa: F811
    put(clients["owner"], body())
    assert pairs(clients["owner"]) and not pairs(clients["teammate"])
    assert b"pairwise" not in clients["teammate"].get("/compare/head-to-head").content
