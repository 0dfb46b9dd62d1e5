"""The manager over a worker process: answers, cancellation, crash, restart, slow readers."""

# Events are read by key whatever they are, and the engine here is the local one.
# mypy: disable-error-code="attr-defined, typeddict-item, arg-type, method-assign"

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from inference.backends.stream import MERGE_ABOVE
from inference.engine.params import SamplingParams
from inference.errors import InferenceError
from inference.manager import ModelManager, Request
from tests.fixtures.isolation import PATIENCE

from .whole import evict, run

BASE: Any = {"key": "b" * 64, "path": "/models/tiny", "name": "tiny"}
OTHER_BASE: Any = {"key": "c" * 64, "path": "/models/other", "name": "other"}
PIRATE: Any = {"digest": "d" * 64, "path": "/store/d", "name": "pirate"}


@pytest.fixture(autouse=True)
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the manager would write to the registry."""
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr("inference.manager.write_verdict", seen.append)
    return seen


def ask(prompt: str, adapter: Any = None, base: Any = BASE, **params: Any) -> Request:
    return Request(user="u1", base=base, adapter=adapter, prompt=prompt, params=SamplingParams(**params))


async def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def first_token(stream: Any) -> dict[str, Any]:
    async for event in stream:
        if event["type"] == "token":
            return event
    raise AssertionError("no token")


async def failure(answer: Awaitable[Any]) -> InferenceError:
    with pytest.raises(InferenceError) as caught:
        await asyncio.wait_for(answer, 15)
    return caught.value


async def test_nothing_starts_before_the_first_request(manager: ModelManager) -> None:
    status = await manager.status()
    assert status["worker"]["state"] == "stopped" and status["worker"]["pid"] is None
    assert await manager.unload() == 0
    assert (await manager.status())["worker"]["pid"] is None


async def test_answer_and_events(manager: ModelManager, proofs: list[dict[str, Any]]) -> None:
    async with await manager.generate(ask("ahoy", PIRATE)) as stream:
        events = [event async for event in stream]
    kinds = [event["type"] for event in events]
    assert kinds[0] == "loading" and events[0]["stage"] == "starting"
    assert kinds[-1] == "done" and kinds.count("done") == 1
    tokens = [event for event in events if event["type"] == "token"]
    assert "".join(event["text"] for event in tokens) == "pirate says ahoy "
    assert [event["index"] for event in tokens] == [0, 1, 2]
    assert events[-1]["digest"] == PIRATE["digest"]
    await until(lambda: proofs)
    assert proofs[0]["digest"] == PIRATE["digest"]


async def test_many_at_once_get_their_own(manager: ModelManager) -> None:
    async def one(number: int) -> None:
        adapter = {"digest": f"{number:064d}", "path": "/x", "name": f"a{number}"}
        answer = await run(manager, ask(f"q{number}", adapter))
        assert (answer.text, answer.digest) == (f"a{number} says q{number} ", adapter["digest"])

    await asyncio.gather(*(one(number) for number in range(30)))


async def test_engine_error(manager: ModelManager) -> None:
    error = await failure(run(manager, ask("fail")))
    assert error.code == "context_length_exceeded" and error.detail["context"] == 2048


async def test_cancel_by_call_by_context_and_by_garbage(manager: ModelManager, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []  # by streams; the backend also ends by itself what nobody takes any more
    cancel = manager.backend.cancel

    def tell(request_id: str) -> None:
        told.append(request_id)
        cancel(request_id)

    monkeypatch.setattr(manager.backend, "cancel", tell)
    async with await manager.generate(ask("hang")) as stream:
        await first_token(stream)
        stream.cancel()
        final = await asyncio.wait_for(stream.final(), PATIENCE)
    assert final["finish_reason"] == "cancelled"
    async with await manager.generate(ask("hang")) as left:
        await first_token(left)
    await until(lambda: manager.backend.snapshot()["in_flight"] == 0)
    dropped = await manager.generate(ask("hang"))
    await first_token(dropped)
    told.clear()
    del dropped
    await until(lambda: (gc.collect(), told)[1])  # the thread that brings its pieces may hold it for a moment
    assert len(told) == 1
    await until(lambda: manager.backend.snapshot()["in_flight"] == 0)


async def test_cancelled_task_cancels_the_request(manager: ModelManager) -> None:
    task = asyncio.create_task(run(manager, ask("hang")))
    await until(lambda: (manager.backend.last_status or {}).get("running") == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: (manager.backend.last_status or {}).get("running") == 0)


async def test_crash_fails_what_runs_and_the_next_is_answered(make_manager: Callable[..., ModelManager]) -> None:
    manager = make_manager(heartbeat_timeout=3600.0)  # it hears of the end itself, not of missing heartbeats
    stream = await manager.generate(ask("hang"))
    await first_token(stream)
    pid = manager.backend.snapshot()["pid"]
    os.kill(pid, signal.SIGKILL)
    final = await asyncio.wait_for(stream.final(), PATIENCE)
    assert (final["type"], final["code"]) == ("error", "engine_crashed")
    assert final["detail"]["reason"] == "SIGKILL"
    answer = await asyncio.wait_for(run(manager, ask("again", PIRATE)), PATIENCE)
    assert answer.text == "pirate says again "
    status = (await manager.status())["worker"]
    assert status["pid"] != pid and status["restarts"] == 1


@pytest.mark.parametrize("word", ["crash", "garbage", "mute"])
async def test_every_way_to_die(make_manager: Callable[..., ModelManager], word: str) -> None:
    manager = make_manager(heartbeat_timeout=1.0)
    await run(manager, ask("warm up"))
    assert (await failure(run(manager, ask(word)))).code == "engine_crashed"
    assert (await run(manager, ask("after"))).text == "tiny says after "


async def test_residents_return_after_a_crash(manager: ModelManager) -> None:
    await run(manager, ask("hello", PIRATE))
    load = await manager.load(BASE, [PIRATE], pin=True)
    assert (await load.final())["type"] == "reply"
    await until(lambda: (manager.backend.last_status or {}).get("pinned"))
    before = manager.backend.snapshot()["pid"]
    os.kill(before, signal.SIGKILL)
    await until(lambda: manager.backend.snapshot()["pid"] not in (None, before))
    await until(lambda: (manager.backend.last_status or {}).get("pinned"))  # nobody asked: it restores by itself
    status = await manager.status()
    assert status["engine"]["base"] == "tiny"
    assert [item["digest"] for item in status["engine"]["adapters"]] == [PIRATE["digest"]]


async def test_released_adapters_do_not_return(manager: ModelManager) -> None:
    await run(manager, ask("hello", PIRATE))
    await until(lambda: manager.backend.last_status and manager.backend.last_status["adapters"])
    manager.release(PIRATE["digest"])
    await until(lambda: manager.backend.last_status and not manager.backend.last_status["adapters"])
    before = manager.backend.snapshot()["pid"]
    os.kill(before, signal.SIGKILL)
    await until(lambda: (manager.backend.last_status or {}).get("base") == "tiny")
    assert manager.backend.last_status and manager.backend.last_status["adapters"] == []


async def test_drain_waits_for_the_last_request(manager: ModelManager) -> None:
    stream = await manager.generate(ask("hang", PIRATE))
    await first_token(stream)
    assert not await asyncio.to_thread(manager.drain, PIRATE["digest"], 0.1)
    draining = asyncio.create_task(asyncio.to_thread(manager.drain, PIRATE["digest"], 10.0))
    stream.cancel()
    assert await draining
    await until(lambda: manager.backend.last_status and not manager.backend.last_status["adapters"])


async def test_worker_that_cannot_start(make_manager: Callable[..., ModelManager], tmp_path: Path) -> None:
    stone = tmp_path / "die"
    stone.touch()
    manager = make_manager(die=str(stone))
    error = await failure(run(manager, ask("hello")))
    assert error.code == "engine_unavailable" and error.detail["retry_after"] >= 1
    failures = manager.backend._supervisor.policy.failures
    assert (await failure(run(manager, ask("hello")))).code == "engine_unavailable"
    assert manager.backend._supervisor.policy.failures == failures, "no new attempt before the backoff is over"
    stone.unlink()
    await until(lambda: manager.backend._supervisor.policy.delay() == 0)
    assert (await run(manager, ask("hello"))).text == "tiny says hello "


async def test_requests_that_wait_for_the_start_survive_a_failed_one(
    make_manager: Callable[..., ModelManager], tmp_path: Path
) -> None:
    stone = tmp_path / "die"
    stone.touch()
    manager = make_manager(die=str(stone))
    task = asyncio.create_task(run(manager, ask("patience")))
    await until(lambda: manager.backend.snapshot()["state"] == "failed")
    stone.unlink()
    assert (await asyncio.wait_for(task, 10)).text == "tiny says patience "


async def test_a_request_is_sent_once_even_as_the_worker_becomes_ready(manager: ModelManager) -> None:
    """It is registered before the I/O thread hears of it: both that thread and the start could send it."""
    supervisor, sent = manager.backend._supervisor, []
    await run(manager, ask("warm up"))
    original, accept = supervisor.send, supervisor.accept

    def send(worker: Any, entry: Any) -> None:
        sent.append(entry.id)
        original(worker, entry)

    def ready_first(request_id: str) -> None:  # what a worker that becomes ready does, between booking and inbox
        for entry in supervisor.entries.all():
            if not entry.sent and supervisor.worker is not None:
                supervisor.send(supervisor.worker, entry)
        accept(request_id)

    supervisor.send, supervisor.accept = send, ready_first
    assert (await run(manager, ask("once"))).text == "tiny says once "
    assert len(sent) == len(set(sent)) == 1


async def test_cancel_while_the_worker_starts(make_manager: Callable[..., ModelManager], tmp_path: Path) -> None:
    stone = tmp_path / "die"
    stone.touch()
    manager = make_manager(die=str(stone))
    stream = await manager.generate(ask("hello"))
    stream.cancel()
    final = await asyncio.wait_for(stream.final(), PATIENCE)
    assert final["finish_reason"] == "cancelled" and final["digest"] == BASE["key"]


async def test_slow_reader_loses_no_text_and_holds_few_pieces(manager: ModelManager) -> None:
    stream = await manager.generate(ask("flood"))
    await until(lambda: stream._closed)
    assert len(stream._events) <= MERGE_ABOVE + 4
    events = [event async for event in stream]
    tokens = [event for event in events if event["type"] == "token"]
    assert "".join(event["text"] for event in tokens) == "x" * 100_000
    assert [event["index"] for event in tokens] == list(range(len(tokens)))
    assert tokens[-1]["tokens"] == 5000


async def test_reader_beyond_the_bound_is_cut(manager: ModelManager) -> None:
    stream = await manager.generate(ask("long"))
    final = await asyncio.wait_for(stream.final(), 10)
    assert (final["type"], final["code"]) == ("error", "slow_reader")
    assert (await run(manager, ask("next"))).text == "tiny says next "


async def test_bounded_number_of_requests(make_manager: Callable[..., ModelManager]) -> None:
    manager = make_manager(limit=2)
    running = [await manager.generate(ask("hang")) for _ in range(2)]
    assert (await failure(run(manager, ask("one more")))).code == "queue_full"
    for stream in running:
        stream.cancel()
        await stream.final()
    assert (await run(manager, ask("now"))).text == "tiny says now "


async def test_too_long_for_a_line(manager: ModelManager) -> None:
    assert (await failure(run(manager, ask("x" * 2**24)))).code == "prompt_too_long"


async def test_count_unload_evict(manager: ModelManager) -> None:
    assert await manager.count_tokens(BASE, prompt="one two three") == (3, 2048)
    await run(manager, ask("hello", PIRATE))
    assert await evict(manager, PIRATE["digest"]) == 10
    assert await manager.unload() == 1000


def test_several_event_loops(manager: ModelManager) -> None:
    """Loops come and go (ASGI, commands by async_to_sync); one manager serves them all."""
    for number in range(3):
        assert asyncio.run(run(manager, ask(f"loop {number}"))).text == f"tiny says loop {number} "
    assert async_to_sync(run)(manager, ask("sync")).text == "tiny says sync "
    assert manager.backend.snapshot()["restarts"] == 0


def test_loop_that_ends_under_a_request(manager: ModelManager) -> None:
    kept: list[Any] = []

    async def leave() -> None:
        kept.append(await manager.generate(ask("hang")))
        await first_token(kept[0])

    asyncio.run(leave())
    asyncio.run(until(lambda: manager.backend.snapshot()["in_flight"] == 0))


async def test_close_tells_what_runs_and_leaves_no_process(manager: ModelManager) -> None:
    stream = await manager.generate(ask("hang"))
    await first_token(stream)
    pid = manager.backend.snapshot()["pid"]
    closing = asyncio.create_task(asyncio.to_thread(manager.close))
    final = await asyncio.wait_for(stream.final(), PATIENCE)
    assert final["code"] == "shutting_down"
    await closing
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert (await failure(run(manager, ask("late")))).code == "shutting_down"


async def test_private_settings_stay_out_of_the_worker(
    make_manager: Callable[..., ModelManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "s3cret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    manager = make_manager()
    await run(manager, ask("hello"))
    environ = Path(f"/proc/{manager.backend.snapshot()['pid']}/environ").read_bytes()
    assert b"s3cret" not in environ and b"HF_HUB_OFFLINE=1\0" in environ
