"""What other servers' clients send to /v1: customary values mean what they mean elsewhere, and no field that would
change the answer is ignored."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User

from adapters.models import LoraAdapter, Status
from common.api import ApiError
from inference.api.openai import bodies
from inference.engine.params import SamplingParams
from inference.manager import ModelManager
from inference.params import body

CHAT: dict[str, Any] = {"model": "pirate", "messages": [{"role": "user", "content": "ahoy"}]}
RAW: dict[str, Any] = {"model": "pirate", "prompt": "ahoy"}


def chat(**fields: Any) -> SamplingParams:
    return body(bodies.ChatRequest, {**CHAT, **fields}).params


def raw(**fields: Any) -> SamplingParams:
    return body(bodies.CompletionRequest, {**RAW, **fields}).params


@pytest.mark.parametrize("params", [chat, raw])
def test_minus_one_is_none(params: Callable[..., SamplingParams], settings: Any) -> None:
    assert params(seed=-1).seed is None
    assert params(seed=-2).seed == -2
    assert params(max_tokens=-1).max_tokens == settings.MAX_TOKENS_LIMIT
    assert params(top_k=-1).top_k == -1  # as the sampler takes it
    assert params(top_k=100_000).top_k == 100_000
    for name in ("max_tokens", "top_k", "seed"):
        with pytest.raises(ApiError) as caught:
            params(**{name: -(2**64)})
        assert (caught.value.code, caught.value.param) == ("out_of_range", name)


def test_minus_one_under_the_newer_names(settings: Any) -> None:
    assert chat(max_completion_tokens=-1).max_tokens == settings.MAX_TOKENS_LIMIT
    assert chat(top_logprobs=0, logprobs=False).logprobs is None


REFUSED: list[tuple[str, list[Any]]] = [
    ("chat_template_kwargs", [{"enable_thinking": False}]),
    ("chat_template", ["{{ messages }}", ""]),
    ("guided_json", [{"type": "object"}]),
    ("guided_choice", [["a", "b"]]),
    ("guided_regex", ["a+", ""]),
    ("guided_grammar", ["root ::= 'a'"]),
    ("structured_outputs", [{"regex": "a"}]),
    ("bad_words", [["x"]]),
    ("allowed_token_ids", [[1, 2]]),
    ("logit_bias", [{"5": -100}]),
    ("truncate_prompt_tokens", [10, -1]),
    ("prompt_logprobs", [1, 0]),
    ("use_beam_search", [True]),
    ("skip_special_tokens", [False]),
    ("reasoning_effort", ["high", "none"]),
    ("verbosity", ["low"]),
    ("enable_thinking", [False, True]),
    ("suffix", ["x"]),
    ("best_of", [5]),
    ("tools", [[{"type": "function"}]]),
    ("documents", [[{"text": "x"}]]),
    ("typical_p", [0.5]),
    ("mirostat_mode", [2]),
    ("do_sample", [False]),
    ("n_predict", [5]),
    ("max_new_tokens", [5]),
    ("tempature", [0.5]),
    ("x" * 1000, [1]),
]
IGNORED = {
    "user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "parallel_tool_calls": False,
    "priority": 3, "cache_prompt": True, "tools": [], "tool_choice": "auto", "logit_bias": {}, "echo": False,
    "suffix": "", "use_beam_search": False, "length_penalty": 1.2, "skip_special_tokens": True, "typical_p": 1,
    "mirostat_mode": 0, "mirostat_tau": 5, "guidance_scale": 1.0, "chat_template_kwargs": {}, "guided_json": None,
    "n": 1, "best_of": 1, "stop": None, "logprobs": None, "unheard_of": None,
}  # fmt: skip


@pytest.mark.parametrize("params", [chat, raw])
@pytest.mark.parametrize(("name", "values"), REFUSED)
def test_what_would_change_the_answer_is_refused_by_name(
    params: Callable[..., SamplingParams], name: str, values: list[Any]
) -> None:
    for value in values:
        with pytest.raises(ApiError) as caught:
            params(**{name: value})
        assert (caught.value.status, caught.value.code) == (400, "unsupported_parameter")
        assert caught.value.param == name[:64] and name[:64] in caught.value.message


@pytest.mark.parametrize("params", [chat, raw])
def test_what_changes_nothing_is_ignored(params: Callable[..., SamplingParams]) -> None:
    assert params(**IGNORED) == params(n=1, stop=None, logprobs=None)


def test_each_call_has_its_own_defaults() -> None:
    chat(add_special_tokens=False, best_of=1)
    raw(add_special_tokens=True)
    for params, fields in (
        (chat, {"add_special_tokens": True}),
        (raw, {"add_special_tokens": False}),
        (chat, {"prompt": "x"}),
        (chat, {"echo": True}),
        (raw, {"messages": []}),
        (raw, {"max_completion_tokens": 5}),
        (raw, {"add_generation_prompt": False}),
        (chat, {"add_generation_prompt": False}),
        (chat, {"add_generation_prompt": True, "continue_final_message": True}),
        (raw, {"continue_final_message": True}),
    ):
        with pytest.raises(ApiError) as caught:
            params(**fields)  # type: ignore[operator]
        assert caught.value.code == "unsupported_parameter"


@pytest.mark.parametrize("given", [{}, {"add_generation_prompt": False}])
def test_a_message_may_be_continued(given: dict[str, Any]) -> None:
    assert body(bodies.ChatRequest, {**CHAT, **given, "continue_final_message": True}).continues
    assert not body(bodies.ChatRequest, {**CHAT, "add_generation_prompt": True}).continues


@pytest.mark.parametrize(
    "field",
    [{"prefix": True}, {"partial": True}, {"images": ["x"]}, {"tool_calls": [{"id": "x"}]}, {"audio": {"id": 1}}],
)
def test_fields_of_a_message(field: dict[str, Any]) -> None:
    message = CHAT["messages"][0]
    chat(messages=[{**message, "name": "ann", "refusal": None, "tool_calls": [], "prefix": False}])
    with pytest.raises(ApiError) as caught:
        chat(messages=[message, {**message, **field}])
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", f"messages.1.{next(iter(field))}")


def test_formats_of_the_answer() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    named = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    assert chat(response_format=named).json_schema == schema
    assert chat(response_format={"type": "json_object", "schema": schema}).json_schema == schema
    assert chat(response_format={"type": "json_object"}).json_object
    for bad, param in (
        ({"type": "text", "schema": schema}, "response_format.schema"),
        ({"type": "json_object", "grammar": "x"}, "response_format.grammar"),
        ({"type": "regex"}, "response_format.type"),
    ):
        with pytest.raises(ApiError) as caught:
            chat(response_format=bad)
        assert caught.value.param == param
    with pytest.raises(ApiError):
        chat(stream=True, stream_options={"continuous_usage_stats": True})


@pytest.mark.parametrize("params", [chat, raw])
def test_stop_tokens(params: Callable[..., SamplingParams]) -> None:
    assert params(stop_token_ids=[5, 6.0]).stop_token_ids == (5, 6)
    for bad, param in ((7, "stop_token_ids"), ([-1], "stop_token_ids.0"), (["x"], "stop_token_ids.0"),
                       ([1] * 129, "stop_token_ids"), ([2**31], "stop_token_ids.0")):  # fmt: skip
        with pytest.raises(ApiError) as caught:
            params(stop_token_ids=bad)
        assert caught.value.param == param


pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def ask(api: Callable[..., Any], owner: User, registry: SimpleNamespace, manager: ModelManager) -> Callable[..., Any]:
    client = api(owner, "infer")
    return lambda path, **fields: client.post(f"/v1/{path}", fields, format="json")


def test_twenty_prompts_in_one_batch(ask: Callable[..., Any], manager: ModelManager) -> None:
    prompts = [f"p{number}" for number in range(20)]
    answer = ask("completions", model="pirate", prompt=prompts)
    assert [choice["text"] for choice in answer.json()["choices"]] == [f"pirate says {p} " for p in prompts]
    assert answer.json()["usage"]["prompt_tokens"] == 20
    streamed = ask("completions", model="pirate", prompt=prompts, stream=True)
    assert streamed.status_code == 200
    refused = ask("completions", model="pirate", prompt=["x"] * 129)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "too_many")
    assert manager.backend.snapshot()["restarts"] == 0


def test_a_batch_takes_no_more_places_than_run(ask: Callable[..., Any], settings: Any) -> None:
    settings.USER_CONCURRENT = settings.TOKEN_CONCURRENT = 8
    assert ask("completions", model="pirate", prompt=["x"] * 30).status_code == 200
    settings.USER_CONCURRENT = 4
    assert ask("completions", model="pirate", prompt=["x"] * 30).status_code == 429


@pytest.mark.parametrize("prompt", ["\n", " ", "\t\n"])
def test_a_prompt_of_spaces_is_a_prompt(ask: Callable[..., Any], registry: SimpleNamespace, prompt: str) -> None:
    assert ask("completions", model="pirate", prompt=prompt).status_code == 200
    assert ask("completions", model="pirate", prompt="").json()["error"]["code"] == "empty"


def test_a_model_by_its_name(ask: Callable[..., Any], registry: SimpleNamespace) -> None:
    type(registry.base).objects.update(name="Tiny-Llama_1B", slug="tiny-llama-1b")
    LoraAdapter.objects.filter(slug="poet").update(name="Poet/checkpoint-60")
    for name in ("tiny-llama-1b", "Tiny-Llama_1B", "tiny-llama_1b", "poet", "Poet/checkpoint-60"):
        answer = ask("completions", **{**RAW, "model": name})
        assert (answer.status_code, answer.json()["model"]) == (200, name)
    assert ask("completions", **{**RAW, "model": "llama"}).status_code == 404
    assert ask("completions", **{**RAW, "model": "idle"}).status_code == 404


def test_a_name_of_two_is_nobody_s(ask: Callable[..., Any], registry: SimpleNamespace) -> None:
    LoraAdapter.objects.filter(slug="poet").update(name="Twin")
    LoraAdapter.objects.filter(slug="idle").update(name="twin", status=Status.DISCOVERED)
    refused = ask("completions", **{**RAW, "model": "Twin"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
