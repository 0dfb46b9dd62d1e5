"""Token ids that the base has no embedding for: from the user's text, the template, the tokenizer, the end tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from inference.engine.config import EngineConfig
from inference.engine.model.runner import Runner
from inference.engine.model.sampler import with_logprobs
from inference.engine.params import MAX_LOGPROBS
from inference.engine.text.token_ids import first_unknown

from . import tiny
from .driver import Driver, base

BEYOND = "<image_soft_token>"  # as gemma-3-1b-it's tokenizer has it, which the model does not


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose tokenizer knows one token more than its embedding has rows."""
    made = tiny.write_base(tmp_path_factory.mktemp("tokens") / "base", "llama", vocab_size=262)
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|extra|>", BEYOND]}, replace_extra_special_tokens=False
    )
    assert tokenizer.convert_tokens_to_ids(BEYOND) == 262
    tokenizer.save_pretrained(made)
    return made


def driver(**config: Any) -> Driver:
    made = EngineConfig(device="cpu", max_context=128, max_batch=8, user_limit=99, **config)
    return Driver(Runner(made), made)


def edited(folder: Path, to: Path, **changes: Any) -> Path:
    """The base again, with another tokenizer configuration."""
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).symlink_to(file)
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        (to / name).unlink(missing_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    (to / "tokenizer.json").unlink()
    tokenizer.save_pretrained(to)
    return to


def code(d: Driver, request_id: str) -> Any:
    ended = d.ended(request_id)
    assert ended is not None
    return ended.get("code", ended["type"])


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("chat", [True, False])
def test_a_text_with_such_a_token_ends_alone_and_says_which(folder: Path, loaded: bool, chat: bool) -> None:
    d = driver(raw_control_tokens=True)
    if loaded:
        d.generate("steady", base("t", folder), max_tokens=40, ignore_eos=True)
        d.until(lambda: len(d.of("token", "steady")) > 3)
    text = f"what is {BEYOND}?"
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
    d.generate("bad", base("t", folder), user="v", **asked)
    d.generate("good", base("t", folder), user="w", prompt="<|extra|> has a row", max_tokens=4, ignore_eos=True)
    d.finish("bad", "good")
    ended = d.ended("bad")
    assert ended is not None and ended["code"] == "unknown_token" and ended["detail"]["token"] == BEYOND
    assert ended["param"] == ("messages" if chat else "prompt") and BEYOND in ended["message"]
    assert code(d, "good") == "done"
    if loaded:
        d.finish("steady")
        assert d.ended("steady")["usage"]["completion_tokens"] == 40  # type: ignore[index]
    assert d.engine.status()["errors"] == 0


def test_in_a_message_it_is_text(folder: Path) -> None:
    d = driver()
    messages = [{"role": "user", "content": f"what is {BEYOND}?"}]
    d.generate("typed", base("t", folder), messages=messages, max_tokens=4, ignore_eos=True)
    d.finish("typed")
    assert code(d, "typed") == "done"


def test_a_template_that_adds_one_refuses_chats_and_not_the_load(folder: Path, tmp_path: Path) -> None:
    spec = base("t", edited(folder, tmp_path / "t", chat_template=BEYOND + tiny.TEMPLATE))
    d = driver()
    d.generate("chat", spec, messages=[{"role": "user", "content": "hello"}])
    d.generate("raw", spec, prompt="hello", max_tokens=4, ignore_eos=True)
    d.finish("chat", "raw")
    assert code(d, "chat") == "template_token" and BEYOND in d.ended("chat")["message"]  # type: ignore[index]
    assert code(d, "raw") == "done"


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('no') }}", "{{ 1 / 0 }}", "{% for %}", "", "{{ messages[7].content }}", "{{ 'x' * 10**15 }}"],
)
def test_a_template_that_refuses_the_probe_is_no_reason_not_to_load(
    folder: Path, tmp_path: Path, template: str
) -> None:
    spec = base("t", edited(folder, tmp_path / "t", chat_template=template))
    d = driver()
    d.generate("raw", spec, prompt="hello", max_tokens=4, ignore_eos=True)
    d.finish("raw")
    assert code(d, "raw") == "done"
    assert len(d.runner.base.prober.tokens) >= 8


def test_an_end_token_beyond_the_logits_is_none(folder: Path, tmp_path: Path) -> None:
    spec = base("t", edited(folder, tmp_path / "t", eos_token=BEYOND))
    (tmp_path / "t" / "generation_config.json").unlink()
    (tmp_path / "t" / "generation_config.json").write_text('{"eos_token_id": [257, 262, 99999]}')
    d = driver()
    d.generate("r", spec, max_tokens=6, ignore_eos=True)
    d.generate("min", spec, max_tokens=6, min_tokens=4)
    d.finish("r", "min")
    assert code(d, "r") == "done" == code(d, "min")
    assert 257 in d.runner.base.info.eos and max(d.runner.base.info.eos) < 262


def test_json_answers_with_a_tokenizer_that_knows_more(folder: Path) -> None:
    d = driver()
    d.generate("steady", base("t", folder), max_tokens=30, ignore_eos=True)
    d.generate("json", base("t", folder), user="v", max_tokens=20, json_object=True)
    d.finish("steady", "json")
    assert code(d, "json") == "done" == code(d, "steady")
    assert d.texts()["json"].startswith("{")


def test_penalties_over_a_prompt_whose_tokens_have_no_logits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some models have more rows in the embedding than logits."""
    d = driver()
    d.send("load", id="load", base=base("t", folder))
    d.until(lambda: d.ended("load"))
    forward = d.runner.base.model.forward
    monkeypatch.setattr(d.runner.base.model, "forward", lambda *args: forward(*args)[:, :258])
    d.generate(
        "r", base("t", folder), prompt="<|extra|><|system|>", repetition_penalty=1.5, max_tokens=8, ignore_eos=True,
        logprobs=2,
    )  # fmt: skip
    d.finish("r")
    assert code(d, "r") == "done"


def test_a_token_that_no_step_could_take_ends_its_request(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have more logits than rows of the embedding."""
    d = driver()
    d.generate("steady", base("t", folder), max_tokens=30, ignore_eos=True)
    d.until(lambda: d.of("token", "steady"))
    step = d.runner.step

    def run(chunks: Any, budget: int) -> Any:
        result = step(chunks, budget)
        for chunk, choice in zip(chunks, result.choices, strict=True):
            if choice is not None and chunk.sequence.id == "bad":
                choice.token = 262
        return result

    monkeypatch.setattr(d.runner, "step", run)
    d.generate("bad", base("t", folder), user="v")
    d.finish("bad", "steady")
    assert code(d, "bad") == "internal_error" and code(d, "steady") == "done"


def test_more_logprobs_than_there_are_tokens(tmp_path: Path) -> None:
    folder = tiny.write_base(tmp_path / "base", "llama", vocab_size=262)
    d = driver()
    d.generate("r", base("t", folder), max_tokens=2, logprobs=MAX_LOGPROBS, ignore_eos=True)
    d.generate("s", base("t", folder), max_tokens=2, logprobs=5000)
    d.finish("r", "s")
    assert (code(d, "r"), code(d, "s")) == ("done", "invalid_parameter")
    few = with_logprobs(torch.zeros(5), 0, MAX_LOGPROBS).top
    assert few is not None and len(few) == 5


@pytest.mark.parametrize(
    ("tokens", "first"), [([0, 9], None), ([], None), ([3, 10, 11], 10), ([-1], -1), ([2, None], ""), ([True], True)]
)
def test_what_an_id_must_be(tokens: list[Any], first: Any) -> None:
    assert first_unknown(tokens, 10) == first
