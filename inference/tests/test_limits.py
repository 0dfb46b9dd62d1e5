"""Limits hold under parallel requests, refusals book nothing, usage is written and can be asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import connection
from django.test import AsyncClient
from django.utils import timezone

from accounts.access import Grant
from adapters.processes import own_name
from chat.models import Assistant
from common.api import ApiError
from inference.manager import ModelManager
from inference.models import Meter, Reservation, Slot, UsageDay
from inference.quota import leftovers
from inference.quota.ledger import LEASE, ledger
from inference.quota.limits import Ticket, book

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def unlimited(settings: Any) -> Iterator[None]:
    for who in ("USER", "TOKEN"):
        for what in ("REQUESTS_PER_MINUTE", "TOKENS_PER_DAY", "CONCURRENT"):
            setattr(settings, f"{who}_{what}", 0)
    yield
    ledger.flush()


@pytest.fixture
def grant(owner: User) -> Grant:
    return Grant(owner.pk, 5)


def ask(grant: Grant, tokens: int = 10, generations: int = 1) -> Ticket:
    return book(grant, "pirate", "d" * 64, generations, tokens)


def refusal(grant: Grant, **asked: int) -> ApiError:
    with pytest.raises(ApiError) as caught:
        ask(grant, **asked)
    assert caught.value.status == 429 and (caught.value.retry_after or 0) >= 1
    return caught.value


def in_parallel(count: int, call: Callable[[], Any]) -> list[Any]:
    def one(_number: int) -> Any:
        try:
            return call()
        except ApiError as error:
            return error.code
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, range(count)))


def test_requests_a_minute(settings: Any, grant: Grant) -> None:
    settings.USER_REQUESTS_PER_MINUTE = 7
    answers = in_parallel(20, lambda: ask(grant))
    assert sum(isinstance(answer, Ticket) for answer in answers) == 7
    assert answers.count("rate_limit_exceeded") == 13
    assert refusal(grant).headers["x-ratelimit-remaining-requests"] == "0"
    Meter.objects.update(minute_start=timezone.now() - timedelta(seconds=61))
    assert ask(grant).headers["x-ratelimit-remaining-requests"] == "6"


def test_tokens_a_day(settings: Any, grant: Grant) -> None:
    settings.USER_TOKENS_PER_DAY = 100
    answers = in_parallel(20, lambda: ask(grant, tokens=30))
    tickets = [answer for answer in answers if isinstance(answer, Ticket)]
    assert len(tickets) == 3
    refused = refusal(grant, tokens=30)
    assert refused.code == "tokens_per_day_exceeded"
    assert refused.headers["x-ratelimit-remaining-tokens"] == "10"
    tickets[0].end(0, {"prompt_tokens": 4, "completion_tokens": 5, "cached_tokens": 0})
    tickets[0].close()
    ledger.flush()
    assert Meter.objects.get().day_tokens == 69  # 9 used, 60 reserved by the two that run
    ask(grant, tokens=30)
    Meter.objects.update(day=timezone.now().date() - timedelta(days=1))
    ask(grant, tokens=100)


def test_answers_at_once(settings: Any, grant: Grant) -> None:
    settings.USER_CONCURRENT = 4
    answers = in_parallel(12, lambda: ask(grant))
    tickets = [answer for answer in answers if isinstance(answer, Ticket)]
    assert len(tickets) == 4 and answers.count("too_many_generations") == 8
    tickets[0].close()
    tickets[0].close()  # safe to repeat
    ledger.flush()
    assert refusal(grant, generations=2).code == "too_many_generations"
    another = ask(grant)
    refusal(grant)
    another.close()
    ledger.flush()
    kept = [ask(grant)]
    refusal(grant)
    Slot.objects.update(expires_at=timezone.now() - LEASE)  # their process died
    kept.append(ask(grant, generations=4))


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process named `gone` is dead, nothing is known of any other."""
    monkeypatch.setattr("inference.quota.leftovers.is_dead", lambda name: name == "gone")


def test_places_of_the_dead_are_free_at_once(dead: None, settings: Any, grant: Grant, teammate: User) -> None:
    settings.USER_CONCURRENT = 2
    lost = [ask(grant), ask(grant), ask(Grant(teammate.pk, 6))]
    refusal(grant)
    Slot.objects.filter(holder=lost[0].record.holder).update(process="gone")
    kept = ask(grant)
    assert refusal(grant).code == "too_many_generations"  # the other one lives, for all that is known
    Slot.objects.filter(holder__in=[ticket.record.holder for ticket in lost[1:]]).update(process="gone")
    assert leftovers.free() == 2  # as a start does, for everybody
    assert set(Slot.objects.exclude(holder="").values_list("holder", flat=True)) == {kept.record.holder}
    assert set(Slot.objects.values_list("process", flat=True)) == {"", own_name()}


@pytest.mark.parametrize("how", ["dead", "expired"])
def test_tokens_that_the_dead_reserved_are_given_back_once(dead: None, settings: Any, grant: Grant, how: str) -> None:
    settings.USER_TOKENS_PER_DAY = settings.TOKEN_TOKENS_PER_DAY = 100
    ended, lost = ask(grant, tokens=20), ask(grant, tokens=70)
    ended.end(0, {"prompt_tokens": 4, "completion_tokens": 5, "cached_tokens": 0})
    ledger.flush()
    assert set(Meter.objects.values_list("day_tokens", flat=True)) == {79}
    refusal(grant, tokens=30)
    rows = Reservation.objects.filter(holder=lost.record.holder)
    assert len(rows) == 2
    changes: dict[str, dict[str, Any]] = {
        "dead": {"process": "gone"},
        "expired": {"expires_at": timezone.now() - LEASE},
    }
    rows.update(**changes[how])
    ask(grant, tokens=90).close()
    ledger.flush()
    assert set(Meter.objects.values_list("day_tokens", flat=True)) == {9}
    lost.close()  # it was not dead after all: nothing is given back twice
    ledger.flush()
    assert set(Meter.objects.values_list("day_tokens", flat=True)) == {9} and not Reservation.objects.exists()


def test_what_runs_keeps_what_it_holds(dead: None, settings: Any, grant: Grant) -> None:
    settings.USER_TOKENS_PER_DAY, settings.USER_CONCURRENT = 100, 1
    kept = ask(grant, tokens=60)
    soon = timezone.now() + timedelta(seconds=1)
    for rows in (Slot.objects, Reservation.objects):
        rows.update(expires_at=soon)
    ledger._renew()
    assert Slot.objects.get().expires_at > soon and Reservation.objects.get().expires_at > soon
    assert refusal(grant, tokens=60).code == "tokens_per_day_exceeded"
    assert refusal(grant, tokens=1).code == "too_many_generations"
    assert leftovers.free() == 0
    kept.close()


def test_refusal_books_nothing(settings: Any, grant: Grant) -> None:
    settings.USER_REQUESTS_PER_MINUTE = settings.USER_TOKENS_PER_DAY = 1000
    settings.USER_CONCURRENT, settings.TOKEN_REQUESTS_PER_MINUTE = 4, 1
    first = ask(grant)
    assert refusal(grant).code == "rate_limit_exceeded"
    user = Meter.objects.get(key=f"user:{grant.user_id}")
    assert (user.minute_requests, user.day_tokens) == (1, 10)
    assert Slot.objects.filter(expires_at__gt=timezone.now()).count() == 1
    assert Reservation.objects.count() == 1
    assert isinstance(ask(Grant(grant.user_id, 6)), Ticket)  # another token of the same account
    first.close()


def test_limits_over_http(
    settings: Any, api: Callable[..., Any], owner: User, registry: SimpleNamespace, manager: ModelManager
) -> None:
    settings.TOKEN_REQUESTS_PER_MINUTE = 2
    client = api(owner, "infer")
    chat = {"model": "pirate", "messages": [{"role": "user", "content": "ahoy"}]}
    first = client.post("/v1/chat/completions", chat, format="json")
    assert (first.status_code, first.headers["x-ratelimit-remaining-requests"]) == (200, "1")
    assert client.post(f"/api/lora/models/{registry.pirate.pk}/test", {"prompt": "x"}, format="json").status_code == 200
    third = client.post("/v1/chat/completions", chat, format="json")
    assert third.status_code == 429 and 1 <= int(third.headers["Retry-After"]) <= 60
    assert third.headers["x-ratelimit-limit-requests"] == "2"
    assert third.json()["error"]["type"] == "rate_limit_error"


async def test_who_has_the_end_has_the_place(
    settings: Any,
    token_for: Callable[..., str],
    owner: User,
    registry: SimpleNamespace,
    manager: ModelManager,
    slow_books: None,
) -> None:
    """A client that asks again as soon as it has an answer never meets its own limit."""
    settings.USER_CONCURRENT = settings.TOKEN_CONCURRENT = 2
    client, head = AsyncClient(), {"Authorization": f"Bearer {await sync_to_async(token_for)(owner, 'infer')}"}
    assistant = (await Assistant.objects.acreate(owner=owner, name="a", target="pirate")).pk
    chat = {"model": "pirate", "messages": [{"role": "user", "content": "ahoy"}]}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {**chat, "n": 2}),
        ("/v1/chat/completions", {**chat, "n": 2, "stream": True}),
        (f"/api/lora/models/{registry.pirate.pk}/test", {"prompt": "fail"}),
        (f"/api/lora/models/{registry.pirate.pk}/test", {"prompt": "x"}),
        (f"/api/assistants/{assistant}/chat", {"message": "x"}),
    ]
    for path, body in calls * 5:
        response: Any = await client.post(path, body, content_type="application/json", headers=head)
        if response.streaming:
            assert b"[DONE]" in b"".join([part async for part in response])
        assert response.status_code == (400 if body.get("prompt") == "fail" else 200), (path, body)


def test_usage(
    api: Callable[..., Any],
    owner: User,
    teammate: User,
    operator: User,
    registry: SimpleNamespace,
    manager: ModelManager,
) -> None:
    client = api(owner, "infer")
    for model in ("pirate", "pirate", "tiny"):
        client.post("/v1/completions", {"model": model, "prompt": "a b", "max_tokens": 3}, format="json")
    client.post("/v1/completions", {"model": "pirate", "prompt": "fail"}, format="json")
    api(teammate, "infer").post("/v1/completions", {"model": "poet", "prompt": "a"}, format="json")
    ledger.flush()
    mine = client.get("/api/usage").json()
    assert mine["totals"] == {"requests": 3, "prompt_tokens": 6, "completion_tokens": 9, "cached_tokens": 0}
    rows = {(row["model"], row["digest"], row["requests"]) for row in mine["results"]}
    assert rows == {("pirate", "d" * 64, 2), ("tiny", "b" * 64, 1)}  # what the engine refused is no use
    assert {row["token"]["name"] for row in mine["results"]} == {"test"}
    assert client.get("/api/usage?user=all").status_code == 403
    everybody = api(operator, "operate").get("/api/usage?user=all").json()
    assert {row["user"] for row in everybody["results"]} == {"owner", "teammate"}
    for bad in ("days=0", "days=367", "days=x", "days=-1", "user=owner"):
        assert client.get(f"/api/usage?{bad}").status_code == 400
    registry.pirate.refresh_from_db()
    assert (registry.pirate.use_count, registry.pirate.use_tokens) == (2, 6)


def test_usage_of_a_deleted_account_is_dropped(grant: Grant, owner: User) -> None:
    ticket = ask(grant)
    owner.delete()
    ticket.end(0, {"prompt_tokens": 1, "completion_tokens": 1, "cached_tokens": 0})
    ticket.close()
    ledger.flush()
    assert not UsageDay.objects.exists()
