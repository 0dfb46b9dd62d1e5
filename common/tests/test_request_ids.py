from __future__ import annotations

import json
import logging
import time

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory

from common.logs import RequestIdFilter
from common.request_ids import CAME_IN, RequestIdMiddleware, adopt, began, begin, request_id
from inference.engine.logs import JsonFormatter


def test_every_answer_names_its_request(client: Client) -> None:
    first, second = (client.get("/healthz").headers["X-Request-ID"] for _ in range(2))
    assert len(first) == 24 and first != second


@pytest.mark.parametrize(
    ("given", "taken"),
    [("job-7.a_B", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("ä", False), ("", False)],
)
def test_a_client_may_name_it_in_plain_words(client: Client, given: str, taken: bool) -> None:
    answered = client.get("/healthz", headers={"X-Request-ID": given}).headers["X-Request-ID"]
    assert (answered == given) is taken


def test_a_name_of_ours_never_replaces_the_clients() -> None:
    begin("theirs")
    assert adopt("ours") == "theirs"
    begin("")
    assert adopt("ours") == "ours" == request_id.get()


def test_logs_as_json_carry_the_request_and_no_line_is_forged() -> None:
    begin("r1")
    record = logging.makeLogRecord({"name": "x", "levelname": "INFO", "msg": "two\n%s", "args": ("lines",)})
    record.model = "pirate"
    RequestIdFilter().filter(record)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    found = json.loads(line)
    assert (found["message"], found["request_id"], found["model"]) == ("two\nlines", "r1", "pirate")


def test_a_traceback_is_a_field() -> None:
    try:
        raise ValueError("no")
    except ValueError as error:
        record = logging.makeLogRecord({"msg": "failed", "exc_info": (type(error), error, error.__traceback__)})
    assert json.loads(JsonFormatter().format(record))["exception"].endswith("ValueError: no")


def test_a_request_begins_when_its_first_byte_was_read(rf: RequestFactory) -> None:
    seen: list[float] = []

    def answer(_request: HttpRequest) -> HttpResponse:
        seen.append(began.get())
        return HttpResponse()

    middleware = RequestIdMiddleware(answer)
    request = rf.get("/")
    middleware(request)
    request.scope = {CAME_IN: 12.5}  # type: ignore[attr-defined]
    middleware(request)
    assert time.monotonic() - seen[0] < 60 and seen[1] == 12.5
