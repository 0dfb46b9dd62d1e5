"""The probabilities of an answer's tokens reach those who hear its end."""

from __future__ import annotations

from typing import Any, cast

import pytest

from accounts.grants import Grant
from chat.models import Message
from chat.runs import Run
from inference.engine.params import SamplingParams
from inference.gateway.asking import Event

HELLO, END = {"token": "hel", "token_id": 1, "logprob": -0.5, "top": []}, {"token": "lo", "token_id": 2, "logprob": 0.0}


@pytest.mark.parametrize(
    ("last", "expected"),
    [("user", [HELLO, END]), ("assistant", [])],
    ids=["a whole answer", "one that is continued has none of its beginning"],
)
def test_a_run_keeps_those_of_every_event(last: str, expected: list[Any]) -> None:
    prompt = [{"role": "user", "content": "x"}, {"role": last, "content": "y"}]
    answer = Message(pk=1, role="assistant", target="pirate")
    run = Run(answer, prompt, SamplingParams(logprobs=1), cast(Grant, None), "en")
    events: list[Any] = [
        {"id": "g", "type": "token", "text": "hel", "index": 0, "logprobs": [HELLO]},
        {"id": "g", "type": "token", "text": "", "index": 1},
        {"id": "g", "type": "done", "finish_reason": "stop", "digest": "d", "logprobs": [END]},
    ]
    for event in events:
        run._take(cast(Event, event))
    assert run.logprobs == expected
    assert "logprobs" not in run.info
