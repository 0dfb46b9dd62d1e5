"""The gateway: however an answer ends, the engine is told, the use is booked once, and the place is free again."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from channels.db import database_sync_to_async
from django.contrib.auth.models import User
from django.utils import timezone, translation

from accounts import access
from accounts.grants import Grant
from common.api import ApiError
from common.request_ids import began, begin
from inference.engine.params import SamplingParams
from inference.gateway import asking as asking_module
from inference.gateway.asking import Question, answer, ask
from inference.gateway.targets import of_adapter
from inference.manager import ModelManager
from inference.models import Slot, UsageDay
from inference.quota.ledger import ledger

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def one_request_at_once(settings: Any) -> None:
    settings.USER_CONCURRENT = 3


@pytest.fixture
def grant(owner: User) -> Grant:
    return Grant(owner.pk)


@pytest.fixture
def question(registry: SimpleNamespace, manager: ModelManager) -> Callable[[str], Question]:
    target = of_adapter(registry.pirate)
    return lambda prompt: Question(target, SamplingParams(max_tokens=64), prompt=prompt)


async def settled(manager: ModelManager) -> tuple[int, int]:
    """(requests, places taken) in the books, once the engine has nothing left to do."""
    async with asyncio.timeout(30):
        while manager.backend.snapshot()["in_flight"]:
            await asyncio.sleep(0.01)
    await asyncio.to_thread(ledger.flush)
    requests = [row.requests async for row in UsageDay.objects.all()]
    return sum(requests), await Slot.objects.filter(expires_at__gt=timezone.now()).acount()


async def first_token(asking: Any) -> None:
    async for _index, event in asking:
        if event["type"] == "token":
            return
    pytest.fail("no token")


async def test_several_answers_under_one_ticket(
    grant: Grant, question: Callable[[str], Question], manager: ModelManager
) -> None:
    async with await ask(grant, [question("a b"), question("c"), question("d")]) as asking:
        answers = await asking.answers()
    assert [one.text for one in answers] == [f"pirate says {prompt} " for prompt in ("a b", "c", "d")]
    assert await settled(manager) == (1, 0)
    assert (await UsageDay.objects.aget()).completion_tokens == 4 + 3 + 3


@pytest.mark.parametrize("how", ["left", "stopped", "cancelled", "garbage", "failed"])
async def test_every_end_is_booked_once(
    grant: Grant, question: Callable[[str], Question], manager: ModelManager, how: str
) -> None:
    asking: Any = await ask(grant, [question("hang"), question("hang")])
    await first_token(asking)
    if how == "left":
        async with asking:
            pass
    elif how == "stopped":
        asking.stop()
        ends = [event async for _index, event in asking if event["type"] == "done"]
        assert [end["finish_reason"] for end in ends] == ["cancelled"] * 2
    elif how == "cancelled":
        task = asyncio.create_task(drain(asking))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    elif how == "failed":
        with pytest.raises(ApiError) as caught:
            await answer(grant, question("fail"))
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")
        asking.close()
    del asking
    gc.collect()
    assert await settled(manager) == (1, 0)


async def drain(asking: Any) -> None:
    async with asking:
        async for _item in asking:
            pass


async def test_a_reader_that_times_out_loses_no_event(
    grant: Grant, question: Callable[[str], Question], slow_books: None
) -> None:
    """Not even an end, which waits for the place to be free."""
    seen: list[Any] = []
    async with await ask(grant, [question("a b c")]) as asking:
        while not seen or seen[-1]["type"] != "done":
            try:
                async with asyncio.timeout(0.001):
                    seen.append((await anext(asking))[1])
            except TimeoutError:
                continue
        with pytest.raises(StopAsyncIteration):
            await anext(asking)
    assert "".join(event["text"] for event in seen if event["type"] == "token") == "pirate says a b c "


@pytest.mark.parametrize("called", [False, True])
async def test_withdrawn_access(
    grant: Grant, question: Callable[[str], Question], manager: ModelManager, monkeypatch: pytest.MonkeyPatch,
    called: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(access, "INTERVAL", 0.05)
    told = asyncio.Event()
    with translation.override("zh-hans"):
        async with await ask(grant, [question("hang")], told.set if called else None) as asking:
            await first_token(asking)
            await User.objects.filter(pk=grant.user_id).aupdate(is_active=False)
            if called:
                await asyncio.wait_for(told.wait(), 10)
            else:
                with pytest.raises(ApiError) as caught:
                    await asyncio.wait_for(drain(asking), 10)
                assert caught.value.code == "revoked" and not caught.value.message.isascii()
    assert await settled(manager) == (1, 0)


async def test_begin_tells_a_failure_and_keeps_what_it_saw(
    grant: Grant, question: Callable[[str], Question], manager: ModelManager
) -> None:
    asking = await ask(grant, [question("fail")])
    with pytest.raises(ApiError):
        await asking.begin(30.0)
    asking = await ask(grant, [question("ahoy")])
    await asking.begin(30.0)
    assert (await asking.answers())[0].text == "pirate says ahoy "
    assert await settled(manager) == (1, 0)


async def test_a_refusal_starts_nothing(
    settings: Any, grant: Grant, question: Callable[[str], Question], manager: ModelManager
) -> None:
    with pytest.raises(ApiError) as caught:
        await ask(grant, [question("x")] * 4)
    assert caught.value.code == "too_many_generations"
    assert manager.backend.snapshot()["state"] == "stopped"
    await database_sync_to_async(ledger.flush)()


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is told to the recorder."""
    entries: list[Any] = []
    monkeypatch.setattr("inference.gateway.outcome.recorder", SimpleNamespace(post=entries.append))
    return entries


@pytest.mark.parametrize("at", [0, 1])
async def test_what_fails_before_the_engine_hears_of_it_is_an_error(
    grant: Grant, question: Callable[[str], Question], manager: ModelManager, posted: list[Any],
    monkeypatch: pytest.MonkeyPatch, at: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(asking_module, "AT_ONCE", 1)
    begun = iter([manager.generate] * at)

    async def generate(*given: Any) -> Any:
        real = next(begun, None)
        if real is None:
            raise RuntimeError("no more")
        return await real(*given)

    monkeypatch.setattr(manager, "generate", generate)
    with pytest.raises(RuntimeError):
        async with await ask(grant, [question("a"), question("b")]) as asking:
            await asking.answers()
    assert [(record.reason, record.code) for record in posted] == [("error", "server_error")]
    assert await settled(manager) == (at, 0)


async def test_a_question_that_waits_for_others_of_its_request_waits_in_a_queue(
    grant: Grant, question: Callable[[str], Question], manager: ModelManager, posted: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(asking_module, "AT_ONCE", 1)
    begin()
    async with await ask(grant, [question("a"), question("b")]) as asking:
        await asking.answers()
    [record] = posted
    assert record.stages["queue"] > 2 * record.stages["door"], "the first one started the engine"
    assert record.spans[-1][2] == pytest.approx(record.total, abs=0.01)


async def test_a_prompts_end_and_an_answers_beginning_are_kept_by_the_setting_alone(
    grant: Grant, question: Callable[[str], Question], posted: list[Any], settings: Any
) -> None:
    for settings.MONITORING_TEXTS in (False, True):
        await answer(grant, question("word " * 1000 + "END"))
        said = [{"role": "user", "content": "x" * 5000}, {"role": "user", "content": "why?"}]
        whole = await answer(grant, Question(question("").target, SamplingParams(max_tokens=64), said))
    assert [(record.prompt, record.answer) for record in posted[:2]] == [("", "")] * 2
    raw, talk = posted[2:]
    assert (len(raw.prompt), raw.prompt[:1], raw.prompt[-4:]) == (2000, "…", " END")
    assert raw.answer.startswith("pirate says word ") and len(raw.answer) <= 2000
    assert (len(talk.prompt), talk.prompt[-13:]) == (2000, "x\n\nuser: why?")
    assert talk.answer == (whole.text if len(whole.text) <= 2000 else whole.text[:1999] + "…")
    assert "END" not in repr(raw)


async def test_the_first_token_is_told_when_it_is_on_its_way(
    grant: Grant, question: Callable[[str], Question], manager: ModelManager, posted: list[Any]
) -> None:
    """Not when it was there: what a door does before and with it, which clients wait for, counts."""
    begin()
    asking = await ask(grant, [question("a b")])
    await asking.begin(30.0)
    ready = time.monotonic()
    await asyncio.sleep(0.05)  # headers, say
    async for _index, event in asking:
        if event["type"] == "token":
            time.sleep(0.03)  # noqa: ASYNC251  (it is written)
            break
    await asyncio.sleep(0.01)
    asking.close()
    [record] = posted
    assert record.ttft > ready - began.get() + 0.08
