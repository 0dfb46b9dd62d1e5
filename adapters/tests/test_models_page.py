"""The models page: a row for each run, and its checkpoints where they are asked for."""

from __future__ import annotations

import gzip
import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from adapters.models import BaseModel, LoraAdapter, Status, Tag

pytestmark = pytest.mark.django_db


def adapter(name: str, group: str = "", status: str = Status.DISCOVERED, **fields: Any) -> LoraAdapter:
    return LoraAdapter.objects.create(
        name=name,
        slug=name,
        path_hash=name,
        group_hash=group,
        status=status,
        digest="d" * 64 * (status == "active"),
        **fields,
    )


@pytest.fixture
def run() -> list[LoraAdapter]:
    """A run of a final adapter and three checkpoints, of which one is active."""
    return [
        adapter("sea-20", "sea", checkpoint=20),
        adapter("sea", "sea"),
        adapter("sea-100", "sea", Status.ACTIVE, checkpoint=100),
        adapter("sea-10", "sea", checkpoint=10),
    ]


@pytest.fixture
def page(operator: User) -> Client:
    client = Client()
    client.force_login(operator)
    return client


def shown(client: Client, query: str = "") -> list[str]:
    """Names of the rows, in order."""
    return re.findall(
        r'data-testid="model-row"[^>]*data-name="([^"]*)"', client.get(f"/models{query}").content.decode()
    )


def test_a_row_for_each_run_and_for_each_adapter_without_one(page: Client, run: list[LoraAdapter]) -> None:
    for name in ("alone", "apart"):
        adapter(name)
    adapter("no-final-5", "other", checkpoint=5)
    adapter("no-final-9", "other", checkpoint=9)
    adapter("best-5", "judged", checkpoint=5, is_best=True)
    adapter("best-9", "judged", checkpoint=9)
    assert shown(page, "?ordering=name") == ["alone", "apart", "best-5", "no-final-9", "sea"]
    text = " ".join(page.get("/models").content.decode().split())
    assert "3 checkpoints · 1 active" in text and "sea-10" not in text


def test_unfolded_rows_have_their_checkpoints_below_them(page: Client, run: list[LoraAdapter]) -> None:
    other = adapter("other", "other")
    adapter("other-5", "other", checkpoint=5)
    folded = page.get("/models?ordering=name").content.decode()
    link = re.search(rf'href="([^"]*)" aria-expanded="false" data-unfold="{run[1].pk}"', folded)
    assert link and link[1] == f"?ordering=name&amp;unfold={run[1].pk}#adapter-{run[1].pk}"  # works without a script
    unfolded = f"?ordering=name&unfold={run[1].pk}"
    assert shown(page, unfolded) == ["other", "sea", "sea-10", "sea-20", "sea-100"]
    assert 'href="?ordering=name#adapter' in page.get(f"/models{unfolded}").content.decode()
    assert len(shown(page, f"?unfold={run[1].pk},{other.pk}")) == 6
    for nonsense in ("x", "999999", "-1", "9" * 4000, "١", f"{adapter('alone').pk}"):
        assert "sea-10" not in shown(page, f"?unfold={nonsense}")


def test_users_see_what_is_active(owner: User, run: list[LoraAdapter]) -> None:
    client = Client()
    client.force_login(owner)
    assert shown(client) == ["sea-100"]
    assert "data-unfold" not in client.get("/models").content.decode()
    assert shown(client, f"?unfold={run[2].pk}") == ["sea-100"]


def test_a_folded_list_reads_no_checkpoint(
    page: Client, run: list[LoraAdapter], django_assert_max_num_queries: Any
) -> None:
    with django_assert_max_num_queries(20) as before:
        page.get("/models")
    for number in range(30):
        for step in (None, 1, 2):
            adapter(f"run{number}-{step}", f"run{number}", checkpoint=step)
    with django_assert_max_num_queries(len(before)) as after:
        page.get("/models")
    assert not any("run3-1" in query["sql"] for query in after.captured_queries)


def test_compressed_and_unchanged(page: Client, run: list[LoraAdapter]) -> None:
    plain = page.get("/models", headers={"X-Fragment": "1"})
    packed = page.get("/models", headers={"X-Fragment": "1", "Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip" and "Accept-Encoding" in packed.headers["Vary"]
    assert gzip.decompress(packed.content) == plain.content
    for known in (plain, packed):
        again = {"X-Fragment": "1", "Accept-Encoding": "gzip", "If-None-Match": known.headers["ETag"]}
        assert page.get("/models", headers=again).status_code == 304


def test_what_leads_depends_on_the_status(page: Client) -> None:
    seen = {}
    for status in Status.values:
        row = adapter(f"a-{status}", status=status, failure_code="no_effect" if status == "failed" else "")
        text = page.get(f"/models/{row.pk}").content.decode()
        leading = re.findall(r'class="btn btn-primary"[^>]*data-testid="([\w-]+)"', text)
        seen[status] = (leading, "chat-link" in text, "compare-link" in text, 'id="calls-title"' in text)
    assert seen == {
        "discovered": (["activate-button"], False, False, True),
        "active": (["test-link"], True, True, True),
        "failed": ([], False, False, False),
    }


def test_runs_stay_grouped_in_a_search(page: Client, run: list[LoraAdapter]) -> None:
    adapter("forest", "forest")
    assert shown(page, "?search=sea") == ["sea"]
    assert shown(page, f"?search=sea&unfold={run[1].pk}") == ["sea", "sea-10", "sea-20", "sea-100"]
    text = " ".join(page.get("/models?search=sea-1").content.decode().split())
    assert shown(page, "?search=sea-1") == ["sea-100"] and "1 checkpoint" in text  # only what was found is counted
    assert shown(page, f"?search=sea-1&unfold={run[2].pk}") == ["sea-100", "sea-10"]
    assert shown(page, "?status=active") == ["sea-100"]


def test_the_list_is_ordered_and_narrowed(page: Client) -> None:
    bases = {
        name: BaseModel.objects.create(name=name, slug=name, path=f"/{name}", path_hash=name) for name in ("ant", "bee")
    }
    day = datetime(2026, 3, 5, 23, 30, tzinfo=timezone.get_default_timezone())
    facts: dict[str, dict[str, Any]] = {
        "one": {"loss": 0.5, "effect_changed": 0.1, "base": bases["bee"], "trained_at": day},
        "two": {"loss": 2.5, "effect_changed": 0.9, "base": bases["ant"], "trained_at": day - timedelta(days=1)},
        "three": {},
    }
    rows = {name: adapter(name, **fields) for name, fields in facts.items()}
    rows["two"].tags.add(Tag.objects.create(name="sea"))
    LoraAdapter.objects.filter(pk=rows["one"].pk).update(notes="arr matey")
    for query, names in {
        "?search=matey+one": ["one"],
        "": ["one", "two", "three"],  # the latest training first, what was never trained last
        "?ordering=trained": ["two", "one", "three"],
        "?ordering=loss": ["one", "two", "three"],
        "?ordering=-loss": ["two", "one", "three"],
        "?ordering=-effect": ["two", "one", "three"],
        "?ordering=base": ["two", "one", "three"],
        "?base=bee": ["one"],
        "?tag=sea": ["two"],
        "?after=2026-03-05": ["one"],
        "?before=2026-03-05": ["one", "two"],  # the whole day
        "?before=2026-03-04": ["two"],
        "?loss=1": ["one"],
        "?effect=50": ["two"],
        "?base=bee&tag=sea": [],
        "?before=9999-12-31": ["one", "two", "three"],  # a date cannot say the end of that day
        "?after=x&before=2026-99-99&loss=nan&effect=&ordering=password": ["one", "two", "three"],
    }.items():
        assert shown(page, query) == names, query
    text = page.get("/models?loss=1").content.decode()
    assert (
        "0.500" in text
        and 'data-testid="filter-clear"' in text
        and "0.500" not in page.get("/models?effect=50").content.decode()
    )
