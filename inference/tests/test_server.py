"""Over a real server: a client that leaves frees its request, whatever door it came through; SIGTERM ends in order."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from django.contrib.auth.models import User
from django.db import connection
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosedOK
from websockets.protocol import State
from websockets.sync.client import connect
from websockets.uri import parse_uri

from tests.fixtures.clock import Clock

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


def database_url() -> str:
    """The test database, as a server of its own is to reach it."""
    given = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{given['NAME']}"
    who = f"{quote(given['USER'])}:{quote(given['PASSWORD'])}@{given['HOST']}:{given['PORT'] or 3306}"
    return f"mysql://{who}/{given['NAME']}"


class Site:
    def __init__(self, folder: Path, token: str, **settings: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.token = token
        self.log = folder / "site.log"
        environment = {
            **os.environ,
            "VAR_DIR": str(folder / "var"),
            "DATABASE_URL": database_url(),
            "PORT": str(self.port),
            **settings,
        }
        command = [sys.executable, "-m", "inference.tests.site"]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self.wait_until(self.answers)

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def wait_until(self, condition: Callable[[], Any], seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        link.request(method, path, json.dumps(body) if body is not None else None, self.headers)
        response = link.getresponse()
        return response.status, json.loads(response.read())

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}

    def running(self) -> int:
        status = self.call("GET", "/api/inference/status")[1]
        return int((status["engine"] or {}).get("running", 0))

    def raw(self, path: str, body: Any) -> socket.socket:
        """A request whose answer nobody has read yet."""
        data = json.dumps(body).encode()
        lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(data)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        link = socket.create_connection(("127.0.0.1", self.port), 10)
        link.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        return link

    def websocket(self) -> Any:
        return connect(f"ws://127.0.0.1:{self.port}/ws/generate", additional_headers=self.headers)

    def deaf_websocket(self) -> Callable[[str], None]:
        """Sends a text over a websocket whose client reads nothing, not even that it is closed."""
        protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{self.port}/ws/generate"))
        request = protocol.connect()
        request.headers.update(self.headers)
        protocol.send_request(request)
        link = socket.create_connection(("127.0.0.1", self.port), 10)
        link.sendall(b"".join(protocol.data_to_send()))
        while protocol.state is State.CONNECTING:
            protocol.receive_data(link.recv(2**12))

        def send(text: str) -> None:
            protocol.send_text(text.encode())
            link.sendall(b"".join(protocol.data_to_send()))

        return send


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """The site's."""
    return Clock(tmp_path)


@pytest.fixture
def site(
    tmp_path: Path, clock: Clock, registry: SimpleNamespace, operator: User, token_for: Callable[..., str]
) -> Iterator[Site]:
    site = Site(tmp_path, token_for(operator, "infer", "operate"), **clock.environment)
    yield site
    if site.process.poll() is None:
        site.process.kill()
        site.process.wait()


def test_leaving_a_plain_post_frees_the_request(site: Site, clock: Clock, registry: SimpleNamespace) -> None:
    path = f"/api/lora/models/{registry.pirate.pk}/test"
    assert site.call("POST", path, {"prompt": "ahoy"})[1]["response"] == "pirate says ahoy "
    link = site.raw(path, {"prompt": "hang"})
    site.wait_until(lambda: site.running() == 1)
    with clock.standing():  # at once: nothing that looks for it now and then would come to it
        link.close()
        site.wait_until(lambda: site.running() == 0)


def test_leaving_a_websocket_frees_the_request(site: Site, clock: Clock) -> None:
    link = site.websocket()
    link.send(json.dumps({"type": "generate", "id": "g", "targets": ["pirate", "poet"], "prompt": "hang"}))
    site.wait_until(lambda: site.running() == 2)
    with clock.standing():
        link.socket.close()  # no closing handshake: the other end vanished
        site.wait_until(lambda: site.running() == 0)


@pytest.mark.parametrize("chunked", [False, True])
def test_huge_body_is_refused_while_it_arrives(site: Site, chunked: bool) -> None:
    link = socket.create_connection(("127.0.0.1", site.port), 10)
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {10**12}"
    link.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}\r\n\r\n".encode())
    block = b"x" * 2**16
    answer, sent = b"", 0
    while not answer:
        try:
            link.sendall(b"%x\r\n%s\r\n" % (len(block), block) if chunked else block)
            sent += len(block)
        except OSError:
            pass  # it has hung up; what it said is still there to be read
        link.settimeout(0.01)
        with contextlib.suppress(TimeoutError):
            answer = link.recv(2**16)
        link.settimeout(10)
    assert answer.startswith(b"HTTP/1.1 413 ") and b"body_too_large" in answer
    assert sent < 8 * 2**20
    assert site.call("GET", "/api/inference/status")[0] == 200


def test_reader_that_reads_nothing_costs_little(site: Site) -> None:
    """The answer never ends; neither the site's buffers nor the engine's slot may follow it."""
    body = {"model": "pirate", "prompt": "firehose", "max_tokens": 4096, "stream": True}
    before = psutil.Process(site.process.pid).memory_info().rss
    link = site.raw("/v1/completions", body)
    link.settimeout(30)
    begun = b""
    while b"data: {" not in begun:  # the answer comes; nothing more of it is read until it has ended
        begun += link.recv(1)
    site.wait_until(lambda: site.running() == 0)
    assert psutil.Process(site.process.pid).memory_info().rss - before < 40 * 2**20
    received = b""
    while not received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
        received = received[-1000:] + link.recv(2**20)
    assert b"slow_reader" in received
    assert site.call("GET", "/api/inference/status")[0] == 200


def test_sigterm_says_goodbye_and_leaves_no_worker(site: Site, clock: Clock, registry: SimpleNamespace) -> None:
    """Without waiting for anything that is not there any more."""
    link = site.websocket()
    link.send(json.dumps({"type": "generate", "id": "g", "targets": ["pirate"], "prompt": "hang"}))
    post = ThreadPoolExecutor(1).submit(
        site.call, "POST", f"/api/lora/models/{registry.pirate.pk}/test", {"prompt": "hang"}
    )
    stream = site.raw("/v1/completions", {"model": "poet", "prompt": "hang", "stream": True})
    site.wait_until(lambda: site.running() == 3)
    worker = site.call("GET", "/api/inference/status")[1]["worker"]["pid"]
    with clock.standing():
        site.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosedOK) as closed:
            while True:
                link.recv(10)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1001  # going away
        streamed = b""
        while more := stream.recv(2**16):
            streamed += more
        assert b'"code":"shutting_down"' in streamed and b"data: [DONE]" in streamed
        assert post.result(10)[0] == 503
        assert post.result(10)[1]["error"]["code"] == "shutting_down"
        assert site.process.wait(10) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_sigterm_ends_within_ten_seconds_whatever_hangs(site: Site, clock: Clock) -> None:
    """An engine that hears nothing, and a client that does not answer when the server closes."""
    link, deaf = site.websocket(), site.deaf_websocket()
    for send in (link.send, deaf):
        send(json.dumps({"type": "generate", "id": "g", "targets": ["pirate"], "prompt": "hang"}))
    site.wait_until(lambda: site.running() == 2)
    worker = psutil.Process(site.call("GET", "/api/inference/status")[1]["worker"]["pid"])
    worker.suspend()
    with clock.standing():
        site.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosedOK):  # so it has begun to end
            while True:
                link.recv(10)
        clock.advance(7)
        site.wait_until(lambda: not worker.is_running())
        clock.advance(3)
        site.process.wait(10)


def test_killed_site_leaves_no_worker(site: Site, registry: SimpleNamespace) -> None:
    site.call("POST", f"/api/lora/models/{registry.pirate.pk}/test", {"prompt": "ahoy"})
    worker = site.call("GET", "/api/inference/status")[1]["worker"]["pid"]
    site.process.kill()
    site.process.wait()
    site.wait_until(lambda: not Path(f"/proc/{worker}").exists(), 10)
