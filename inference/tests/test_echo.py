"""`/v1/completions` with `echo`: a prompt's tokens and their probabilities as OpenAI tells them, counted as use."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User

from inference.backends.interface import Reading
from inference.engine.params import SamplingParams
from inference.gateway.asking import Question
from inference.gateway.operating import wait_booked
from inference.gateway.targets import Target
from inference.manager import ModelManager
from inference.models import Meter, UsageDay

pytestmark = pytest.mark.django_db(transaction=True)
ASKED = {"model": "pirate", "prompt": "the wide sea", "echo": True, "logprobs": 1, "max_tokens": 0}


@pytest.fixture
def complete(
    api: Callable[..., Any], owner: User, registry: SimpleNamespace, manager: ModelManager
) -> Callable[..., Any]:
    client = api(owner, "infer")
    return lambda **fields: client.post("/v1/completions", {**ASKED, **fields}, format="json")


@pytest.fixture
def bearer(token_for: Callable[..., str], owner: User) -> str:
    return f"Bearer {token_for(owner, 'infer')}"


def test_the_prompt_alone(complete: Callable[..., Any]) -> None:
    said = complete().json()
    assert said["choices"] == [{
        "index": 0, "text": "the wide sea", "finish_reason": "length",
        "logprobs": {
            "tokens": ["the", "wide", "sea"], "token_logprobs": [None, -1.0, -1.0],
            "top_logprobs": [None, {"wide0": -0.5, "wide": -1.0}, {"sea0": -0.5, "sea": -1.0}],
            "text_offset": [0, 4, 9],
        },
    }]  # fmt: skip
    assert said["usage"]["prompt_tokens"] == said["usage"]["total_tokens"] == 3


def test_before_an_answer_and_without_probabilities(complete: Callable[..., Any]) -> None:
    (choice,) = complete(max_tokens=2, logprobs=None).json()["choices"]
    assert (choice["text"], choice["logprobs"]) == ("the wide seapirate says ", None)
    (choice,) = complete(max_tokens=2).json()["choices"]
    assert choice["logprobs"]["tokens"] == ["the", "wide", "sea"]  # the fake answers without any


def test_prompts_as_token_ids(complete: Callable[..., Any]) -> None:
    one, many = complete(prompt=[7, 8]).json(), complete(prompt=[[7, 8], [9]], n=2).json()
    assert one["choices"][0]["text"] == "7 8"
    assert [choice["text"] for choice in many["choices"]] == ["7 8", "7 8", "9", "9"]
    assert many["usage"]["prompt_tokens"] == 3, "a prompt counts once, however many choices it has"
    assert complete(prompt=[7, 8], echo=False, max_tokens=4).json()["choices"][0]["text"] == "pirate says 7 8 "


async def test_streamed(async_client: Any, bearer: str, registry: SimpleNamespace, manager: ModelManager) -> None:
    asked = {**ASKED, "stream": True, "max_tokens": 2}
    response = await async_client.post("/v1/completions", asked, "application/json", AUTHORIZATION=bearer)
    sent = b"".join([piece async for piece in response.streaming_content]).decode()
    chunks = [json.loads(line[6:]) for line in sent.splitlines() if line.startswith("data: {")]
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(choice["text"] for choice in choices) == "the wide seapirate says "
    told = [token for choice in choices if choice["logprobs"] for token in choice["logprobs"]["tokens"]]
    assert told == ["the", "wide", "sea"] and choices[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"echo": False}, "conflict", "max_tokens"),
        ({"prompt": []}, "too_many", "prompt"),
        ({"prompt": [[]]}, "empty", "prompt"),
        ({"prompt": [1, "a"]}, "invalid_type", "prompt"),
        ({"prompt": [True]}, "invalid_type", "prompt"),
        ({"prompt": [[1, -1]]}, "invalid_type", "prompt"),
        ({"prompt": [["a"]]}, "invalid_type", "prompt"),
        ({"prompt": [5] * 60_000, "logprobs": 20}, "too_long", "prompt"),
        ({"max_tokens": -2}, "out_of_range", "max_tokens"),
    ],
)
def test_refusals(complete: Callable[..., Any], fields: dict[str, Any], code: str, param: str) -> None:
    response = complete(**fields)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, code, param)


def test_a_prompt_that_is_read_counts(complete: Callable[..., Any], settings: Any) -> None:
    settings.USER_TOKENS_PER_DAY = 40
    words = " ".join(["sea"] * 30)
    assert complete(prompt=words).status_code == 200
    wait_booked(10)
    assert UsageDay.objects.get().prompt_tokens == 30 and 30 in Meter.objects.values_list("day_tokens", flat=True)
    error = complete(prompt=words).json()["error"]
    assert error["code"] == "tokens_per_day_exceeded", "refused for what its prompt would use"


def test_what_is_reserved() -> None:
    target = Target("t", "t", {"key": "k", "path": "/", "name": "t"})

    def most(reading: Reading, **asked: Any) -> int:
        return Question(target, SamplingParams(max_tokens=9), reading=reading, **asked).most

    assert most(Reading(), prompt="x" * 400) == 9
    assert most(Reading(logprobs=0), prompt="x" * 400) == 109
    assert most(Reading(logprobs=0, answer=False), tokens=[1] * 50) == 50
    after = Reading(logprobs=0, continuation="y" * 40, answer=False)
    assert most(after, messages=[{"role": "user", "content": ""}]) == 10
