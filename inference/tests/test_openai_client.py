"""The official `openai` client against a real server, streamed and not, with errors as its own exception classes."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from django.contrib.auth.models import User
from openai import OpenAI

from accounts.models import ApiToken
from tests.fixtures.clock import Clock

from .test_server import Site

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    """The server's."""
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def served(
    django_db_setup: None, django_db_blocker: Any, clock: Clock, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """One server for all tests here; each makes its own rows and token."""
    with django_db_blocker.unblock():
        site = Site(tmp_path_factory.mktemp("site"), "", **clock.environment)
    yield site
    site.process.kill()
    site.process.wait()


@pytest.fixture
def site(served: Site, registry: SimpleNamespace, operator: User, token_for: Callable[..., str]) -> Site:
    served.token = token_for(operator, "infer", "operate")
    return served


@pytest.fixture
def client(site: Site) -> OpenAI:
    return OpenAI(base_url=f"http://127.0.0.1:{site.port}/v1", api_key=site.token, max_retries=0)


def said(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_models(client: OpenAI, registry: SimpleNamespace) -> None:
    models = {model.id: model for model in client.models.list()}
    assert set(models) == {"pirate", "poet", "tiny"}  # `idle` is not active
    extra: dict[str, Any] = models["pirate"].model_extra or {}
    assert (extra["parent"], extra["root"], extra["digest"]) == ("tiny", "pirate", "d" * 64)
    assert client.models.retrieve("poet").id == "poet"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("idle")


def test_chat(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="pirate",
        messages=[
            {"role": "developer", "content": "be"},
            {"role": "user", "content": [{"type": "text", "text": "ahoy"}]},
        ],
        max_completion_tokens=50,
        temperature=0,
        user="ignored",
        metadata={"ignored": "too"},
    )
    assert answer.choices[0].message.content == "pirate says be ahoy "
    assert (answer.choices[0].finish_reason, answer.system_fingerprint) == ("stop", "d" * 64)
    assert answer.usage and answer.usage.total_tokens == answer.usage.prompt_tokens + 4
    assert answer.model_extra and answer.model_extra["timings"]["total"] > 0
    assert answer._request_id == answer.id


def test_streamed_chat(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="poet", messages=said("sea"), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "poet says sea "
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage and chunks[-1].usage.completion_tokens == 3
    assert {c.system_fingerprint for c in chunks} == {"e" * 64}


def test_three_adapters_at_once(client: OpenAI) -> None:
    def one(number: int) -> None:
        model = ["pirate", "poet", "tiny"][number % 3]
        stream = client.chat.completions.create(model=model, messages=said(f"q{number}"), stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == f"{model} says q{number} "

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(one, range(48)))


def test_several_choices(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="pirate", messages=said("ahoy"), n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.message.content for choice in answer.choices} == {"pirate says ahoy "}
    assert answer.usage and (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (1, 9)
    texts = {0: "", 1: ""}
    for chunk in client.chat.completions.create(model="pirate", messages=said("ahoy"), n=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == {0: "pirate says ahoy ", 1: "pirate says ahoy "}


def test_completions(client: OpenAI) -> None:
    answer = client.completions.create(model="pirate", prompt=["one", "two"], max_tokens=9)
    assert [choice.text for choice in answer.choices] == ["pirate says one ", "pirate says two "]
    assert answer.usage and answer.usage.prompt_tokens == 2
    stream = client.completions.create(model="pirate", prompt="one", max_tokens=2, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "pirate says "


def test_first_piece_comes_before_the_end_and_leaving_frees(client: OpenAI, site: Site, clock: Clock) -> None:
    client.chat.completions.create(model="pirate", messages=said("ahoy"))  # the engine has started
    with clock.standing():  # at once: nothing that looks for something now and then would come to it
        stream = client.chat.completions.create(model="pirate", messages=said("hang"), stream=True)  # it has no end
        for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        assert site.running() == 1
        stream.close()
        site.wait_until(lambda: site.running() == 0)
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=1).chat.completions.create(model="pirate", messages=said("hang"))
        site.wait_until(lambda: site.running() == 0)


def test_withdrawn_token_ends_a_stream_within_two_seconds(client: OpenAI, site: Site, clock: Clock) -> None:
    stream = client.chat.completions.create(model="pirate", messages=said("hang"), stream=True)
    next(iter(stream))
    with clock.standing():
        ApiToken.objects.all().delete()
        clock.advance(2)
        with pytest.raises(openai.APIError) as caught:
            for _chunk in itertools.islice(stream, 5000):  # of 20 ms and more, by the machine's clock
                pass
    assert caught.value.code == "revoked"


CHAT: dict[str, Any] = {"model": "pirate", "messages": said("ahoy")}


@pytest.mark.parametrize("stream", [False, True])
def test_errors(client: OpenAI, site: Site, stream: bool) -> None:
    def refused(kind: type[openai.APIStatusError], code: str, param: str | None, **extra: Any) -> Any:
        with pytest.raises(kind) as caught:
            client.chat.completions.create(**{**CHAT, "stream": stream, **extra})
        assert (caught.value.code, caught.value.param) == (code, param)
        assert caught.value.type
        return caught.value.body

    body = refused(openai.NotFoundError, "model_not_found", "model", model="nobody")
    assert body["available"] == ["pirate", "poet", "tiny"]
    refused(openai.NotFoundError, "model_not_found", "model", model="idle")
    refused(openai.BadRequestError, "out_of_range", "temperature", temperature=-1)
    refused(openai.BadRequestError, "out_of_range", "n", n=9)
    refused(openai.BadRequestError, "unsupported_parameter", "tools", tools=[{"type": "function"}])
    refused(openai.BadRequestError, "unsupported_parameter", "logit_bias", logit_bias={"5": 1})
    refused(openai.BadRequestError, "invalid_type", "messages.0.content", messages=[{"role": "user"}])
    refused(openai.BadRequestError, "context_length_exceeded", "messages", messages=said("fail"))
    refused(openai.InternalServerError, "engine_crashed", None, messages=said("crash"))
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="lp_wrong").chat.completions.create(**CHAT)


def test_curl(site: Site) -> None:
    def curl(body: str) -> str:
        url = f"http://127.0.0.1:{site.port}/v1/chat/completions"
        head = ["-H", f"Authorization: Bearer {site.token}", "-H", "Content-Type: application/json"]
        return subprocess.run(
            ["curl", "-sN", url, *head, "-d", body], capture_output=True, text=True, check=True
        ).stdout

    plain = curl('{"model":"pirate","messages":[{"role":"user","content":"ahoy"}]}')
    assert '"content":"pirate says ahoy "' in plain
    streamed = curl('{"model":"pirate","messages":[{"role":"user","content":"ahoy"}],"stream":true}')
    assert streamed.count("data: ") == 6 and streamed.endswith("data: [DONE]\n\n")
