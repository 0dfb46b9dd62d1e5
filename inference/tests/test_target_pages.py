"""The pages on which one chooses a model: what they say where there is none, and how they hold many."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from adapters.discovery.scanning import LEASE
from adapters.leases import HeldLease
from adapters.models import BaseModel, LoraAdapter, Scan, ScanState
from inference.choices import LISTED, choices
from inference.models import UsageDay

pytestmark = pytest.mark.django_db
PAGES = ("/test", "/chat", "/compare")


def bases(**fields: Any) -> None:
    BaseModel.objects.create(name="sea", slug="sea", path="/sea", path_hash="sea", **fields)


@pytest.mark.parametrize(
    ("interval", "states", "base", "said"),
    [
        (60, [], {}, "looking-for-models"),  # the portal has just been started for the first time
        (60, [ScanState.RUNNING], {}, "looking-for-models"),
        (0, [], {}, "unscanned"),
        (60, [ScanState.DONE, ScanState.RUNNING], {}, ""),
        (60, [ScanState.DONE], {"missing": True}, ""),
        (60, [ScanState.DONE], {"problem_code": "base_broken"}, "unusable"),
        (60, [ScanState.DONE], {"problem_code": ""}, None),
    ],
)
def test_why_there_is_no_model(
    owner: User, settings: Any, interval: int, states: list[str], base: dict[str, Any], said: str | None
) -> None:
    settings.SCAN_INTERVAL = interval
    for state in states:
        Scan.objects.create(state=state)
    if base:
        bases(**base)
    client = Client()
    client.force_login(owner)
    with HeldLease(LEASE):  # else a scan that runs is taken for one whose process died
        pages = {path: client.get(path).content.decode() for path in PAGES}
    for path, text in pages.items():
        shown = [word for word in ("looking-for-models", "unscanned", "unusable") if f'data-testid="{word}"' in text]
        assert shown == ([said] if said else []), path
        assert ("no active adapter and no usable" in text) == (said == ""), path


def adapter(name: str, base: BaseModel, **fields: Any) -> LoraAdapter:
    given = {"slug": name, "path_hash": name, "status": "active", "digest": name.ljust(64, "0"), "base": base, **fields}
    return LoraAdapter.objects.create(name=name, **given)


@pytest.fixture
def many(owner: User) -> BaseModel:
    """A base model, a run of three and 60 adapters that are alone."""
    base = BaseModel.objects.create(name="sea", slug="sea", path="/sea", path_hash="sea", context_length=99)
    for step in (100, 20, None):
        name = f"run-{step}"
        adapter(name, base, run_name="run", group_hash="run", checkpoint=step, is_best=step == 20)
    for number in range(60):
        adapter(f"alone-{number:02}", base, run_name=f"alone-{number:02}", group_hash=f"{number}")
    adapter("off", base, status="discovered")
    adapter("stale", base, digest="")
    return base


def found(api: Callable[..., Any], user: User, search: str) -> dict[str, Any]:
    answer = api(user).get("/api/inference/targets", {"search": search})
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    return body


def test_models_are_found_by_every_word(api: Callable[..., Any], owner: User, many: BaseModel) -> None:
    everything = found(api, owner, "")
    assert everything["count"] == 64 and len(everything["results"]) == LISTED + 1
    run = found(api, owner, "RUN")
    assert [one["slug"] for one in run["results"]] == ["run-None", "run-20", "run-100"]
    best = run["results"][1]
    assert (best["is_best"], best["checkpoint"], best["group"], best["base"], best["context"]) == (
        True,
        20,
        "run",
        "sea",
        99,
    )
    assert [one["slug"] for one in found(api, owner, "sea alone-1")["results"]] == [f"alone-1{n}" for n in range(10)]
    assert [one["kind"] for one in found(api, owner, "sea")["results"]].count("base") == 1
    for nobody in ("off", "stale", "nothing of this name"):
        assert found(api, owner, nobody) == {"count": 0, "results": []}


def test_pages_hold_few_models_and_the_recent_ones_first(owner: User, teammate: User, many: BaseModel) -> None:
    def used(model: str, days: int, user: User = owner, token: int = 0) -> None:
        day = timezone.now().date() - timedelta(days=days)
        UsageDay.objects.create(day=day, user=user, model=model, digest="d" * 64, token_ref=token)

    used("alone-59", 2)
    used("sea", 1)
    used("off", 1)  # no longer active
    used("alone-58", 40)
    used("alone-57", 0, teammate)
    used("alone-56", 0, token=3)  # asked by a program
    client = Client()
    client.force_login(owner)
    for path in PAGES:
        text = client.get(f"{path}?{'models' if path == '/compare' else 'model'}=alone-55").content.decode()
        select = re.search(r"<select[^>]*data-total=\"64\"[^>]*>(.*?)</select>", text, re.DOTALL)
        assert select and "data-picker" in select[0]
        slugs = list(re.findall(r'<option value="([^"]+)"', select[1]))
        assert slugs[:3] == ["sea", "alone-59", "alone-55"], path
        assert len(slugs) == len(set(slugs)) == LISTED + 3
        if path != "/compare":
            assert re.search(r'<option value="alone-55"[^>]* selected', select[1])


def test_a_base_model_that_is_wanted_is_listed_however_many_there_are(owner: User) -> None:
    for name in ("bee", "cow", "dog"):
        BaseModel.objects.create(name=name, slug=name, path=f"/{name}", path_hash=name)
    found = choices(owner, ["dog", "cat"], limit=1)
    assert ([one.slug for one in found.bases], found.count) == (["bee", "dog"], 3)


def test_a_page_of_many_models_asks_the_database_no_more(
    owner: User, many: BaseModel, django_assert_max_num_queries: Any
) -> None:
    client = Client()
    client.force_login(owner)
    with django_assert_max_num_queries(20):
        client.get("/test")
