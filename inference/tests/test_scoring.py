"""Texts that the portal scores for itself: every one of them, whatever happens to others; and all are counted."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User

from accounts.grants import Grant
from common.api import ApiError
from inference.gateway import scoring
from inference.gateway.operating import wait_booked
from inference.gateway.scoring import Passage, TextScore, score
from inference.gateway.targets import of_adapter
from inference.manager import ModelManager
from inference.models import Slot, UsageDay

pytestmark = pytest.mark.django_db(transaction=True)
SAID = [{"role": "user", "content": "ahoy"}]


@pytest.fixture
def targets(registry: SimpleNamespace) -> list[Any]:
    return [of_adapter(registry.pirate), of_adapter(registry.poet)]


@pytest.fixture
def grant(owner: User) -> Grant:
    return Grant(owner.pk)


async def gathered(grant: Grant, passages: list[Passage]) -> dict[int, Any]:
    async with aclosing(score(grant, passages)) as found:
        return {index: one async for index, one in found}


async def test_many_texts_by_many_models(
    grant: Grant, targets: list[Any], manager: ModelManager, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.USER_CONCURRENT = 3  # less than run at once: those that find no place wait
    monkeypatch.setattr(scoring, "LONGEST_PAUSE", 0.01)
    passages = [Passage(targets[n % 2], "aye " * (n + 1), SAID) for n in range(20)]
    passages[7] = Passage(targets[0], "aye aye", prompt="fail")
    found = await gathered(grant, passages)
    assert found.pop(7).code == "context_length_exceeded"
    assert sorted(found) == [n for n in range(20) if n != 7]
    for index, one in found.items():
        assert isinstance(one, TextScore) and len(one.tokens) == index + 1
        assert one.digest == targets[index % 2].digest
        assert one.logprob == -index and one.loss == pytest.approx(index / (index + 1))
    await asyncio.to_thread(wait_booked, 10)
    assert [day.prompt_tokens async for day in UsageDay.objects.order_by("model")] == [10, 9]


def test_over_http(api: Any, owner: User, registry: SimpleNamespace, manager: ModelManager) -> None:
    items = [{"messages": SAID, "text": "aye aye"}, {"prompt": "fail", "text": "aye"}]
    asked = {"models": ["pirate", "tiny"], "items": items}
    client = api(owner, "infer")
    scores = client.post("/api/inference/score", asked, format="json").json()["scores"]
    assert [(one["item"], one["model"]) for one in scores] == [(0, "pirate"), (0, "tiny"), (1, "pirate"), (1, "tiny")]
    assert scores[0] == {
        "model": "pirate", "item": 0, "tokens": 2, "logprob": -1.0, "loss": 0.5, "digest": "d" * 64
    }  # fmt: skip
    assert scores[2]["error"]["code"] == "context_length_exceeded" and scores[2]["error"]["param"] == "prompt"
    detailed = client.post("/api/inference/score", {**asked, "logprobs": True}, format="json").json()["scores"]
    assert [token["token"] for token in detailed[1]["logprobs"]] == ["aye", "aye"]
    for changed, code, param in (
        ({"models": []}, "out_of_range", "models"),
        ({"items": [{"messages": SAID, "text": ""}]}, "empty", "items.0.text"),
        ({"models": ["nobody"]}, "unknown_target", None),
    ):
        error = client.post("/api/inference/score", {**asked, **changed}, format="json").json()["error"]
        assert (error["code"], error["param"]) == (code, param)


async def test_whoever_leaves_leaves_nothing_running(grant: Grant, targets: list[Any], manager: ModelManager) -> None:
    passages = [Passage(targets[0], "aye", prompt=word) for word in ("x", "hang", "hang")]
    async with aclosing(score(grant, passages)) as found:
        assert (await anext(found))[0] == 0
    async with asyncio.timeout(10):
        while manager.backend.snapshot()["in_flight"]:
            await asyncio.sleep(0.01)
    await asyncio.to_thread(wait_booked, 10)
    assert not [slot async for slot in Slot.objects.all() if slot.expires_at.year > 2000]


async def test_access_that_is_withdrawn_ends_all(
    grant: Grant, targets: list[Any], manager: ModelManager, owner: User
) -> None:
    owner.is_active = False
    await owner.asave()
    passages = [Passage(targets[0], "aye", prompt="hang")] * 3
    with pytest.raises(ApiError) as caught:
        async with asyncio.timeout(20):
            await gathered(grant, passages)
    assert caught.value.code == "revoked"
