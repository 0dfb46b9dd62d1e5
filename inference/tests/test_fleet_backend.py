"""The fleet's backend over a server that speaks as vLLM does, and breaks as one does rarely."""

# Events are read by key whatever they are.
# mypy: disable-error-code="attr-defined, typeddict-item"

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inference.backends.fleet.answers import logprobs
from inference.backends.fleet.catalogue import Address, BasePlace, Catalogue
from inference.backends.fleet.refusals import refused
from inference.backends.fleet.shelf import Shelf
from inference.backends.fleet.wire import Refusal, Wire
from inference.backends.interface import Reading, Request
from inference.engine.errors import EngineError
from inference.engine.params import SamplingParams
from inference.engine.text.vocabulary import Offsets, Vocabulary
from inference.errors import InferenceError
from inference.manager import ModelManager
from tests.fixtures.models import write_tokenizer

from .fake_vllm import FakeVllm, fake_vllm
from .fleet import fleet_manager, question, store, write_base
from .whole import evict, run


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """A replica, a base, two stored adapters and a manager."""
    with fake_vllm(tmp_path / "fleet") as server:
        manager = fleet_manager(tmp_path / "fleet", server.url)
        yield SimpleNamespace(
            server=server,
            manager=manager,
            base=write_base(tmp_path / "models" / "tiny"),
            pirate=store(tmp_path / "store", "pirate"),
            poet=store(tmp_path / "store", "poet"),
            folder=tmp_path / "fleet",
        )
        manager.close()


async def events_of(manager: ModelManager, request: Request) -> list[Any]:
    async with await manager.generate(request) as stream:
        return [dict(event) async for event in stream]


async def failure(manager: ModelManager, request: Request) -> InferenceError:
    with pytest.raises(InferenceError) as caught:
        await asyncio.wait_for(run(manager, request), 20)
    return caught.value


async def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def sent(server: FakeVllm) -> dict[str, Any]:
    return server.asked[-1]


async def test_answer_of_an_adapter(site: SimpleNamespace) -> None:
    events = await events_of(site.manager, question(site.base, "ahoy there", site.pirate, temperature=0))
    tokens = [event for event in events if event["type"] == "token"]
    assert "".join(event["text"] for event in tokens) == f"{site.pirate['digest'][:6]} says ahoy there "
    assert [(event["index"], event["tokens"]) for event in tokens] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    done = events[-1]
    assert (done["type"], done["finish_reason"], done["digest"]) == ("done", "stop", site.pirate["digest"])
    assert done["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "cached_tokens": 1}
    assert done["timings"]["total"] >= done["timings"]["ttft"] > 0
    assert sent(site.server)["model"] == site.pirate["digest"]
    published = json.loads((site.folder / site.pirate["digest"] / "adapter_config.json").read_text())
    assert published["base_model_name_or_path"] == "/models/tiny" and published["r"] == 8


async def test_the_base_answers_under_its_key(site: SimpleNamespace) -> None:
    answer = await run(site.manager, question(site.base, "ahoy"))
    assert (answer.text, answer.digest) == ("base says ahoy ", site.base["key"])
    assert sent(site.server)["model"] == "base"


async def test_many_at_once_get_their_own_over_few_connections(site: SimpleNamespace) -> None:
    async def one(number: int) -> None:
        adapter = [site.pirate, site.poet][number % 2]
        answer = await run(site.manager, question(site.base, f"q{number}", adapter))
        assert (answer.text, answer.digest) == (f"{adapter['digest'][:6]} says q{number} ", adapter["digest"])

    await asyncio.gather(*(one(number) for number in range(12)))


async def test_connections_are_used_again(site: SimpleNamespace) -> None:
    await run(site.manager, question(site.base, "first"))
    await site.manager.status()
    before = site.server.connections
    for number in range(12):
        await run(site.manager, question(site.base, f"q{number}"))
    assert site.server.connections - before <= 2


async def test_prompts_are_written_here(site: SimpleNamespace, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hello"}]
    await run(site.manager, Request("u", site.base, messages=messages))
    body = sent(site.server)
    assert (body["prompt"], body["add_special_tokens"]) == ("<s> user: hello assistant: ", False)
    own = store(tmp_path / "store", "own", {"chat_template": "own {{ messages[0]['content'] }} {{ eos_token }}"})
    await run(site.manager, Request("u", site.base, own, messages=messages))
    assert sent(site.server)["prompt"] == "own hello </s>"
    await run(site.manager, question(site.base, "raw"))
    assert (sent(site.server)["prompt"], sent(site.server)["add_special_tokens"]) == ("raw", True)
    begun = [*messages, {"role": "assistant", "content": "I am"}]
    await run(site.manager, Request("u", site.base, messages=begun, continue_last=True))
    assert sent(site.server)["prompt"] == "<s> user: hello <s> assistant: I am"


async def test_every_parameter_is_named(site: SimpleNamespace, tmp_path: Path) -> None:
    await run(site.manager, question(site.base, "plain"))
    body = sent(site.server)
    wanted: dict[str, Any] = {
        "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "min_tokens": 0, "repetition_penalty": 1.0,
        "presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": None, "stop": [], "stop_token_ids": [],
        "include_stop_str_in_output": False, "ignore_eos": False, "max_tokens": 256, "n": 1,
    }  # fmt: skip
    assert {name: body[name] for name in wanted} == wanted
    assert "logprobs" not in body and "structured_outputs" not in body
    given: dict[str, Any] = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "min_tokens": 2, "repetition_penalty": 1.1,
        "presence_penalty": 0.2, "frequency_penalty": 0.3, "seed": 7, "include_stop_str_in_output": True,
        "ignore_eos": True,
    }  # fmt: skip
    params = given | {"stop": "END", "stop_token_ids": [5], "max_tokens": 4000, "json_schema": {"type": "object"}}
    answer = await run(site.manager, question(site.base, "plain", **params))
    body = sent(site.server)
    assert {name: body[name] for name in given} == given
    assert (body["stop"], body["stop_token_ids"]) == (["END"], [5])
    assert body["max_tokens"] == 512, "not more than the replica's context"
    assert body["structured_outputs"] == {"json": {"type": "object"}}
    assert answer.stop == "END"
    await run(site.manager, question(site.base, "plain", json_object=True))
    assert sent(site.server)["structured_outputs"] == {"json_object": True}


async def test_an_adapters_own_defaults_and_ends(site: SimpleNamespace, tmp_path: Path) -> None:
    own = store(tmp_path / "store", "own", {"end_ids": [9, 11], "defaults": {"temperature": 0.3, "top_k": 5}})
    await run(site.manager, question(site.base, "x", own, top_k=7, stop_token_ids=[11]))
    body = sent(site.server)
    assert (body["temperature"], body["top_k"], body["stop_token_ids"]) == (0.3, 7, [11, 9])
    await run(site.manager, question(site.base, "x", own, ignore_eos=True))
    assert sent(site.server)["stop_token_ids"] == []


async def test_defaults_that_are_none(site: SimpleNamespace, tmp_path: Path) -> None:
    odd = store(tmp_path / "store", "odd", {"defaults": {"temperature": "hot"}})
    assert (await failure(site.manager, question(site.base, "x", odd))).code == "adapter_incompatible"


async def test_max_tokens_and_user_limit(site: SimpleNamespace) -> None:
    answer = await run(site.manager, question(site.base, "one two three", max_tokens=2))
    assert answer.text == "base says "
    site.manager.backend.flights.user_limit = 1
    async with await site.manager.generate(question(site.base, "hang")):
        assert (await failure(site.manager, question(site.base, "x"))).code == "user_limit"


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("busy", "queue_full"),
        ("broken", "engine_error"),
        ("away", "fleet_unavailable"),
        ("refuse", "engine_error"),
        ("reset", "fleet_interrupted"),
        ("cut", "fleet_interrupted"),
        ("half", "fleet_interrupted"),
        ("stump", "fleet_interrupted"),
        ("abort", "fleet_interrupted"),
        ("garbage", "fleet_answer_invalid"),
        ("endless", "fleet_answer_invalid"),
        ("other", "fleet_answer_invalid"),
        ("noend", "fleet_answer_invalid"),
        ("babble", "fleet_answer_invalid"),
        ("error", "engine_error"),
    ],
)
async def test_what_breaks_ends_with_an_error(site: SimpleNamespace, word: str, code: str) -> None:
    events = await asyncio.wait_for(events_of(site.manager, question(site.base, word, max_tokens=20)), 20)
    assert events[-1]["type"] == "error", "never silence, never an end that looks whole"
    error = InferenceError.from_event(events[-1])
    assert error.code == code and error.status == 503 and error.retry_after
    assert "/path" not in str(events[-1]["detail"]), "nothing of a replica's insides"
    assert len(site.server.asked) == 1, "nothing is asked twice"
    if code == "queue_full":
        assert error.retry_after == 7
    later = await run(site.manager, question(site.base, "fine"))
    assert later.text == "base says fine "


async def test_an_end_without_the_last_line_is_whole(site: SimpleNamespace) -> None:
    assert (await run(site.manager, question(site.base, "pipe"))).text == "base says pipe "


async def test_silence_ends_it(tmp_path: Path, site: SimpleNamespace) -> None:
    manager = fleet_manager(tmp_path / "fleet", site.server.url, silence=0.3)
    try:
        error = await failure(manager, question(site.base, "silent"))
        assert error.code == "engine_timeout"
        await until(lambda: site.server.running == 0)
    finally:
        manager.close()


async def test_cancelling_closes_the_upstream(site: SimpleNamespace) -> None:
    async with await site.manager.generate(question(site.base, "hang", site.pirate)) as stream:
        async for event in stream:
            if event["type"] == "token":
                break
        assert site.server.running == 1
        stream.cancel()
        done = await asyncio.wait_for(stream.final(), 5)
    assert done["finish_reason"] == "cancelled" and done["digest"] == site.pirate["digest"]
    assert done["usage"]["completion_tokens"] >= 1
    await until(lambda: site.server.running == 0 and site.server.left, 2)
    left = await site.manager.generate(question(site.base, "hang"))
    del left
    await until(lambda: site.manager.backend.snapshot()["in_flight"] == 0)
    await until(lambda: site.server.running == 0, 2)


async def test_a_slow_reader_is_cut_off(site: SimpleNamespace) -> None:
    async with await site.manager.generate(question(site.base, "hang", max_tokens=20)) as stream:
        await until(lambda: site.server.running == 1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("inference.backends.stream.MAX_WAITING_CHARS", 64)
            await until(lambda: site.server.running == 0)
        events = [event async for event in stream]
    assert events[-1]["code"] == "slow_reader"


async def test_unknown_and_unloadable(site: SimpleNamespace, tmp_path: Path) -> None:
    site.server.bad.add(site.poet["digest"])
    error = await failure(site.manager, question(site.base, "x", site.poet))
    assert (error.code, error.detail["name"]) == ("adapter_load_failed", "poet")
    site.server.folder = tmp_path / "elsewhere"  # a replica that does not see FLEET_DIR
    assert (await failure(site.manager, question(site.base, "x", site.pirate))).code == "adapter_load_failed"
    foreign = write_base(tmp_path / "models" / "another")
    assert (await failure(site.manager, question(foreign, "x"))).code == "base_missing"


async def test_a_prompt_that_is_too_long(site: SimpleNamespace) -> None:
    long = await failure(site.manager, question(site.base, "word " * 600))
    assert (long.code, long.param) == ("context_length_exceeded", "prompt")
    assert "600 tokens; the limit is 512" in long.message


LONG = "This model's maximum context length is 512 tokens. However, your prompt contains {} input tokens, which exceeds"
OVER = "The decoder prompt (length 512) plus the number of requested output tokens (at least 1) is longer than the "


@pytest.mark.parametrize(
    ("code", "param", "message", "expected", "named", "detail"),
    [
        (400, "input_tokens", LONG.format(600), "context_length_exceeded", "messages", {"context": 512, "tokens": 600}),
        (400, "input_tokens", LONG.format("at least 513"), "context_length_exceeded", "messages", {"context": 512}),
        (400, None, f"{OVER}maximum model length of 512.", "context_length_exceeded", "messages", {"tokens": 512}),
        (400, None, "The decoder prompt cannot be empty", "invalid_parameter", "messages", {}),
        (400, "prompt", "Either prompt or prompt_embeds must be provided", "invalid_parameter", "messages", {}),
        (400, None, "Token id 99999 is out of vocabulary", "unknown_token", "messages", {"token": "99999"}),
        (400, "logprobs", "Requested sample logprobs of 30, which is", "invalid_parameter", "logprobs", {}),
        (400, None, "top_k must be 0 (disable), or at least 1, got -2.", "invalid_parameter", "top_k", {}),
        (400, "body.temperature", "1 validation error: Input should be", "invalid_parameter", "temperature", {}),
        (400, "stop_token_ids", "token_id(s) [9] in stop_token_ids contain out-of-vocab token ids.",
         "invalid_parameter", "stop_token_ids", {}),
        (400, None, "LoRA adapter 'a' was found but could not be loaded", "adapter_load_failed", None, {}),
        (404, None, "Loading lora abc failed: No adapter found for /fleet/abc", "adapter_load_failed", None, {}),
        (404, "model", "The model `abc` does not exist. Valid aliases: base.", "adapter_load_failed", None, {}),
        (400, None, "There was an error parsing the body", "engine_error", None, {}),
        (413, None, "Payload too large", "prompt_too_long", "messages", {}),
        (503, None, "The engine is currently busy", "fleet_unavailable", None, {}),
    ],
)  # fmt: skip
def test_what_vllm_refuses_is_told_as_what_it_is(
    site: SimpleNamespace, code: int, param: str, message: str, expected: str, named: str | None, detail: dict[str, Any]
) -> None:
    request = Request("u", site.base, site.pirate, messages=[{"role": "user", "content": "x"}])
    place = BasePlace(Address(site.server.url), "base", "/models/tiny", 512)
    error = refused(Refusal(code, message, param), request, place)
    assert (error.code, error.param) == (expected, named)
    assert {name: error.detail[name] for name in detail} == detail


async def test_an_answer_that_a_stream_begins_with_refusing(site: SimpleNamespace) -> None:
    schema = await failure(site.manager, question(site.base, "x", site.pirate, json_schema={"type": "nonsense"}))
    assert (schema.code, schema.param, schema.status) == ("invalid_parameter", "json_schema", 400)


async def test_a_damaged_copy_is_not_published(site: SimpleNamespace) -> None:
    (Path(site.poet["path"]) / "adapter_model.safetensors").write_bytes(b"something else")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site.manager.mending, "settle", lambda subject, closing: None)
        error = await failure(site.manager, question(site.base, "x", site.poet))
    assert error.code == "adapter_load_failed", "the registry found nothing wrong"
    assert not (site.folder / site.poet["digest"]).exists() and not site.server.asked


async def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        manager = fleet_manager(tmp_path / "fleet", f"http://127.0.0.1:{taken.getsockname()[1]}")
        try:
            error = await failure(manager, question(write_base(tmp_path / "tiny"), "x"))
            assert (error.code, error.status, error.retry_after) == ("fleet_unavailable", 503, 10)
            assert "127.0.0.1" not in error.message
            status = await manager.status()
            assert status["worker"]["state"] == "failed"
            assert [one["error"] for one in status["engine"]["fleet"]] == ["fleet_unavailable"]
        finally:
            manager.close()


async def test_all_that_wait_for_an_address_hear_at_once_that_it_is_away(tmp_path: Path) -> None:
    asked: list[str] = []
    going = asyncio.Event()

    class Away(Wire):
        async def get_json(self, url: str, timeout: float) -> Any:
            asked.append(url)
            await going.wait()
            raise EngineError("fleet_unavailable", "away")

    catalogue, base = Catalogue([Address("http://away")], Away()), write_base(tmp_path / "tiny")
    first, *others = [asyncio.create_task(catalogue.of(base)) for _ in range(4)]
    await until(lambda: asked)
    first.cancel()
    await asyncio.wait([first])
    going.set()
    found = await asyncio.gather(*others, return_exceptions=True)
    assert [getattr(error, "code", "") for error in found] == ["fleet_unavailable"] * 3 and len(asked) == 1
    with pytest.raises(EngineError):
        await catalogue.of(base)
    assert len(asked) == 2, "the next one asks again"


async def test_a_fleet_that_comes_back_is_used_again(site: SimpleNamespace) -> None:
    await run(site.manager, question(site.base, "x"))
    site.server.stop()
    assert (await failure(site.manager, question(site.base, "x"))).code in {"fleet_unavailable", "fleet_interrupted"}
    site.server.start()
    assert (await run(site.manager, question(site.base, "x"))).text == "base says x "


async def test_key(site: SimpleNamespace, tmp_path: Path) -> None:
    site.server.key = "secret"
    assert (await failure(site.manager, question(site.base, "x"))).code == "fleet_denied"
    manager = fleet_manager(tmp_path / "fleet", site.server.url, key="secret")
    try:
        assert (await run(manager, question(site.base, "x"))).text == "base says x "
    finally:
        manager.close()


async def test_each_base_has_its_address(site: SimpleNamespace, tmp_path: Path) -> None:
    with fake_vllm(tmp_path / "fleet", served="qwen", root="Qwen/Big-Model") as second:
        manager = fleet_manager(tmp_path / "fleet", site.server.url, Address(second.url, "renamed"))
        try:
            answer = await run(manager, question(write_base(tmp_path / "models" / "renamed"), "x"))
            assert answer.text == "qwen says x "
            assert (await run(manager, question(site.base, "x"))).text == "base says x "
            adapter = store(tmp_path / "store", "third")
            await run(manager, question(write_base(tmp_path / "models" / "renamed"), "x", adapter))
            config = json.loads((tmp_path / "fleet" / adapter["digest"] / "adapter_config.json").read_text())
            assert config["base_model_name_or_path"] == "Qwen/Big-Model"
        finally:
            manager.close()


async def test_an_address_that_is_away_is_told_once(site: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "inference.backends.fleet")
    backend = site.manager.backend
    site.server.override["/v1/models"] = (404, b"")
    for status in ("fleet_answer_invalid", "fleet_answer_invalid", ""):
        if not status:
            site.server.override.clear()
        backend.watching.looked = 0.0
        [seen] = (await site.manager.status())["engine"]["fleet"]
        assert seen["error"] == status and seen["reachable"] is (not status)
    told = [record.getMessage().rpartition(" ")[2] for record in caplog.records if "backends.fleet" in record.name]
    assert told == ["fleet_answer_invalid", "again"]


@pytest.mark.parametrize(
    "said",
    [
        b"{", b"[]", b'{"data": []}', b'{"data": [{"id": 5}]}', b'{"data": [{"id": "x", "parent": "y"}]}',
        b"[" * 100_000, b'{"data": [{"id": "base", "root": "tiny", "x": "' + b"x" * (9 * 2**20) + b'"}]}',
    ],
)  # fmt: skip
async def test_nonsense_about_models(site: SimpleNamespace, said: bytes) -> None:
    site.server.override["/v1/models"] = (200, said)
    began = time.monotonic()
    assert (await failure(site.manager, question(site.base, "x"))).code == "fleet_answer_invalid"
    assert time.monotonic() - began < 3


async def test_count(site: SimpleNamespace) -> None:
    assert await site.manager.count_tokens(site.base, prompt="one two three") == (4, 512)
    messages = [{"role": "user", "content": "hello"}]
    assert (await site.manager.count_tokens(site.base, messages=messages))[0] == 4
    site.server.tokenizes = False  # a router that does not pass it on
    assert await site.manager.count_tokens(site.base, prompt="one two three") == (3, 512)
    site.server.override["/tokenize"] = (200, b'{"count": "many"}')
    with pytest.raises(InferenceError, match="invalid response"):
        await site.manager.count_tokens(site.base, prompt="one")


async def test_status_shows_each_address(site: SimpleNamespace) -> None:
    await run(site.manager, question(site.base, "x", site.pirate))
    status = await site.manager.status()
    assert status["worker"] == {"state": "ready", "pid": None, "device": "vllm", "restarts": 0, "in_flight": 0}
    [seen] = status["engine"]["fleet"]
    assert (seen["reachable"], seen["version"], seen["base"], seen["root"]) == (True, "0.32.0", "base", "/models/tiny")
    assert (seen["running"], seen["waiting"], seen["kv_cache"], seen["slots"]) == (2, 3, 0.75, 4)
    assert not seen["slots_full"]
    site.server.slots = 1  # a CPU build's kernels then give the base the last slot's adapter
    site.manager.backend.watching.looked = 0.0
    assert (await site.manager.status())["engine"]["fleet"][0]["slots_full"]
    site.server.override["/metrics"] = (200, b'vllm:num_requests_running{engine="0" nonsense\n')
    site.manager.backend.watching.looked = 0.0
    [seen] = (await site.manager.status())["engine"]["fleet"]
    assert seen["reachable"] and seen["running"] is None
    assert seen["adapters"] == [site.pirate["digest"]]


async def test_load_and_what_a_fleet_does_not_do(site: SimpleNamespace) -> None:
    loading = await site.manager.load(site.base, [site.pirate])
    assert (await loading.final())["type"] == "reply"
    assert site.server.loaded == [site.pirate["digest"]]
    pinned = await (await site.manager.load(site.base, pin=True)).final()
    assert (pinned["code"], pinned["detail"]["what"]) == ("fleet_cannot", "keeping a base model loaded")
    with pytest.raises(InferenceError) as caught:
        await site.manager.unload()
    assert (caught.value.code, caught.value.status) == ("fleet_cannot", 409)


async def test_evicting_waits_withdraws_and_unloads(site: SimpleNamespace) -> None:
    folder = site.folder / site.pirate["digest"]
    async with await site.manager.generate(question(site.base, "hang", site.pirate)) as stream:
        async for event in stream:
            if event["type"] == "token":
                break
        assert not await asyncio.to_thread(site.manager.backend.wait_unused, site.pirate["digest"], 0.05)
        going = asyncio.create_task(evict(site.manager, site.pirate["digest"]))
        await asyncio.sleep(0.15)
        assert folder.exists(), "an answer is still being written with it"
        stream.cancel()
        await asyncio.wait_for(going, 10)
    assert not folder.exists() and site.server.unloaded == [site.pirate["digest"]]


async def test_what_is_still_in_use_stays(site: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that has to load an adapter again whose folder is gone ends as a whole."""
    monkeypatch.setattr("inference.backends.fleet.replies.PATIENCE", 0.1)
    async with await site.manager.generate(question(site.base, "hang", site.pirate)) as stream:
        async for event in stream:
            if event["type"] == "token":
                break
        await asyncio.wait_for(evict(site.manager, site.pirate["digest"]), 10)
        assert (site.folder / site.pirate["digest"]).exists() and not site.server.unloaded
    await until(lambda: not site.manager.backend.flights.uses(site.pirate["digest"]))
    await evict(site.manager, site.pirate["digest"])
    assert not (site.folder / site.pirate["digest"]).exists()


def test_what_is_wanted_at_the_last_moment_gets_its_name_back(tmp_path: Path) -> None:
    adapter = store(tmp_path / "store", "pirate")
    digest, shelf = adapter["digest"], Shelf(tmp_path / "fleet")
    shelf.publish(digest, Path(adapter["path"]), "pirate", "/models/tiny")
    inode = (tmp_path / "fleet" / digest).stat().st_ino
    assert not shelf.withdraw(digest, shelf.state(digest), lambda: True)
    assert (tmp_path / "fleet" / digest).stat().st_ino == inode and shelf.has(digest, "/models/tiny")
    assert shelf.withdraw(digest, shelf.state(digest), lambda: False) and not os.listdir(tmp_path / "fleet")


async def test_what_somebody_has_touched_is_read_again(site: SimpleNamespace) -> None:
    """And published again where it is another now, file by file: there is no moment without the folder."""
    await run(site.manager, question(site.base, "x", site.pirate))
    published = site.folder / site.pirate["digest"]
    inode, weights = published.stat().st_ino, published / "adapter_model.safetensors"
    sound = weights.read_bytes()
    weights.chmod(0o644)
    weights.write_bytes(b"other weights")
    await run(site.manager, question(site.base, "x", site.pirate))
    assert weights.read_bytes() == sound and published.stat().st_ino == inode
    assert sorted(os.listdir(site.folder)) == [site.pirate["digest"]]


async def test_a_full_portal_evicts_as_well(site: SimpleNamespace) -> None:
    manager = fleet_manager(site.folder, site.server.url, limit=1)
    try:
        await run(manager, question(site.base, "x", site.pirate))
        async with await manager.generate(question(site.base, "hang")):
            assert (await failure(manager, question(site.base, "x"))).code == "queue_full"
            await evict(manager, site.pirate["digest"])
        assert not (site.folder / site.pirate["digest"]).exists()
    finally:
        manager.close()


async def test_what_is_wanted_again_stays(site: SimpleNamespace) -> None:
    """Deactivated while an answer is written, and activated again before that has ended."""
    folder = site.folder / site.pirate["digest"]
    async with await site.manager.generate(question(site.base, "hang", site.pirate)) as stream:
        async for event in stream:
            if event["type"] == "token":
                break
        going = asyncio.create_task(evict(site.manager, site.pirate["digest"]))
        await until(lambda: site.manager.backend.snapshot()["in_flight"] == 2)
        await asyncio.sleep(0.02)
        Shelf(site.folder).publish(site.pirate["digest"], Path(site.pirate["path"]), "pirate", "/models/tiny")
        stream.cancel()
        await asyncio.wait_for(going, 10)
    assert folder.exists() and not site.server.unloaded


async def test_closing_ends_what_runs(site: SimpleNamespace) -> None:
    stream = await site.manager.generate(question(site.base, "hang"))
    async for event in stream:
        if event["type"] == "token":
            break
    await asyncio.to_thread(site.manager.close)
    assert (await asyncio.wait_for(stream.final(), 5))["code"] == "shutting_down"
    assert (await failure(site.manager, question(site.base, "x"))).code == "shutting_down"
    await until(lambda: site.server.running == 0)


@pytest.mark.demo
async def test_typed_control_tokens_are_text(tmp_path: Path, demo_base_model: Path) -> None:
    """They go as ids, for a replica would take them from a text as what they stand for."""
    from tokenizers import Tokenizer

    base: Any = {"key": "b" * 64, "path": str(demo_base_model), "name": demo_base_model.name}
    asks = [Request("u", base, messages=[{"role": "user", "content": text}]) for text in ("a<|im_end|>b", "ab")]
    with fake_vllm(tmp_path / "fleet", root=f"/srv/{demo_base_model.name}") as server:
        for raw in (False, True):
            manager = fleet_manager(tmp_path / "fleet", server.url, raw_control_tokens=raw)
            try:
                for ask in asks:
                    await run(manager, ask)
                count = (await manager.count_tokens(base, messages=asks[0].messages))[0]
            finally:
                manager.close()
            if not raw:
                tokens = server.asked[0]["prompt"]
                assert count == len(tokens)
    end = Tokenizer.from_file(str(demo_base_model / "tokenizer.json")).token_to_id("<|im_end|>")
    ours, innocent, typed, _same = (body["prompt"] for body in server.asked)
    assert ours.count(end) == innocent.count("<|im_end|>") and "a<|im_end|>b" in typed


async def test_logprobs(tmp_path: Path, demo_base_model: Path) -> None:
    """By ids, so that bytes and names are those of the base's own vocabulary."""
    from tokenizers import Tokenizer

    base: Any = {"key": "b" * 64, "path": str(demo_base_model), "name": demo_base_model.name}
    own = store(tmp_path / "store", "own", {"end_tokens": ["<|im_start|>"]})
    with fake_vllm(tmp_path / "fleet", root=f"/srv/{demo_base_model.name}") as server:
        manager = fleet_manager(tmp_path / "fleet", server.url)
        try:
            answer = await run(manager, question(base, "x", own, logprobs=2))
            server.override["/v1/models"] = (500, b"")
            bare = await run(manager, question(base, "x", logprobs=0))
        finally:
            manager.close()
    vocabulary = Tokenizer.from_file(str(demo_base_model / "tokenizer.json"))
    assert server.asked[0]["logprobs"] == 2 and server.asked[0]["return_tokens_as_token_ids"]
    assert server.asked[0]["stop_token_ids"] == [vocabulary.token_to_id("<|im_start|>")]
    assert [one["token_id"] for one in answer.logprobs] == [1, 2, 3]
    plain = answer.logprobs[-1]
    assert plain["token"] == vocabulary.id_to_token(3) or plain["bytes"] is None
    assert [alternative[1] for alternative in plain["top"]] == [3, 4]
    assert [alternative[2] for alternative in plain["top"]] == [-0.6, -1.6]
    assert bare.logprobs[0]["top"] == []


@pytest.mark.parametrize(
    "said",
    [
        {"tokens": ["word"], "token_logprobs": [-0.1], "top_logprobs": [{}]},
        {"tokens": ["token_id:x"], "token_logprobs": [-0.1], "top_logprobs": [{}]},
        {"tokens": ["token_id:1"], "token_logprobs": [], "top_logprobs": [{}]},
        {"tokens": ["token_id:1"], "token_logprobs": [None], "top_logprobs": [None]},
        {"tokens": 5}, [], "x",
    ],
)  # fmt: skip
def test_nonsense_about_logprobs(said: Any) -> None:
    with pytest.raises(EngineError, match="logprobs"):
        logprobs(said, Vocabulary(SimpleNamespace()), Offsets(), 2)


async def test_probabilities_of_a_prompt(site: SimpleNamespace) -> None:
    write_tokenizer(Path(site.base["path"]))
    reading = Reading(logprobs=2, echo=True, answer=False)
    asked = Request("u1", site.base, site.pirate, tokens=[1, 70, 71], reading=reading)
    answer = await run(site.manager, asked)
    assert answer.echo == "<|im_start|>" + "".join(one["token"] for one in answer.prompt_logprobs[1:])
    assert [one["token_id"] for one in answer.prompt_logprobs] == [1, 70, 71]
    assert [one["logprob"] for one in answer.prompt_logprobs] == [None, -7.0, -7.0]
    assert [token for _name, token, _value, _raw in answer.prompt_logprobs[1]["top"]] == [71, 72]
    assert [one["offset"] for one in answer.prompt_logprobs] == [0, 12, 13]
    assert (answer.text, answer.finish_reason, answer.usage["completion_tokens"]) == ("", "length", 0)
    body = site.server.asked[-1]
    assert (body["prompt"], body["prompt_logprobs"], body["stream"]) == ([1, 70, 71], 2, False)


async def test_an_echo_before_an_answer(site: SimpleNamespace) -> None:
    write_tokenizer(Path(site.base["path"]))
    for reading in (Reading(echo=True), Reading(logprobs=0, echo=True)):
        asked = Request("u1", site.base, prompt="a b", reading=reading, params=SamplingParams(max_tokens=3))
        answer = await run(site.manager, asked)
        assert (answer.echo, answer.text) == ("a b", "base says a ")
        assert len(answer.prompt_logprobs) == (0 if reading.logprobs is None else 2)


async def test_a_continuation_of_messages(site: SimpleNamespace) -> None:
    write_tokenizer(Path(site.base["path"]))
    reading = Reading(logprobs=0, continuation="ok <s>", answer=False)
    messages = [{"role": "user", "content": "ahoy"}]
    answer = await run(site.manager, Request("u1", site.base, messages=messages, reading=reading))
    assert bytes(byte for one in answer.prompt_logprobs for byte in one["bytes"] or ()).decode() == "ok <s>"
    assert all(one["logprob"] is not None for one in answer.prompt_logprobs)


@pytest.mark.parametrize("words", ["odd words", "other model"])
async def test_nonsense_about_a_prompt(site: SimpleNamespace, words: str) -> None:
    write_tokenizer(Path(site.base["path"]))
    asked = Request("u1", site.base, prompt=words, reading=Reading(logprobs=0, answer=False))
    assert (await failure(site.manager, asked)).code == "fleet_answer_invalid"


async def test_a_prompt_without_measure_is_refused(site: SimpleNamespace) -> None:
    request = Request("u", site.base, prompt="x" * (17 * 2**20), params=SamplingParams())
    assert (await failure(site.manager, request)).code == "prompt_too_long"


def test_two_that_publish_at_once_take_nothing_away(tmp_path: Path) -> None:
    """Who comes second finds the folder in its place: a replica may be reading it."""
    adapter = store(tmp_path / "store", "pirate")
    digest, source = adapter["digest"], Path(adapter["path"])
    shelf = Shelf(tmp_path / "fleet")
    shelf.publish(digest, source, "pirate", "/models/tiny")
    inode = (tmp_path / "fleet" / digest).stat().st_ino
    with pytest.MonkeyPatch.context() as patch:
        seen = iter([False])  # the look before copying was too early
        has = shelf.has
        patch.setattr(shelf, "has", lambda *words: next(seen, None) is None and has(*words))
        shelf.publish(digest, source, "pirate", "/models/tiny")
    assert (tmp_path / "fleet" / digest).stat().st_ino == inode
    shelf.publish(digest, source, "pirate", "/models/other")  # the fleet's base has another name now
    assert not shelf.has(digest, "/models/tiny") and shelf.has(digest, "/models/other")
    (tmp_path / "fleet" / digest / "adapter_model.safetensors").unlink()
    assert not Shelf(tmp_path / "fleet").has(digest, "/models/other"), "half of one is none"
    assert sorted(path.name for path in (tmp_path / "fleet").iterdir()) == [digest]


@pytest.mark.parametrize("name", ["..", "a/b", "A" * 64, "", "d" * 63])
def test_only_digests_become_folders(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a digest"):
        Shelf(tmp_path).withdraw(name)
    assert not Shelf(tmp_path).has("d" * 64, "")
