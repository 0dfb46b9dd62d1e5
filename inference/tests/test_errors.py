"""Every code that the engine can send has a status and a sentence; details fill the sentence or are left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from inference import errors
from inference.errors import KINDS, InferenceError, api_error, sentence

ENGINE = Path(errors.__file__).with_name("engine")


def test_every_code_of_the_engine_is_known() -> None:
    text = "".join(file.read_text() for file in ENGINE.rglob("*.py") if "tests" not in file.parts)
    codes = set(re.findall(r"EngineError\(\s*\"(\w+)\"", text))
    assert len(codes) > 8
    assert codes <= set(KINDS)


@pytest.mark.parametrize("code", sorted(KINDS))
def test_every_code_reads_without_details(code: str) -> None:
    kind = KINDS[code]
    assert "%" not in sentence(code)
    assert (kind.retry_after is not None) == (kind.status in (429, 503))
    assert api_error(InferenceError(code)).status == kind.status


def test_details() -> None:
    detail = {"tokens": 9000, "context": 2048}
    error = api_error(InferenceError("context_length_exceeded", detail=detail), raw_prompt=True)
    assert error.param == "prompt" and "9,000" in error.message and "2,048" in error.message
    needs = {"base": "Big", "needed": "9 GiB", "free": "5 GiB", "precision": "fp32", "fits": ["nf4"]}
    assert "It would fit with nf4." in sentence("out_of_memory", needs)
    assert "smaller base model" in sentence("out_of_memory", {**needs, "fits": []})
    assert "pirate" in api_error(InferenceError("no_effect"), name="pirate").message


def test_unknown_codes_are_the_engines_fault() -> None:
    error = api_error(InferenceError("something_new"))
    assert (error.code, error.status) == ("engine_error", 503)
