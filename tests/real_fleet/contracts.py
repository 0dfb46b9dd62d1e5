"""What the portal promises of a fleet, against real vLLM replicas. Not collected by itself: `make test-fleet`."""

# Events are read by key whatever they are.
# mypy: disable-error-code="attr-defined, typeddict-item"

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapters import services
from adapters.models import LoraAdapter, Status
from inference.backends.fleet.backend import FleetBackend
from inference.backends.interface import Request
from inference.backends.local import LocalBackend
from inference.engine.params import SamplingParams
from inference.gateway.targets import Target, of_adapter, of_base
from inference.manager import ModelManager, fleet_options, worker_options
from inference.tests.whole import run
from tests.fixtures.portal import wait_for

from .processes import READY, replica, requests_running, router, running

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
QUESTIONS = ["What is the sea like?", "Write one sentence about a railway station."]
TOKENS = 40


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory, demo_base_model: Path) -> Iterator[SimpleNamespace]:
    """Two replicas of the demo's base behind a router."""
    programs = Path(os.environ["LORAPORTAL_FLEET_PROGRAMS"])
    place = tmp_path_factory.mktemp("fleet")
    folder = place / "published"
    folder.mkdir()
    count = int(os.environ.get("LORAPORTAL_FLEET_REPLICAS", "2"))
    replicas = [replica(programs, demo_base_model, folder, place / f"replica{n}.log") for n in range(count)]
    door = router(programs, replicas, place / "router.log")
    with running([*replicas, door]):
        yield SimpleNamespace(folder=folder, replicas=replicas, router=door)


@pytest.fixture
def site(machines: SimpleNamespace, tmp_path: Path, demo_base_model: Path, settings: Any) -> Iterator[SimpleNamespace]:
    """The demo's adapters in a registry whose answers come from the fleet."""
    from demo.install import install

    install(tmp_path / "adapters")
    settings.LORA_ROOTS, settings.STORE_DIR = [tmp_path / "adapters"], tmp_path / "store"
    settings.BASE_MODELS_DIR, settings.SCAN_SETTLE_SECONDS = demo_base_model.parent, 0.0
    settings.INFERENCE_BACKEND, settings.FLEET_DIR, settings.FLEET_MAX_RANK = "vllm", machines.folder, 32
    settings.VLLM_URL, settings.VLLM_TIMEOUT = [("", machines.router.url)], 300
    services.scan(None)
    found = {}
    for row in (
        LoraAdapter.objects.filter(status=Status.DISCOVERED, checkpoint=None)
        .exclude(name__startswith="broken")
        .order_by("name")[:4]
    ):
        found[row.slug] = services.activate(row.pk, None)
    assert len(found) == 4
    manager = ModelManager(lambda on_verdict: FleetBackend(fleet_options(), on_verdict))
    yield SimpleNamespace(manager=manager, adapters=found, machines=machines)
    manager.close()


@pytest.fixture
def engine(settings: Any, tmp_path: Path) -> Iterator[ModelManager]:
    """The engine on this machine, in fp32."""
    settings.ENGINE_PRECISION, settings.ENGINE_DEVICE = "fp32", "cpu"
    options = worker_options()
    manager = ModelManager(lambda on_verdict: LocalBackend(options, on_verdict))
    yield manager
    manager.close()


def asked(target: Target, words: str, **params: Any) -> Request:
    given = {"temperature": 0, "max_tokens": TOKENS, **params}
    messages = [{"role": "user", "content": words}]
    return Request("u", target.base, target.adapter, messages, params=SamplingParams(**given))


async def all_of(manager: ModelManager, requests: list[Request]) -> list[Any]:
    return list(await asyncio.gather(*(run(manager, request) for request in requests)))


def targets(site: SimpleNamespace) -> list[Target]:
    return [of_adapter(adapter) for adapter in site.adapters.values()]


def test_greedy_texts_are_the_engines(site: SimpleNamespace, engine: ModelManager) -> None:
    """Four adapters and their base, streamed at once through the router."""
    for adapter in site.adapters.values():
        assert adapter.promotion["steps"] == ["linted", "published", "probed"]
    everybody = [*targets(site), of_base(next(iter(site.adapters.values())).base)]
    requests = [asked(target, words) for words in QUESTIONS for target in everybody]
    fleet = asyncio.run(all_of(site.manager, requests))
    here = asyncio.run(all_of(engine, requests))
    for request, theirs, ours in zip(requests, fleet, here, strict=True):
        name = request.adapter["name"] if request.adapter else "base"
        assert theirs.text == ours.text, name
        assert theirs.digest == ours.digest and theirs.finish_reason == ours.finish_reason, name
        assert theirs.usage["prompt_tokens"] == ours.usage["prompt_tokens"], name
        assert theirs.usage["completion_tokens"] == ours.usage["completion_tokens"], name
    assert len({answer.text for answer in fleet[:5]}) == 5, "each is itself"


def test_parameters(site: SimpleNamespace, engine: ModelManager) -> None:
    target = targets(site)[0]
    ours, theirs = (
        asyncio.run(run(manager, asked(target, QUESTIONS[0], logprobs=3, max_tokens=12)))
        for manager in (engine, site.manager)
    )
    assert [one["token_id"] for one in ours.logprobs] == [one["token_id"] for one in theirs.logprobs]
    for mine, its in zip(ours.logprobs, theirs.logprobs, strict=True):
        assert mine["logprob"] == pytest.approx(its["logprob"], abs=2e-3)
        assert (mine["token"], mine["bytes"], mine["offset"]) == (its["token"], its["bytes"], its["offset"])
        assert [alternative[1] for alternative in mine["top"]] == [alternative[1] for alternative in its["top"]]
    word = ours.text.split()[2]
    stopped = [asyncio.run(run(manager, asked(target, QUESTIONS[0], stop=word))) for manager in (engine, site.manager)]
    assert stopped[0].text == stopped[1].text and stopped[1].stop == word
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    made = asyncio.run(run(site.manager, asked(target, "A number.", json_schema=schema, max_tokens=30)))
    assert made.text.lstrip().startswith("{")
    seeded = asked(target, QUESTIONS[0], temperature=1.0, seed=5, max_tokens=12)
    first, second = (asyncio.run(run(site.manager, seeded)) for _again in range(2))
    assert first.text == second.text
    counts = [
        asyncio.run(manager.count_tokens(target.base, [{"role": "user", "content": "hello"}], adapter=target.adapter))
        for manager in (engine, site.manager)
    ]
    assert counts[0][0] == counts[1][0] and counts[1][1] == 1024


def test_cancelling_ends_it_there(site: SimpleNamespace) -> None:
    target = targets(site)[0]

    async def cut() -> None:
        request = asked(target, "Count.", max_tokens=900, ignore_eos=True)
        async with await site.manager.generate(request) as stream:
            async for event in stream:
                if event["type"] == "token":
                    return

    asyncio.run(cut())
    began = time.monotonic()
    wait_for(lambda: not any(requests_running(one.url) for one in site.machines.replicas), 20, "an idle fleet")
    assert time.monotonic() - began < 20


def test_a_replica_dies_and_comes_back(site: SimpleNamespace) -> None:
    """Nothing is lost but the streams that it wrote; when it is back it finds the adapters by itself."""
    if len(site.machines.replicas) < 2:
        pytest.skip("one replica")
    victim = site.machines.replicas[0]
    [target, *_] = targets(site)
    ends: list[str] = []

    async def one() -> None:
        async with await site.manager.generate(asked(target, "Count.", max_tokens=200, ignore_eos=True)) as stream:
            async for event in stream:
                if event["type"] in ("done", "error"):
                    ends.append(event["code"] if event["type"] == "error" else "done")

    async def several() -> None:
        await asyncio.gather(*(one() for _ in range(4)))

    killer = threading.Timer(3.0, victim.kill)
    killer.start()
    asyncio.run(several())
    killer.join()
    assert len(ends) == 4 and set(ends) <= {"done", "fleet_interrupted", "engine_error", "fleet_unavailable"}
    assert "done" in ends, "the other one went on"
    victim.start()
    wait_for(victim.ready, READY, "the replica")
    wait_for(lambda: asyncio.run(alive(site, target)), 120, "answers again")


async def alive(site: SimpleNamespace, target: Target) -> bool:
    try:
        answers = await all_of(site.manager, [asked(target, "Hello", max_tokens=4) for _ in range(4)])
    except Exception:  # noqa: BLE001  (the router notices after a while)
        return False
    return {answer.digest for answer in answers} == {target.digest}


def test_activated_and_deactivated_while_it_serves(site: SimpleNamespace) -> None:
    [first, second, *_] = site.adapters.values()
    folder = site.machines.folder
    stopped = threading.Event()
    answers: list[str] = []

    def serving() -> None:
        target = of_adapter(first)
        while not stopped.is_set():
            answers.append(asyncio.run(run(site.manager, asked(target, "Hello", max_tokens=4))).digest)

    target = of_adapter(first)
    assert target.adapter is not None
    thread = threading.Thread(target=serving)
    thread.start()
    try:
        digest = second.digest
        services.deactivate(second.pk, None)
        assert not (folder / digest).exists()
        again = services.activate(second.pk, None)
        assert again.digest == digest and (folder / digest).is_dir()
        assert asyncio.run(run(site.manager, asked(of_adapter(again), "Hello", max_tokens=4))).digest == digest
    finally:
        stopped.set()
        thread.join(60)
    assert answers and set(answers) == {first.digest}
