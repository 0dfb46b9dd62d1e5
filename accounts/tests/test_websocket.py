from __future__ import annotations

from typing import Any

import pytest
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.test import Client

from accounts.tokens import issue_token, revoke
from accounts.websocket import AuthMiddleware

pytestmark = pytest.mark.django_db(transaction=True)
HERE = (b"host", b"localhost:8000"), (b"origin", b"http://localhost:8000")


async def tell(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Accepts and says who is there."""
    await receive()
    await send({"type": "websocket.accept"})
    token = scope["token"].name if scope["token"] else None
    await send({"type": "websocket.send", "text": f"{scope['user'].username} {token} {scope['language']}"})


async def knock(*headers: tuple[bytes, bytes]) -> str | None:
    """What the other end says, or None where it does not open."""
    communicator = WebsocketCommunicator(AuthMiddleware(tell), "/ws/generate", headers=list(headers))
    opened, _code = await communicator.connect()
    if not opened:
        return None
    said = await communicator.receive_from()
    await communicator.disconnect()
    return str(said)


@pytest.fixture
def bearer(transactional_db: None) -> tuple[bytes, bytes]:
    user = User.objects.create_user("owner")
    return b"authorization", f"Bearer {issue_token(user, 'laptop')[1]}".encode()


@pytest.fixture
def cookie(transactional_db: None, settings: Any) -> tuple[bytes, bytes]:
    client = Client()
    client.force_login(User.objects.create_user("teammate"))
    return (
        b"cookie",
        f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}".encode(),
    )


async def test_unauthenticated() -> None:
    assert await knock(*HERE) is None


async def test_session(cookie: Any) -> None:
    assert await knock(*HERE, cookie) == "teammate None en"
    assert await knock(*HERE, cookie, (b"accept-language", b"zh-CN,zh;q=0.9,en;q=0.5")) == "teammate None zh-hans"


async def test_bearer_without_origin(bearer: Any) -> None:
    assert await knock(HERE[0], bearer) == "owner laptop en"


async def test_bearer_beats_the_cookie(bearer: Any, cookie: Any) -> None:
    assert await knock(*HERE, cookie, bearer) == "owner laptop en"
    assert await knock(*HERE, cookie, (b"authorization", b"Bearer lp_wrong")) is None
    assert await knock(*HERE, cookie, bearer, bearer) is None


async def test_revoked(transactional_db: None) -> None:
    from asgiref.sync import sync_to_async

    user = await User.objects.acreate(username="owner")
    token, secret = await sync_to_async(issue_token)(user)
    header = (b"authorization", f"Bearer {secret}".encode())
    assert await knock(HERE[0], header) is not None
    await sync_to_async(revoke)(token)
    assert await knock(HERE[0], header) is None


@pytest.mark.parametrize(
    "origin",
    [
        b"http://evil.example",
        b"http://localhost:8001",
        b"http://localhost",
        b"https://localhost:8000",
        b"http://localhost:8000.evil.example",
        b"http://localhost:8000/path",
        b"http://localhost:99999",
        b"http://[::1",
        b"null",
        b"",
        b"file://",
    ],
)
async def test_wrong_origin(cookie: Any, bearer: Any, origin: bytes) -> None:
    assert await knock(HERE[0], (b"origin", origin), cookie) is None
    assert await knock(HERE[0], (b"origin", origin), bearer) is None


async def test_two_origins_or_hosts(cookie: Any) -> None:
    assert await knock(*HERE, HERE[1], cookie) is None
    assert await knock(*HERE, HERE[0], cookie) is None
    assert await knock(HERE[1], cookie) is None


async def test_foreign_host(cookie: Any) -> None:
    """DNS rebinding: origin and host agree with one another but are not ours."""
    assert await knock((b"host", b"evil.example"), (b"origin", b"http://evil.example"), cookie) is None


async def test_trusted_origin(cookie: Any, settings: Any) -> None:
    settings.CSRF_TRUSTED_ORIGINS = ["https://portal.example.org", "https://*.lab.example"]
    assert await knock(HERE[0], (b"origin", b"https://portal.example.org"), cookie) is not None
    assert await knock(HERE[0], (b"origin", b"https://a.lab.example"), cookie) is not None
    assert await knock(HERE[0], (b"origin", b"http://portal.example.org"), cookie) is None
    assert await knock(HERE[0], (b"origin", b"https://portal.example.org.evil.example"), cookie) is None


async def test_behind_a_tls_proxy(cookie: Any, settings: Any) -> None:
    origin, proto = (b"origin", b"https://localhost:8000"), (b"x-forwarded-proto", b"https")
    assert await knock(HERE[0], origin, proto, cookie) is None, "the header alone proves nothing"
    settings.HTTPS = True
    assert await knock(HERE[0], origin, proto, cookie) is not None


async def test_switched_off_account(cookie: Any) -> None:
    await User.objects.filter(username="teammate").aupdate(is_active=False)
    assert await knock(*HERE, cookie) is None
