"""What a gate tells other systems, sent to a real server of this machine."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from adapters.models import LoraAdapter
from common import outbound
from common.api import ApiError
from evaluations.gates import judging, keeping, sending, webhooks
from evaluations.models import Family, Gate, GateVerdict, Notice, NoticeState, PromptSet, VerdictState

pytestmark = pytest.mark.django_db

SECRET = "s" * 40


class Receiver(ThreadingHTTPServer):
    """Answers with the statuses of `answers` one after another, then with 204; remembers what came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[int] = []
        self.came: list[SimpleNamespace] = []
        self.release = threading.Event()  # which ends `slow`

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.came.append(SimpleNamespace(path=self.path, headers=dict(self.headers), body=body))
        if self.path == "/slow":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not self.server.release.wait(0.05):  # a byte now and then, without end
                self.wfile.write(b"X")
            return
        status = self.server.answers.pop(0) if self.server.answers else 204
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def receiver(settings: Any) -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings.WEBHOOK_HOSTS = [server.url]
        settings.WEBHOOK_SECRET, settings.WEBHOOK_PRIVATE_HOSTS = SECRET, True
        yield server
        server.release.set()
        server.shutdown()


@pytest.fixture
def ended(operator: User, make_set: Callable[..., PromptSet]) -> Callable[..., GateVerdict]:
    """A verdict that has just ended, of a gate with this webhook."""

    def make(webhook: str, **facts: Any) -> GateVerdict:
        prompts = make_set(
            {"prompt": "a", "checks": [{"kind": "contains", "value": "b"}]}, name=webhook, owner=operator
        )
        gate = Gate.objects.create(
            owner=operator, kind=Family.RUN, name="pirate", prompts=prompts, least=0.9, webhook=webhook
        )
        name = f"pirate/checkpoint-{Notice.objects.count()}"
        adapter = LoraAdapter.objects.create(
            name=name, slug=f"c{gate.pk}", path_hash=f"{gate.pk}", run_name="pirate", checkpoint=60
        )
        verdict = GateVerdict.objects.create(gate=gate, adapter=adapter, digest="d" * 64)
        judging._end(verdict, VerdictState.JUDGED, {"passed": 1, "judged": 4} | facts)
        return verdict

    return make


def due() -> None:
    """As if the time of the next attempt had come."""
    Notice.objects.filter(state=NoticeState.WAITING).update(next_at=timezone.now())


def test_a_verdict_is_told_signed_and_again_after_an_error(
    receiver: Receiver, ended: Callable[..., GateVerdict], operator: User, client: Client
) -> None:
    receiver.answers = [500]
    verdict = ended(f"{receiver.url}/hook?from=portal")
    assert webhooks.deliver_due() == 1
    notice = Notice.objects.get()
    assert (notice.state, notice.attempts, notice.status, notice.code) == ("waiting", 1, 500, "webhook_status")
    assert notice.next_at > timezone.now() + timedelta(seconds=webhooks.DELAYS[0] - 5)
    assert webhooks.deliver_due() == 0  # not before its time
    due()
    assert webhooks.deliver_due() == 1
    notice.refresh_from_db()
    assert (notice.state, notice.attempts, notice.status, notice.code) == ("delivered", 2, 204, "")
    assert webhooks.deliver_due() == 0
    first, second = receiver.came
    assert first.body == second.body and second.path == "/hook?from=portal"
    for came in (first, second):
        stamp = came.headers["X-Portal-Timestamp"]
        assert abs(time.time() - int(stamp)) < 60
        signed = hmac.new(SECRET.encode(), stamp.encode() + b"." + came.body, hashlib.sha256).hexdigest()
        assert came.headers["X-Portal-Signature"] == f"sha256={signed}"
        assert came.headers["X-Portal-Delivery"] == str(notice.key)
    told = json.loads(second.body)
    assert (told["event"], told["verdict"], told["code"]) == ("gate.verdict", "failed", "gate_below_bar")
    assert (told["passed"], told["judged"], told["adapter"]["digest"]) == (1, 4, "d" * 64)
    client.force_login(operator)
    assert 'data-state="delivered"' in client.get(f"/evaluations/gates/{verdict.gate_id}").content.decode()


def test_it_is_given_up_in_the_end_or_where_nobody_wants_it(
    receiver: Receiver, ended: Callable[..., GateVerdict]
) -> None:
    receiver.answers = [503] * 100
    ended(f"{receiver.url}/a")
    for _attempt in range(len(webhooks.DELAYS) + 1):
        due()
        webhooks.deliver_due()
    notice = Notice.objects.get()
    assert (notice.state, notice.attempts, notice.code) == ("given_up", len(webhooks.DELAYS) + 1, "webhook_status")
    receiver.answers = [410]
    ended(f"{receiver.url}/b")
    webhooks.deliver_due()
    assert Notice.objects.latest("pk").state == NoticeState.GIVEN_UP
    assert len(receiver.came) == len(webhooks.DELAYS) + 2


def test_no_redirect_is_followed(receiver: Receiver, ended: Callable[..., GateVerdict]) -> None:
    receiver.answers = [302]
    ended(f"{receiver.url}/a")
    webhooks.deliver_due()
    assert [came.path for came in receiver.came] == ["/a"]
    assert Notice.objects.get().code == "webhook_redirected"


def test_only_hosts_that_are_named_are_told(
    receiver: Receiver, ended: Callable[..., GateVerdict], operator: User, settings: Any
) -> None:
    port = receiver.server_port
    for url in (
        f"http://localhost:{port}/", f"https://127.0.0.1:{port}/", "http://127.0.0.1:1/", "https://ci.example.org/",
        f"http://user@127.0.0.1:{port}/", f"http://127.0.0.1:{port}\r\nX: y/", "ftp://127.0.0.1/", "127.0.0.1", "http://[::1",
    ):  # fmt: skip
        with pytest.raises(sending.NotSentError, match="webhook_refused"):
            sending.post(url, b"{}", {})
    gate = ended(f"{receiver.url}/").gate
    with pytest.raises(ApiError) as refused:
        keeping.save(operator, gate, webhook="https://ci.example.org/")
    assert (refused.value.code, refused.value.param) == ("webhook_refused", "webhook")
    settings.WEBHOOK_HOSTS = ["ci.example.org"]  # a setting that has changed since counts as well
    webhooks.deliver_due()
    assert not receiver.came
    assert (Notice.objects.get().state, Notice.objects.get().code) == ("given_up", "webhook_refused")


def test_a_named_host_that_leads_to_a_private_address_is_not_told(
    receiver: Receiver, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.WEBHOOK_HOSTS = [f"http://ci.example.org:{receiver.server_port}"]
    url = f"http://ci.example.org:{receiver.server_port}/"
    resolved = ["127.0.0.1"]

    def getaddrinfo(host: str, port: int, **more: Any) -> list[Any]:
        assert host == "ci.example.org"
        return [(2, 1, 6, "", (address, port)) for address in resolved]

    monkeypatch.setattr(outbound.socket, "getaddrinfo", getaddrinfo)
    assert sending.post(url, b"{}", {}) == 204
    settings.WEBHOOK_PRIVATE_HOSTS = False
    with pytest.raises(sending.NotSentError, match="webhook_private"):
        sending.post(url, b"{}", {})
    resolved[:] = ["93.184.216.34", "10.0.0.1"]
    with pytest.raises(sending.NotSentError, match="webhook_private"):
        sending.post(url, b"{}", {})
    assert len(receiver.came) == 1


@pytest.mark.parametrize(
    ("address", "private", "public"),
    [
        ("93.184.216.34", True, True), ("2606:2800:220:1::1", True, True), ("10.1.2.3", True, False),
        ("127.0.0.1", True, False), ("::1", True, False), ("fd00::1", True, False), ("100.64.0.1", True, False),
        ("::ffff:10.0.0.1", True, False), ("64:ff9b::a00:1", True, False), ("169.254.169.254", False, False),
        ("::ffff:169.254.169.254", False, False), ("fe80::1%eth0", False, False), ("0.0.0.0", False, False),  # noqa: S104
        ("224.0.0.1", False, False), ("255.255.255.255", False, False), ("::", False, False),
    ],
)  # fmt: skip
def test_addresses(address: str, private: bool, public: bool) -> None:
    assert outbound.is_reachable(address, private=True) == private
    assert outbound.is_reachable(address, private=False) == public


def test_a_receiver_that_never_ends_is_left(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "WHOLE_SECONDS", 0.3)
    lasting = threading.Timer(5, receiver.release.set)
    lasting.start()
    with pytest.raises(sending.NotSentError, match="webhook_unreachable"):
        sending.post(f"{receiver.url}/slow", b"{}", {})
    lasting.cancel()
    assert not receiver.release.is_set()


def test_nothing_is_sent_unsigned(receiver: Receiver, ended: Callable[..., GateVerdict], settings: Any) -> None:
    settings.WEBHOOK_SECRET = ""
    ended(f"{receiver.url}/")
    webhooks.deliver_due()
    assert (Notice.objects.get().state, Notice.objects.get().code) == ("given_up", "webhook_unsigned")
    assert not receiver.came


def test_while_nothing_is_due_nothing_is_written(
    django_assert_num_queries: Callable[[int], Any], transactional_db: None
) -> None:
    """Every portal looks every few seconds."""
    with django_assert_num_queries(1) as asked:
        webhooks.Deliveries(60).work()
    with django_assert_num_queries(1) as also:
        judging.turn()
    assert all(query["sql"].startswith("SELECT") for query in [*asked.captured_queries, *also.captured_queries])
