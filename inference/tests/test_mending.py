"""A request that meets a damaged copy or a changed base is answered all the same, or hears what is wrong."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from channels.db import database_sync_to_async

from adapters import services, store
from adapters.leases import HeldLease, adapter_lock
from adapters.lifecycle import mending as registry_mending
from adapters.models import AdapterEvent, BaseModel, LoraAdapter, Status
from adapters.tests import layouts as make
from inference import mending
from inference.errors import InferenceError, api_error
from inference.gateway.targets import of_adapter, of_base
from inference.manager import ModelManager, Request
from tests.fixtures.damage import WEIGHTS, flip
from tests.fixtures.portal import wait_for

from .whole import evict, run

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def kept(transactional_db: None, tmp_path: Path, settings: Any) -> SimpleNamespace:
    """A real folder, its stored copy, and its adapter, which the fake worker reads as the engine does."""
    settings.LORA_ROOTS = [tmp_path / "adapters"]
    settings.SCAN_SETTLE_SECONDS = 0.0
    make.base_model(settings.BASE_MODELS_DIR / make.BASE_NAME)
    folder = make.adapter(tmp_path / "adapters" / "real")
    services.scan(None)
    adapter = services.activate(LoraAdapter.objects.get().pk, None)
    base = BaseModel.objects.get()
    return SimpleNamespace(folder=folder, adapter=adapter, base=base, copy=store.entry(adapter.digest))


def ask(kept: SimpleNamespace, prompt: str = "ahoy") -> Request:
    target = of_adapter(kept.adapter)
    return Request(user="u", base=target.base, adapter=target.adapter, prompt=prompt)


async def failure(answer: Awaitable[Any]) -> InferenceError:
    with pytest.raises(InferenceError) as caught:
        await asyncio.wait_for(answer, 60)
    return caught.value


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


@database_sync_to_async
def history(code: str) -> int:
    return AdapterEvent.objects.filter(code=code).count()


async def test_the_copy_is_made_again_and_the_request_answered(kept: SimpleNamespace, manager: ModelManager) -> None:
    flip(kept.copy / WEIGHTS)
    async with await manager.generate(ask(kept)) as stream:
        events: list[Any] = [event async for event in stream]
    assert [event["type"] for event in events if event["type"] in {"done", "error"}] == ["done"]
    assert "".join(event["text"] for event in events if event["type"] == "token") == "real says ahoy "
    assert events[-1]["digest"] == kept.adapter.digest and store.verify(kept.adapter.digest)
    assert await history("store_mended") == 1


async def test_many_that_wait_are_served_by_one_mending(kept: SimpleNamespace, manager: ModelManager) -> None:
    shutil.rmtree(kept.copy)
    settle, calls = manager.mending.settle, []

    def counted(subject: Any, closing: threading.Event) -> Any:
        calls.append(subject)
        wait_for(lambda: len(manager.mending._held) == 12)
        return settle(subject, closing)

    manager.mending.settle = counted
    answers = await asyncio.gather(*(run(manager, ask(kept, f"q{number}")) for number in range(12)))
    assert len(calls) == 1
    assert [answer.text for answer in answers] == [f"real says q{number} " for number in range(12)]
    assert await history("store_mended") == 1


async def test_what_cannot_be_made_again_is_told_once(kept: SimpleNamespace, manager: ModelManager) -> None:
    flip(kept.copy / WEIGHTS)
    shutil.rmtree(kept.folder)
    error = await failure(run(manager, ask(kept)))
    assert error.code == "store_damaged" and api_error(error).status == 409 and "real" in api_error(error).message
    await kept.adapter.arefresh_from_db()
    assert (kept.adapter.status, kept.adapter.failure_code) == (Status.FAILED, "store_damaged")
    assert await history("store_damaged") == 1
    with pytest.raises(InferenceError) as caught:
        of_adapter(kept.adapter)
    assert caught.value.code == "adapter_inactive"
    await until(lambda: manager.backend.last_status and not manager.backend.last_status["adapters"])


async def test_a_copy_that_only_the_engine_cannot_read(
    kept: SimpleNamespace, manager: ModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry finds nothing wrong: one more try, then an error that says to try again later."""
    flip(kept.copy / WEIGHTS)
    monkeypatch.setattr(registry_mending, "mend", lambda digest: registry_mending.Outcome.SOUND)
    error = await failure(run(manager, ask(kept)))
    assert error.code == "adapter_load_failed" and api_error(error).status == 503
    await kept.adapter.arefresh_from_db()
    assert kept.adapter.status == Status.ACTIVE


async def test_an_adapter_that_somebody_is_at_is_waited_for(
    kept: SimpleNamespace, manager: ModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(kept.copy / WEIGHTS)
    met = threading.Event()
    mend = registry_mending.mend

    def watched(digest: str) -> registry_mending.Outcome:
        outcome = mend(digest)
        met.set()
        return outcome

    monkeypatch.setattr(registry_mending, "mend", watched)
    hold = HeldLease(adapter_lock(kept.adapter.pk))
    await database_sync_to_async(hold.__enter__)()
    answer = asyncio.create_task(run(manager, ask(kept)))
    await until(met.is_set)
    assert not answer.done()
    await database_sync_to_async(hold.__exit__)(None, None, None)
    assert (await asyncio.wait_for(answer, 60)).text == "real says ahoy "
    monkeypatch.setattr(mending, "PATIENCE", 0.0)
    await evict(manager, kept.adapter.digest)
    flip(kept.copy / WEIGHTS)
    await database_sync_to_async(hold.__enter__)()
    error = await failure(run(manager, ask(kept)))
    await database_sync_to_async(hold.__exit__)(None, None, None)
    assert error.code == "store_repairing" and api_error(error).status == 503


async def test_a_database_that_is_away_ends_nobodys_thread(
    kept: SimpleNamespace, manager: ModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(kept.copy / WEIGHTS)
    with monkeypatch.context() as patched:

        def away(digest: str) -> registry_mending.Outcome:
            raise OSError("away")

        patched.setattr(registry_mending, "mend", away)
        assert (await failure(run(manager, ask(kept)))).code == "store_repairing"
    assert (await run(manager, ask(kept))).text == "real says ahoy "


@pytest.fixture
def slow(manager: ModelManager) -> SimpleNamespace:
    """A mending that begins (`begun`) and ends when it is let go (`go`)."""
    begun, go = threading.Event(), threading.Event()
    settle = manager.mending.settle

    def waiting(subject: Any, closing: threading.Event) -> Any:
        begun.set()
        assert go.wait(30)
        return settle(subject, closing)

    manager.mending.settle = waiting
    return SimpleNamespace(begun=begun, go=go)


@pytest.mark.parametrize("how", ["call", "left", "lost"])
async def test_cancelled_while_it_waits(
    kept: SimpleNamespace, manager: ModelManager, slow: SimpleNamespace, how: str
) -> None:
    flip(kept.copy / WEIGHTS)
    stream = await manager.generate(ask(kept, "hang"))
    await until(slow.begun.is_set)
    if how == "call":
        stream.cancel()
        final: Any = await asyncio.wait_for(stream.final(), 30)
        assert (final["type"], final["finish_reason"]) == ("done", "cancelled")
    elif how == "left":
        async with stream:
            pass
    else:
        del stream
    slow.go.set()
    await until(lambda: not manager.mending._jobs and not manager.mending._held)
    assert (await run(manager, ask(kept))).text == "real says ahoy "
    # One that was asked again would hang there; the registry's own commands may still be on their way.
    await until(lambda: manager.backend.snapshot()["in_flight"] == 0)


async def test_a_cancellation_between_the_two_is_not_lost(
    kept: SimpleNamespace, manager: ModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(kept.copy / WEIGHTS)
    submit = manager.backend.submit
    asked = []
    stream = await manager.generate(ask(kept, "hang"))

    def late(request_id: str, request: Any, sink: Any) -> None:
        stream.cancel()  # before the backend knows the request again
        asked.append(request_id)
        submit(request_id, request, sink)

    monkeypatch.setattr(manager.backend, "submit", late)
    final: Any = await asyncio.wait_for(stream.final(), 60)
    assert asked == [stream.id] and final["finish_reason"] == "cancelled"


async def test_a_cancellation_that_crosses_the_error_is_not_lost(
    kept: SimpleNamespace, manager: ModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reaches the engine when the request has ended there, and its error is on its way back."""
    flip(kept.copy / WEIGHTS)
    submit = manager.backend.submit
    asked = []

    def crossed(request_id: str, request: Any, sink: Any) -> None:
        def late(event: Any) -> bool:
            if event["type"] == "error":
                manager.mending.cancel(request_id)
            return sink(event)

        asked.append(request_id)
        submit(request_id, request, late)

    monkeypatch.setattr(manager.backend, "submit", crossed)
    stream = await manager.generate(ask(kept, "hang"))
    final: Any = await asyncio.wait_for(stream.final(), 60)
    assert final["finish_reason"] == "cancelled" and asked == [stream.id]
    assert not manager.mending._calls and not manager.mending._held


async def test_closing_tells_those_that_wait(
    kept: SimpleNamespace, manager: ModelManager, slow: SimpleNamespace
) -> None:
    flip(kept.copy / WEIGHTS)
    answer = asyncio.create_task(run(manager, ask(kept)))
    await until(slow.begun.is_set)
    closing = asyncio.create_task(asyncio.to_thread(manager.close))
    await until(lambda: manager.backend.snapshot()["state"] == "closed")
    slow.go.set()
    assert (await failure(answer)).code == "shutting_down"
    await closing


async def test_damage_that_nobody_waits_for_is_seen_to(kept: SimpleNamespace, manager: ModelManager) -> None:
    flip(kept.copy / WEIGHTS)
    manager._on_verdict({"type": "damage", "digest": kept.adapter.digest, "reason": "its content has changed"})
    await until(lambda: store.verify(kept.adapter.digest))


def touch(kept: SimpleNamespace) -> None:
    (Path(kept.base.path) / "README.md").write_text("words about the model")


def rewrite(kept: SimpleNamespace) -> None:
    flip(Path(kept.base.path) / "model.safetensors")


@pytest.mark.parametrize("kind", ["generate", "load", "count"])
async def test_a_base_whose_content_is_the_same_is_asked_again(
    kept: SimpleNamespace, manager: ModelManager, kind: str
) -> None:
    base = of_base(kept.base).base
    touch(kept)
    if kind == "generate":
        assert (await run(manager, ask(kept))).digest == kept.adapter.digest
    elif kind == "load":
        async with await manager.load(base) as stream:
            assert (await asyncio.wait_for(stream.final(), 60))["type"] == "reply"
    else:
        assert (await manager.count_tokens(base, prompt="a b"))[0] == 2
    row = await BaseModel.objects.aget()
    assert row.key == kept.base.key and row.signature != kept.base.signature


async def test_a_base_of_another_content_is_told_and_then_served_as_itself(
    kept: SimpleNamespace, manager: ModelManager
) -> None:
    request = Request(user="u", base=of_base(kept.base).base, prompt="ahoy")
    await LoraAdapter.objects.all().aupdate(proven_digest=kept.adapter.digest, effect_kl=0.5)
    rewrite(kept)
    error = await failure(run(manager, request))
    assert error.code == "base_changed" and api_error(error).status == 503
    row = await BaseModel.objects.aget()
    assert row.key != kept.base.key
    answer = await run(manager, Request(user="u", base=of_base(row).base, prompt="ahoy"))
    assert answer.digest == row.key
    adapter = await LoraAdapter.objects.aget()
    assert (adapter.proven_digest, adapter.effect_kl) == ("", None), "what it changes is measured on the new base"


async def test_a_base_that_is_gone_is_told(kept: SimpleNamespace, manager: ModelManager) -> None:
    request = ask(kept)
    shutil.move(kept.base.path, f"{kept.base.path}-away")
    Path(kept.base.path).mkdir()
    assert (await failure(run(manager, request))).code == "base_changed"
    row = await BaseModel.objects.aget(pk=kept.base.pk)
    assert row.missing


async def test_a_base_that_is_cut_short_while_it_loads(
    kept: SimpleNamespace, manager: ModelManager, settings: Any
) -> None:
    """The engine's process ends by it, once: the files say why, and nobody else is harmed."""
    make.base_model(settings.BASE_MODELS_DIR / "shrinking", layers=1)
    await database_sync_to_async(services.scan)(None)
    row = await BaseModel.objects.aget(name="shrinking")
    request = Request(user="u", base=of_base(row).base, prompt="ahoy")
    error = await failure(run(manager, request))
    assert (error.code, error.detail["base"]) == ("base_changed", "shrinking")
    assert (await run(manager, ask(kept))).text == "real says ahoy "
    await row.arefresh_from_db()
    assert not row.usable and row.problem_code != "base_unsupported"
    assert (await failure(run(manager, request))).code == "base_changed"
    assert manager.backend.snapshot()["restarts"] == 1
