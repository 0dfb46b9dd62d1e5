"""Votes over HTTP: cast, change, list, count, export; each account has its own."""

from __future__ import annotations

import csv
import json
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from common.shares import wilson
from comparison import flows
from comparison.models import Candidate, Vote
from inference.models import UsageDay

pytestmark = pytest.mark.django_db(transaction=True)
URL = "/api/compare/votes"
PIRATE, POET, BASE = "d" * 64, "e" * 64, "b" * 64


def body(best: str | None = "pirate", **changes: Any) -> dict[str, Any]:
    """A vote for `best` on answers of pirate, poet and the base; without one it is a tie."""
    answers = (("pirate", PIRATE), ("poet", POET), ("tiny", BASE))
    candidates = [
        {"model": model, "digest": digest, "text": f"{model} says", "chosen": model == best}
        for model, digest in answers
    ]
    asked = {"prompt": "Hello?", "system": "Be brief.", "params": {"temperature": 0, "max_tokens": 9}}
    return {"verdict": "best" if best else "tie", **asked, "candidates": candidates, **changes}


@pytest.fixture
def clients(registry: SimpleNamespace, owner: User, teammate: User, outsider: User) -> dict[str, APIClient]:
    found = {}
    for user in (owner, teammate, outsider):
        found[user.username] = APIClient()
        found[user.username].force_login(user)
    return found


@pytest.fixture
def client(clients: dict[str, APIClient]) -> APIClient:
    return clients["owner"]


def put(client: APIClient, data: Any, run: uuid.UUID | None = None) -> Any:
    return client.put(f"{URL}/{run or uuid.uuid4()}", data, format="json")


def content(response: Any) -> str:
    async def read() -> bytes:
        return b"".join([part async for part in response.streaming_content])

    assert response.status_code == 200
    return async_to_sync(read)().decode()


def test_a_vote_is_kept_whole(client: APIClient) -> None:
    run = uuid.uuid4()
    made = put(client, body(blind=True), run)
    assert made.status_code == 201
    found = client.get(f"{URL}/{run}").json()
    assert found == made.json()
    assert (found["run"], found["blind"], found["verdict"]) == (str(run), True, "best")
    assert found["params"] == {"temperature": 0.0, "max_tokens": 9}
    assert [c["model"] for c in found["candidates"]] == ["pirate", "poet", "tiny"]
    assert [c["digest"] for c in found["candidates"] if c["chosen"]] == [PIRATE]


def test_sent_again_it_is_the_same_vote_and_changed_it_is_no_longer_blind(client: APIClient) -> None:
    run = uuid.uuid4()
    put(client, body(blind=True), run)
    again = put(client, body(blind=True), run)
    assert (again.status_code, again.json()["blind"]) == (200, True)
    changed = put(client, body("poet", blind=True), run).json()
    assert changed["blind"] is False
    assert [c["model"] for c in changed["candidates"] if c["chosen"]] == ["poet"]
    assert put(client, body("pirate", blind=True), run).json()["blind"] is False
    assert (Vote.objects.count(), Candidate.objects.count()) == (1, 3)


def test_everybody_has_their_own_votes(clients: dict[str, APIClient]) -> None:
    run = uuid.uuid4()
    put(clients["owner"], body(), run)
    put(clients["teammate"], body("poet"), run)  # the same id of a comparison is no meeting
    for name, best in (("owner", "pirate"), ("teammate", "poet")):
        (vote,) = clients[name].get(URL).json()["results"]
        assert [c["model"] for c in vote["candidates"] if c["chosen"]] == [best]
    outsider = clients["outsider"]
    assert outsider.get(URL).json()["count"] == 0
    assert outsider.get("/api/compare/summary").json() == {"results": []}
    assert content(outsider.get(f"{URL}/export.jsonl")) == ""
    assert len(content(outsider.get(f"{URL}/export.csv")).splitlines()) == 1
    assert (outsider.get(f"{URL}/{run}").status_code, outsider.delete(f"{URL}/{run}").status_code) == (404, 404)
    assert outsider.post(f"/compare/votes/{run}/delete").status_code == 404
    assert b"Hello?" not in outsider.get("/compare/votes").content
    assert clients["owner"].delete(f"{URL}/{run}").status_code == 204
    assert Vote.objects.get().user.username == "teammate"


def candidate(**changes: Any) -> list[dict[str, Any]]:
    first, *others = body()["candidates"]
    return [{**first, **changes}, *others]


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"verdict": "worst"}, "invalid_choice", "verdict"),
        ({"verdict": "tie"}, "conflict", "candidates"),
        ({"candidates": candidate(chosen=False)}, "conflict", "candidates"),
        ({"candidates": body()["candidates"][:1]}, "out_of_range", "candidates"),
        ({"candidates": body()["candidates"] * 3}, "out_of_range", "candidates"),
        ({"candidates": [*body()["candidates"], body(None)["candidates"][0]]}, "duplicate", "candidates"),
        ({"candidates": "all"}, "invalid_type", "candidates"),
        ({"candidates": [1, 2]}, "invalid_type", "candidates.0"),
        ({"candidates": candidate(digest="D" * 64)}, "invalid_digest", "candidates.0.digest"),
        ({"candidates": candidate(digest=None)}, "invalid_digest", "candidates.0.digest"),
        ({"candidates": candidate(digest="a" * 64)}, "unknown_digest", "candidates.0.digest"),
        ({"candidates": candidate(digest=POET)}, "unknown_digest", "candidates.0.digest"),
        ({"candidates": candidate(model="")}, "empty", "candidates.0.model"),
        ({"candidates": candidate(text=None)}, "invalid_type", "candidates.0.text"),
        ({"candidates": candidate(text="x" * 200_001)}, "too_long", "candidates.0.text"),
        ({"candidates": candidate(chosen=1)}, "invalid_type", "candidates.0.chosen"),
        ({"candidates": candidate(logprobs=[])}, "unknown_parameter", "candidates.0.logprobs"),
        ({"prompt": " "}, "empty", "prompt"),
        ({"prompt": "x" * 200_001}, "too_long", "prompt"),
        ({"system": 3}, "invalid_type", "system"),
        ({"params": {"temperature": 9}}, "out_of_range", "params.temperature"),
        ({"blind": "yes"}, "invalid_type", "blind"),
        ({"user": 1}, "unknown_parameter", "user"),
    ],
)
def test_what_is_no_vote_is_refused(client: APIClient, changes: dict[str, Any], code: str, param: str) -> None:
    answer = put(client, body(**changes))
    assert answer.status_code == 400
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, param)
    assert not Vote.objects.exists()


def test_a_digest_of_the_past_counts_for_whom_it_answered(clients: dict[str, APIClient], owner: User) -> None:
    """The adapter was trained anew between the answer and the vote."""
    UsageDay.objects.create(day="2026-01-01", user=owner, model="pirate", digest="c" * 64)
    vote = body(candidates=candidate(digest="c" * 64))
    assert put(clients["owner"], vote).status_code == 201
    assert put(clients["teammate"], vote).status_code == 400


def test_there_is_an_end(client: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "MOST_VOTES", 1)
    run = uuid.uuid4()
    assert put(client, body(), run).status_code == 201
    assert put(client, body("poet"), run).status_code == 200
    assert put(client, body()).status_code == 409


def test_the_list_narrows(client: APIClient) -> None:
    put(client, body(prompt="About the sea", blind=True))
    put(client, body("poet", prompt="About the land"))
    only = candidate(text="Ärgerlich")[:2]
    put(client, body(prompt="Third", candidates=only))

    def prompts(query: str) -> list[str]:
        return [vote["prompt"] for vote in client.get(f"{URL}?{query}").json()["results"]]

    assert prompts("") == ["Third", "About the land", "About the sea"]
    assert prompts("search=SEA") == ["About the sea"]
    assert prompts("search=rgerlich") == ["Third"]
    assert prompts("model=tiny") == ["About the land", "About the sea"]
    assert prompts("model=nobody") == []
    assert (prompts("kind=blind"), len(prompts("kind=open"))) == (["About the sea"], 2)
    assert prompts("page_size=1&page=3") == ["About the sea"]


def test_the_summary_counts_by_model_and_digest(client: APIClient, owner: User) -> None:
    UsageDay.objects.create(day="2026-01-01", user=owner, model="pirate", digest="c" * 64)
    put(client, body(blind=True))
    put(client, body("poet"))
    put(client, body(None))
    put(client, body(None, verdict="none"))
    put(client, body(candidates=candidate(digest="c" * 64)[:2]))
    rows = client.get("/api/compare/summary").json()["results"]
    found = {
        (row["model"], row["digest"][0]): [row[name] for name in ("votes", "blind", "wins", "losses", "ties", "none")]
        for row in rows
    }
    assert found == {
        ("pirate", "d"): [4, 1, 1, 1, 1, 1],
        ("pirate", "c"): [1, 0, 1, 0, 0, 0],
        ("poet", "e"): [5, 1, 1, 2, 1, 1],
        ("tiny", "b"): [4, 1, 0, 2, 1, 1],
    }
    poet = next(row for row in rows if row["model"] == "poet")
    assert poet["share"] == 0.2
    assert poet["chance"] == pytest.approx((4 / 3 + 1 / 2) / 5)
    assert [row["wins"] for row in client.get("/api/compare/summary?kind=blind&model=poet").json()["results"]]


def test_few_votes_say_little() -> None:
    assert wilson(1, 1) == (pytest.approx(0.2065, abs=1e-3), 1.0)
    assert wilson(0, 4) == (0.0, pytest.approx(0.4899, abs=1e-3))
    assert wilson(50, 100) == (pytest.approx(0.4038, abs=1e-3), pytest.approx(0.5962, abs=1e-3))


def test_pairs_set_the_best_against_each_other_one(client: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comparison.export.CHUNK", 2)
    for index in range(3):
        put(client, body(prompt=f"Number {index}\nwith a line"))
    put(client, body(None))
    pairs = [json.loads(line) for line in content(client.get(f"{URL}/export.jsonl")).splitlines()]
    assert [pair["prompt"][7] for pair in pairs] == list("001122")
    assert pairs[0]["chosen"] == {"model": "pirate", "digest": PIRATE, "text": "pirate says"}
    assert [pair["rejected"]["digest"] for pair in pairs[:2]] == [POET, BASE]
    assert (pairs[0]["system"], pairs[0]["params"]["max_tokens"]) == ("Be brief.", 9)
    assert len(content(client.get(f"{URL}/export.jsonl?search=number+1")).splitlines()) == 2


def test_the_table_runs_no_formula(client: APIClient) -> None:
    put(client, body(prompt="=1+1", candidates=candidate(text='@SUM("a")\nb, c')))
    text = content(client.get(f"{URL}/export.csv"))
    rows = list(csv.DictReader(text.removeprefix("\ufeff").splitlines(keepends=True)))
    assert [(row["model"], row["chosen"]) for row in rows] == [
        ("pirate", "True"),
        ("poet", "False"),
        ("tiny", "False"),
    ]
    assert rows[0]["prompt"] == "'=1+1" and rows[0]["answer"] == '\'@SUM("a")\nb, c'


def test_the_page_lists_filters_and_deletes(client: APIClient) -> None:
    assert b"vote-row" not in client.get("/compare/votes").content
    run = uuid.uuid4()
    put(client, body(prompt="<b>About</b> the sea", blind=True), run)
    page = client.get("/compare/votes?kind=blind").content.decode()
    assert page.count('data-testid="vote-row"') == 1 and "&lt;b&gt;About" in page
    assert page.count('data-testid="standing"') == 3
    assert 'data-testid="vote-row"' not in client.get("/compare/votes?kind=open").content.decode()
    gone = client.post(f"/compare/votes/{run}/delete?kind=blind")
    assert (gone.status_code, gone.headers["Location"]) == (302, "/compare/votes?kind=blind")
    assert not Vote.objects.exists()


def test_a_token_needs_the_scope(api: Callable[..., APIClient], operator: User, registry: SimpleNamespace) -> None:
    assert put(api(operator, "operate"), body()).status_code == 403
    assert put(api(operator, "infer"), body()).status_code == 201


def test_a_model_takes_part_twice_with_other_parameters(client: APIClient) -> None:
    one, other = ({"model": "pirate", "digest": PIRATE, "text": text} for text in ("warm", "cold"))
    run = uuid.uuid4()
    twice = [{**one, "chosen": True}, {**other, "params": {"temperature": 0.1}}]
    made = put(client, body(candidates=twice), run)
    assert made.status_code == 201, made.content
    assert [c["params"] for c in made.json()["candidates"]] == [{}, {"temperature": 0.1}]
    assert put(client, body(candidates=twice), run).status_code == 200
    (pair,) = [json.loads(line) for line in content(client.get(f"{URL}/export.jsonl")).splitlines()]
    assert ("params" not in pair["chosen"], pair["rejected"]["params"]) == (True, {"temperature": 0.1})
    rows = client.get("/api/compare/summary").json()["results"]
    assert [(row["params"], row["wins"], row["losses"]) for row in rows] == [({}, 1, 0), ({"temperature": 0.1}, 0, 1)]
    for same in (other, {**other, "params": {}}):
        refused = put(client, body(candidates=[twice[0], same]))
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "duplicate")
    wrong = put(client, body(candidates=[twice[0], {**other, "params": {"temperature": 9}}]))
    assert wrong.json()["error"]["param"] == "candidates.1.params.temperature"
