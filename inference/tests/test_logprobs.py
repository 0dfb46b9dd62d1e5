"""Probabilities of tokens that are parts of characters, as OpenAI's two calls tell them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from inference.api.openai.answers import ChatShape, CompletionShape
from inference.engine.config import EngineConfig
from inference.engine.model import runner, sampler
from inference.engine.tests import tiny
from inference.engine.tests.driver import Driver, base

TEXT = "é 世界🦜 ok"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_base(tmp_path_factory.mktemp("logprobs") / "base", "llama")


@pytest.fixture
def answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """The events of an answer that consists of these tokens."""

    def of(tokens: list[int], base_folder: Path = folder, **params: Any) -> list[dict[str, Any]]:
        left = iter(tokens)

        def sample(logits: torch.Tensor, asks: list[sampler.Drawing]) -> list[sampler.Sampled]:
            row = torch.zeros(tiny.VOCABULARY)
            row[128:300] = 5.0  # bytes beyond ASCII, special tokens, and ids that the tokenizer does not know
            return [sampler.with_logprobs(row, next(left), ask.params.logprobs) for ask in asks]

        monkeypatch.setattr(runner, "sample", sample)
        config = EngineConfig(device="cpu", max_context=128)
        d = Driver(runner.Runner(config), config)
        d.generate("r", base("t", base_folder), max_tokens=len(tokens), **params)
        d.finish("r")
        return d.of("token") + d.of("done")

    return of


def items(events: list[dict[str, Any]]) -> list[Any]:
    return [item for event in events for item in event.get("logprobs", [])]


def test_bytes_are_those_of_the_text(answer: Callable[..., list[dict[str, Any]]]) -> None:
    ids = tiny.tokenizer()(TEXT).input_ids
    content = ChatShape().logprobs(items(answer(ids, logprobs=3)))["content"]
    assert bytes(byte for entry in content for byte in entry["bytes"]).decode() == TEXT
    assert content[0]["token"] == "\\xc3" and content[-1]["token"] == "k"
    assert all(len(entry["top_logprobs"]) == 3 for entry in content)


def test_offsets_are_those_of_the_characters(answer: Callable[..., list[dict[str, Any]]]) -> None:
    ids = tiny.tokenizer()(TEXT).input_ids
    expected = [at for at, character in enumerate(TEXT) for _byte in character.encode()]
    events = answer(ids, logprobs=0)
    assert CompletionShape().logprobs(items(events))["text_offset"] == expected
    pieces = [CompletionShape().piece(0, event)["logprobs"]["text_offset"] for event in events[:-1]]  # type: ignore[arg-type]
    assert [offset for piece in pieces for offset in piece] == expected


def test_offsets_where_a_stop_string_holds_text_back(answer: Callable[..., list[dict[str, Any]]]) -> None:
    ids = tiny.tokenizer()("abcabX").input_ids
    offsets = CompletionShape().logprobs(items(answer(ids, logprobs=0, stop=["abcd", "cabY"])))["text_offset"]
    assert offsets == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("count", [1, 20])
def test_as_many_alternatives_as_asked(answer: Callable[..., list[dict[str, Any]]], count: int) -> None:
    found = CompletionShape().logprobs(items(answer([65, 66, 228], logprobs=count)))
    assert len(found["tokens"]) == 3
    for chosen, top in zip(found["tokens"], found["top_logprobs"], strict=True):
        assert chosen in top and len(top) in (count, count + 1)
    assert len(found["top_logprobs"][0]) == count + 1, "the chosen one is never missing"


def test_what_stands_for_no_text_has_a_name_and_no_bytes(answer: Callable[..., list[dict[str, Any]]]) -> None:
    end = tiny.COMMON["eos_token_id"]
    last = items(answer([65, end], logprobs=20))[-1]
    assert (last["token"], last["bytes"], last["offset"]) == ("<|end|>", None, 1)
    top = ChatShape().logprobs([last])["content"][0]["top_logprobs"]
    assert len({entry["token"] for entry in top}) == 20


def test_sentence_piece_begins_no_alternative_with_a_space(
    folder: Path, tmp_path: Path, answer: Callable[..., list[dict[str, Any]]]
) -> None:
    made = Tokenizer(models.WordLevel({f"\u2581w{number}": number for number in range(tiny.VOCABULARY)}, "\u2581w0"))
    made.decoder = decoders.Sequence(  # as Llama's
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    other = shutil.copytree(folder, tmp_path / "base")
    PreTrainedTokenizerFast(tokenizer_object=made).save_pretrained(other)
    first, second = items(answer([128, 129], other, logprobs=3, ignore_eos=True))
    assert (first["token"], second["token"]) == ("w128", " w129")
    assert all(name == f"w{token}" for name, token, *_ in first["top"])
    assert all(name == f" w{token}" for name, token, *_ in second["top"])
