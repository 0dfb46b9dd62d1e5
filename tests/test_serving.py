"""The portal as a process: it starts, knows people, refuses a twin, and ends in order."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import websockets.sync.client as ws
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from tests.fixtures.clock import Clock
from tests.fixtures.portal import PROJECT, Portal, free_port, running_portal, wait_for

pytestmark = pytest.mark.slow

ISSUE = """
from django.contrib.auth.models import User
from accounts.tokens import issue_token
print(issue_token(User.objects.get(username="operator"), "one more")[1])
"""


@pytest.fixture(scope="module")
def bare_portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    """Without models: nothing here asks the engine."""
    with running_portal(tmp_path_factory.mktemp("bare") / "var") as portal:
        yield portal


def test_health_and_roles(bare_portal: Portal) -> None:
    assert bare_portal.call("GET", "/healthz").json() == {"status": "ok"}
    assert bare_portal.call("GET", "/healthz/").status == 200
    assert bare_portal.call("GET", "/api/lora/models").status == 401
    assert bare_portal.api("GET", "/api/lora/models", user="owner").status == 200
    assert bare_portal.api("POST", "/api/lora/scan", {}, user="owner").status == 403
    assert bare_portal.api("POST", "/api/lora/scan", {}).status == 200


def test_pages_come_with_their_policy(bare_portal: Portal) -> None:
    answer = bare_portal.call("GET", "/login")
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert answer.status == 200 and (policy["default-src"], policy["script-src"]) == ("'none'", "'self'")
    assert {source for sources in policy.values() for source in sources.split()} == {"'none'", "'self'", "data:"}
    assert answer.headers["X-Frame-Options"] == "DENY"
    missing = bare_portal.call("GET", "/nothing/here")
    assert missing.status == 404 and "Traceback" not in missing.text and str(bare_portal.var_dir) not in missing.text


def test_foreign_host_is_refused(bare_portal: Portal) -> None:
    assert bare_portal.call("GET", "/login", Host="evil.example").status == 400


def test_websocket_doors(bare_portal: Portal) -> None:
    address = f"{bare_portal.ws_url}/ws/generate"
    good = {"Authorization": f"Bearer {bare_portal.token('owner')}"}
    bad = {"Authorization": "Bearer lp_no"}
    for headers, origin in (({}, None), (good, Origin("http://evil.example")), (bad, None)):
        with pytest.raises(InvalidStatus) as refused, ws.connect(address, additional_headers=headers, origin=origin):
            pass
        assert refused.value.response.status_code == 403
    with pytest.raises(InvalidStatus), ws.connect(f"{bare_portal.ws_url}/ws/nothing", additional_headers=good):
        pass
    cookie = {"Cookie": bare_portal.login("owner")}
    with ws.connect(address, additional_headers=cookie, origin=Origin(bare_portal.url)) as socket:
        socket.send("{}")
        assert '"error"' in str(socket.recv(10))
    with ws.connect(address, additional_headers=good) as socket:
        socket.send("no json")
        assert '"error"' in str(socket.recv(10))


def test_a_twin_on_the_same_data_is_refused(bare_portal: Portal) -> None:
    def serve(**environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "manage.py", "serve"],
            cwd=PROJECT,
            env={**bare_portal.environment, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    same_port = serve()
    assert same_port.returncode == 1 and f"Port {bare_portal.port} is taken" in same_port.stderr
    same_data = serve(PORT=str(free_port()))
    assert same_data.returncode == 1 and "in use by another portal" in same_data.stderr
    for result in (same_port, same_data):
        assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr


def test_two_portals_side_by_side(bare_portal: Portal, tmp_path: Path) -> None:
    with running_portal(tmp_path / "var", SCAN_INTERVAL="60") as other:
        wait_for(lambda: other.api("GET", "/api/lora/scan").status == 200, what="the scan at the first start")
        assert other.port != bare_portal.port
        assert other.api("GET", "/api/lora/models").status == 200
        assert bare_portal.api("GET", "/api/lora/models").status == 200
        token = bare_portal.manage("shell", "--verbosity", "0", "-c", ISSUE).strip()
        assert bare_portal.call("GET", "/api/lora/models", token=token).status == 200
        assert other.call("GET", "/api/lora/models", token=token).status == 401


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_in_order(tmp_path: Path, number: signal.Signals) -> None:
    """An open websocket hears that the server goes away, and the process is gone: it waits for no time to pass."""
    clock = Clock(tmp_path)
    with running_portal(tmp_path / "var", **clock.environment) as portal:
        headers = {"Authorization": f"Bearer {portal.token('owner')}"}
        socket = ws.connect(f"{portal.ws_url}/ws/generate", additional_headers=headers)
        with clock.standing():
            assert portal.stop(number) == 0
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(10)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1001
        assert "Traceback" not in portal.log
        portal.start()
        assert portal.api("GET", "/api/lora/models").status == 200
