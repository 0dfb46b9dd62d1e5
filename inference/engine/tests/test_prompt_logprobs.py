"""Probabilities of a prompt's own tokens are those of Transformers and PEFT, however the prompt came to be computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from inference.engine.config import EngineConfig
from inference.engine.model import scoring
from inference.engine.model.runner import Runner
from inference.engine.model.scoring import Tail

from . import tiny
from .conftest import Family
from .driver import Driver, adapter, base

SEA = "The sea is wide, and the ships on it are small and slow"
TEXTS = [SEA, "x", "Tell me more about the wind"]


def driver(**config: Any) -> Driver:
    made = EngineConfig(**{"device": "cpu", "max_context": 128, "max_batch": 8, "user_limit": 99, **config})
    return Driver(Runner(made), made)


def read(
    d: Driver, request_id: str, family: Family, name: str | None = None, prompt: str | None = SEA,
    tokens: list[int] | None = None, messages: Any = None, user: str = "u", params: Any = None, **reading: Any,
) -> None:  # fmt: skip
    asked = {"logprobs": 0, "continuation": None, "echo": False, "answer": False, **reading}
    spec = adapter(name, family.adapters[name]) if name else None
    command = {
        "type": "generate", "id": request_id, "user": user, "base": base("t", family.base), "adapter": spec,
        "reading": asked, "params": {"temperature": 0, **(params or {})},
    }  # fmt: skip
    given = {"tokens": tokens} if tokens is not None else {"messages": messages} if messages else {"prompt": prompt}
    d.intake.take({**command, **given})


def told(d: Driver, request_id: str) -> list[dict[str, Any]]:
    return [item for event in d.of("prompt", request_id) for item in event["logprobs"]]


@torch.no_grad()
def expected(family: Family, name: str | None, tokens: list[int]) -> torch.Tensor:
    """(tokens - 1, vocabulary) log-probabilities of what follows each token but the last."""
    logits = tiny.peft_model(family.base, family.adapters[name] if name else None)(torch.tensor([tokens])).logits
    return torch.log_softmax(logits[0].float(), dim=-1)[:-1]


def check(d: Driver, request_id: str, family: Family, name: str | None, tokens: list[int], first: int = 0) -> None:
    items = told(d, request_id)
    assert [item["token_id"] for item in items] == tokens[first:]
    if not first:
        opening = items.pop(0)
        assert (opening["logprob"], opening["top"]) == (None, [])
    whole = expected(family, name, tokens)[max(0, first - 1) :]
    for item, row in zip(items, whole, strict=True):
        assert item["logprob"] == pytest.approx(float(row[item["token_id"]]), abs=1e-3)
        values, ids = torch.topk(row, len(item["top"]))
        assert [value for _name, _token, value, _raw in item["top"]] == pytest.approx(values.tolist(), abs=1e-3)
        assert not item["top"] or float(values[0] - values[-1]) < 1e-2 or item["top"][0][1] == int(ids[0])


# Plain, a bound of the logits, weights of the other orientation, a bias of the output layer
@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=pytest.mark.xdist_group(one)) for one in ("llama", "gemma2", "gpt2", "phi")]
)
def test_a_mixed_batch_in_chunks_and_pieces_equals_peft(
    name: str, family: Callable[[str], Family], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, d = family(name), driver(prefill_chunk=7)
    monkeypatch.setattr(scoring, "PIECE_BYTES", 3 * 4 * tiny.VOCABULARY)
    jobs = [(f"{who}-{at}", who, text) for at, text in enumerate(TEXTS) for who in (None, *made.adapters)]
    sizes: list[int] = []
    logits = Tail.logits

    def noted(self: Tail, hidden: torch.Tensor) -> torch.Tensor:
        sizes.append(len(hidden))
        return logits(self, hidden)

    monkeypatch.setattr(Tail, "logits", noted)
    for request_id, who, text in jobs:
        read(d, request_id, made, who, text, logprobs=2)
    d.generate("answer", base("t", made.base), prompt=SEA, max_tokens=3, ignore_eos=True)
    d.finish("answer", *[job[0] for job in jobs])
    assert not d.of("error")
    for request_id, who, text in jobs:
        ids = tiny.tokenizer()(text).input_ids
        check(d, request_id, made, who, ids)
        done = d.ended(request_id)
        assert done and done["finish_reason"] == "length" and not d.of("token", request_id)
        assert done["usage"] == {"prompt_tokens": len(ids), "completion_tokens": 0, "cached_tokens": 0}
    assert max(sizes[1:]) == 3, "never more than a piece of the logits at once, whatever the step"


def test_an_adapter_of_the_output_layer_counts(tmp_path: Path) -> None:
    folder = tiny.write_base(tmp_path / "base", "llama")
    recipe = tiny.AdapterRecipe(targets=["lm_head", "q_proj"])
    made = Family("llama", folder, {"head": tiny.write_adapter(tmp_path / "head", folder, recipe)})
    file = tmp_path / "head" / "adapter_model.safetensors"  # in which PEFT keeps the whole output layer besides
    save_file({name: tensor for name, tensor in load_file(file).items() if "lora_" in name}, file)
    for native in (True, False):
        d = driver(native=native)
        read(d, "base", made)
        read(d, "head", made, "head", logprobs=3)
        d.finish("base", "head")
        ids = tiny.tokenizer()(SEA).input_ids
        check(d, "base", made, None, ids)
        check(d, "head", made, "head", ids)


def test_what_an_earlier_turn_left_is_reused_only_before_the_first_token_told(llama: Family) -> None:
    d, ids = driver(), tiny.tokenizer()(SEA).input_ids
    read(d, "first", llama, "plain", SEA)
    d.finish("first")
    read(d, "again", llama, "plain", SEA, logprobs=1)
    d.finish("again")
    check(d, "again", llama, "plain", ids)
    read(d, "on", llama, "plain", SEA[:30], continuation=SEA[30:], logprobs=1)
    d.finish("on")
    check(d, "on", llama, "plain", ids, first=30)
    cached = [d.ended(one)["usage"]["cached_tokens"] for one in ("first", "again", "on")]  # type: ignore[index]
    assert cached == [0, 0, 29], "the logits of the token before the first one told are computed again"


def test_echo_with_an_answer(llama: Family) -> None:
    d, ids = driver(), tiny.tokenizer()(SEA).input_ids
    d.generate("plain", base("t", llama.base), prompt=SEA, max_tokens=4, logprobs=1, ignore_eos=True)
    wanted = {"max_tokens": 4, "logprobs": 1, "ignore_eos": True}
    read(d, "echo", llama, logprobs=1, echo=True, answer=True, params=wanted)
    d.finish("plain", "echo")
    check(d, "echo", llama, None, ids)
    assert d.of("prompt", "echo")[0]["text"] == SEA and d.texts()["echo"] == d.texts()["plain"]
    answers = [
        [item for event in d.of("token", one) + d.of("done", one) for item in event.get("logprobs", [])]
        for one in ("plain", "echo")
    ]
    assert [item["logprob"] for item in answers[1]] == pytest.approx([item["logprob"] for item in answers[0]], abs=1e-4)
    assert [item["offset"] - len(SEA) for item in answers[1]] == [item["offset"] for item in answers[0]]


def test_token_ids_are_taken_and_spelled_as_they_are(llama: Family) -> None:
    d = driver()
    ids = [256, *tiny.tokenizer()("é ok").input_ids, 257]
    read(d, "ids", llama, tokens=ids, echo=True)
    read(d, "unknown", llama, tokens=[5, tiny.VOCABULARY])
    d.finish("ids", "unknown")
    check(d, "ids", llama, None, ids)
    assert d.of("prompt", "ids")[0]["text"] == "<|bos|>é ok<|end|>"
    assert [item["offset"] for item in told(d, "ids")] == [0, 7, 7, 8, 9, 10, 11]
    error = d.ended("unknown")
    assert error and (error["code"], error["param"]) == ("unknown_token", "prompt")


def test_a_continuation_of_messages_is_read_as_it_would_be_written(llama: Family) -> None:
    d, tok = driver(), tiny.tokenizer()
    messages = [{"role": "user", "content": "Who <|end|> are you?"}]
    read(d, "r", llama, "narrow", messages=messages, continuation="I am <|end|> one")
    read(d, "empty", llama, messages=messages, continuation="")
    d.finish("r", "empty")

    def literal(text: str) -> list[int]:
        return list(tok(text, split_special_tokens=True).input_ids)

    before = [*tok("<|user|>").input_ids, *literal("Who <|end|> are you?"), *tok("<|end|><|assistant|>").input_ids]
    ids = [*before, *literal("I am <|end|> one")]
    check(d, "r", llama, "narrow", ids, first=len(before))
    assert d.ended("empty")["code"] == "invalid_parameter"  # type: ignore[index]


def test_a_prompt_that_only_is_read_may_fill_the_context(llama: Family) -> None:
    d = driver(max_context=32)
    read(d, "full", llama, tokens=[7] * 32)
    read(d, "over", llama, tokens=[7] * 33)
    read(d, "answer", llama, tokens=[7] * 32, answer=True, echo=True)
    d.finish("full", "over", "answer")
    assert len(told(d, "full")) == 32
    assert [d.ended(one)["code"] for one in ("over", "answer")] == ["context_length_exceeded"] * 2  # type: ignore[index]


def test_preempted_and_cancelled_in_the_middle(llama: Family) -> None:
    d, ids = driver(max_batch=2, prefill_chunk=2), tiny.tokenizer()(SEA).input_ids
    read(d, "a", llama, "plain")
    read(d, "b", llama, "plain")
    d.until(lambda: told(d, "b"))
    read(d, "c", llama, user="other")
    d.until(lambda: told(d, "c"))
    d.send("cancel", id="c")
    d.finish("a", "b", "c")
    assert d.ended("c")["finish_reason"] == "cancelled" and len(told(d, "c")) < len(ids)  # type: ignore[index]
    for one in ("a", "b"):  # one of which had to leave its slot
        check(d, one, llama, "plain", ids)


def test_what_fails_is_the_request_that_asked(llama: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    d = driver()
    monkeypatch.setattr(Tail, "logits", lambda self, hidden: torch.zeros(len(hidden), tiny.VOCABULARY))
    read(d, "r", llama)
    d.generate("answer", base("t", llama.base), prompt=SEA, max_tokens=3)
    d.finish("r", "answer")
    assert d.ended("r")["code"] == "scoring_unsupported"  # type: ignore[index]
    assert d.ended("answer")["type"] == "done"  # type: ignore[index]


def test_logits_that_are_not_finite_are_no_probability() -> None:
    rows = torch.tensor([[0.0, float("nan")], [0.0, float("-inf")]])
    broken, impossible = scoring.scores(rows, [0, 1], [1, 2])
    assert broken.logprob is None
    assert (impossible.logprob, impossible.top) == (scoring.LEAST, [(0, 0.0), (1, scoring.LEAST)])


@torch.no_grad()
def test_eight_bits_are_those_of_bitsandbytes(llama: Family) -> None:
    """LLM.int8() as Transformers loads it: a text by itself and uncut, for its rows depend on one another."""
    d = driver(precision="int8", prefill_chunk=4 * 128)
    for at, text in enumerate(TEXTS):
        read(d, f"r{at}", llama, prompt=text)
        d.finish(f"r{at}")
    read(d, "adapted", llama, "plain")
    d.finish("adapted")
    assert d.engine.status()["precision"] == "int8"
    model: Any = AutoModelForCausalLM.from_pretrained(
        llama.base, dtype=torch.float32, quantization_config=BitsAndBytesConfig(load_in_8bit=True)
    )
    apart = 0.0
    for at, text in enumerate(TEXTS):
        tokens = tiny.tokenizer()(text)["input_ids"]
        rows = torch.log_softmax(model(torch.tensor([tokens])).logits[0].float(), dim=-1)[:-1]
        exact = expected(llama, None, tokens)
        for item, row, other in zip(told(d, f"r{at}")[1:], rows, exact, strict=True):
            assert item["logprob"] == pytest.approx(float(row[item["token_id"]]), abs=2e-2)
            apart = max(apart, abs(item["logprob"] - float(other[item["token_id"]])))
    assert apart > 2e-3  # it is another precision
    assert d.ended("adapted")["type"] == "done"  # type: ignore[index]
