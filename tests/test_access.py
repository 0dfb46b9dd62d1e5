"""Who may call what: every address and every frame, for everybody. A new one fails here until it is classified.

The addresses come from the URLconf, the frames from their types; `ROUTES` says who may. Things that belong to somebody
are not there for others: unknown and forbidden are both 404.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints
from uuid import uuid4

import pytest
from channels.db import database_sync_to_async
from channels.testing import WebsocketCommunicator
from django.apps import apps
from django.conf import settings
from django.contrib import admin as django_admin
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db.models import FileField
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from rest_framework.test import APIClient

from accounts.tokens import issue_token
from accounts.websocket import AuthMiddleware
from adapters.models import LoraAdapter, Merge, Scan, ScanState, Status
from chat import flows
from chat.consumers import CLIENT_FRAMES as FRAME_TYPES
from chat.consumers import ChatConsumer
from chat.models import Assistant, Conversation, State
from comparison.models import Verdict, Vote
from evaluations import sets
from evaluations.items import read_item
from evaluations.models import Duel, Family, Gate, Parity, Run
from inference.api.ws import frames
from inference.api.ws.consumer import GenerateConsumer
from inference.manager import ModelManager
from inference.quota.ledger import ledger
from inference.tests.conftest import make_manager, manager, registry  # noqa: F401  (fixtures)
from prompts.models import SavedPrompt

pytestmark = pytest.mark.django_db(transaction=True)

# Who may. A page knows sessions alone; a call knows sessions and tokens, and a token may only what its scopes say.
PUBLIC, PAGE, SIGNED, INFER, OPERATE, OWN, OWN_PAGE = "public", "page", "signed", "infer", "operate", "own", "own page"
OPERATE_OWN = "own things of operators"
ADMIN_PAGE, OPERATOR_PAGE = "admin page", "operator page"

ROUTES: dict[str, dict[str, str]] = {
    "": {"GET": PUBLIC},
    "healthz": {"GET": PUBLIC},
    "readyz": {"GET": PUBLIC},
    "metrics": {"GET": OPERATE},
    "i18n/catalog.js": {"GET": PUBLIC},
    "i18n/setlang/": {"GET": PUBLIC, "POST": PUBLIC},
    "api/schema": {"GET": PUBLIC},
    "api/docs": {"GET": PUBLIC},
    "login": {"GET": PUBLIC, "POST": PUBLIC},
    "logout": {"POST": PUBLIC},
    "model-management.html": {"GET": PUBLIC},  # redirects to the page, which asks
    "lora-test.html": {"GET": PUBLIC},
    "styleguide": {"GET": PUBLIC},
    "account": {"GET": PAGE, "POST": PAGE},
    "tokens": {"GET": PAGE, "POST": PAGE},
    "tokens/<int:pk>/revoke": {"POST": OWN_PAGE},
    "people": {"GET": ADMIN_PAGE},
    "people/new": {"GET": ADMIN_PAGE, "POST": ADMIN_PAGE},
    "people/<int:pk>": {"GET": ADMIN_PAGE},
    **{
        f"people/<int:pk>/{change}": {"POST": ADMIN_PAGE}
        for change in ("role", "deactivate", "reactivate", "password", "link", "sign-out", "revoke", "delete")
    },
    "set-password/<str:uidb64>/<str:token>": {"GET": PUBLIC, "POST": PUBLIC},  # whoever has the link
    "settings": {"GET": ADMIN_PAGE},
    "favicon.ico": {"GET": PUBLIC},
    "models": {"GET": PAGE},
    "models/<int:pk>": {"GET": PAGE},
    "test": {"GET": PAGE},
    "monitoring": {"GET": PAGE},
    "compare": {"GET": PAGE},
    "compare/votes": {"GET": PAGE},
    "compare/votes/<uuid:run>/delete": {"POST": OWN_PAGE},
    "assistants": {"GET": PAGE},
    "assistants/new": {"GET": PAGE, "POST": PAGE},
    "assistants/<int:pk>": {"GET": OWN_PAGE, "POST": OWN_PAGE},
    "assistants/<int:pk>/delete": {"POST": OWN_PAGE},
    "assistants/<int:pk>/talk": {"POST": OWN_PAGE},
    "prompts": {"GET": PAGE},
    "prompts/new": {"GET": PAGE},
    "prompts/<int:pk>": {"GET": OWN_PAGE},  # shared ones: prompts/tests/test_prompts.py
    "chat": {"GET": PAGE},
    "chat/<int:pk>": {"GET": OWN_PAGE},
    "chat/shared/<uuid:share>": {"GET": PAGE},  # whose owner made the link: chat/tests/test_sharing.py
    "api/lora/models": {"GET": SIGNED},
    "api/lora/models/<int:pk>": {"GET": SIGNED, "PATCH": OPERATE, "DELETE": OPERATE},
    "api/lora/models/<int:pk>/activate": {"POST": OPERATE},
    "api/lora/models/<int:pk>/deactivate": {"POST": OPERATE},
    "api/lora/models/<int:pk>/repair": {"GET": OPERATE, "POST": OPERATE},
    "api/lora/models/<int:pk>/export": {"GET": SIGNED},
    "api/lora/models/<int:pk>/merges": {"GET": OPERATE, "POST": OPERATE},
    "api/lora/merges": {"GET": OPERATE},
    "api/lora/merges/<int:pk>": {"GET": OPERATE, "DELETE": OPERATE},
    "api/lora/merges/<int:pk>/download": {"GET": OPERATE},
    "api/lora/merges/<int:pk>/files/<str:name>": {"GET": OPERATE},
    "api/lora/models/<int:pk>/events": {"GET": SIGNED},
    "api/lora/models/<int:pk>/metrics": {"GET": SIGNED},
    "api/lora/models/<int:pk>/curve": {"GET": SIGNED},
    "api/lora/models/<int:pk>/test": {"POST": INFER},
    "api/lora/models/bulk": {"POST": OPERATE},
    "api/lora/bases": {"GET": SIGNED},
    "api/lora/scan": {"GET": OPERATE, "POST": OPERATE},
    "api/lora/blends": {"POST": OPERATE},
    "api/lora/imports": {"GET": OPERATE, "POST": OPERATE},
    # One's own alone: adapters/tests/test_hub_imports.py
    "api/lora/imports/<int:pk>": {"GET": OPERATE_OWN, "DELETE": OPERATE_OWN},
    "api/lora/uploads": {"GET": OPERATE, "POST": OPERATE},
    # One's own alone: adapters/tests/test_uploads.py
    "api/lora/uploads/<slug:key>": {"GET": OPERATE_OWN, "DELETE": OPERATE_OWN},
    "api/lora/uploads/<slug:key>/files/<int:index>": {"PUT": OPERATE_OWN},
    "api/lora/uploads/<slug:key>/finish": {"POST": OPERATE_OWN},
    "api/inference/targets": {"GET": SIGNED},
    "api/inference/count": {"POST": INFER},
    "api/inference/score": {"POST": INFER},
    "api/inference/status": {"GET": OPERATE},
    "api/inference/load": {"POST": OPERATE},
    "api/inference/unload": {"POST": OPERATE},
    "api/usage": {"GET": SIGNED},
    "api/monitoring/history": {"GET": SIGNED},  # one's own; of others: test_monitoring_history
    "api/monitoring/requests": {"GET": SIGNED},
    "v1/models": {"GET": INFER},
    "v1/models/<str:model>": {"GET": INFER},
    "v1/chat/completions": {"POST": INFER},
    "v1/completions": {"POST": INFER},
    "api/assistants": {"GET": INFER, "POST": INFER},
    "api/assistants/<int:pk>": {"GET": OWN, "PATCH": OWN, "DELETE": OWN},  # shared ones: test_assistant_api
    "api/assistants/<int:pk>/chat": {"POST": OWN},
    "api/prompts": {"GET": INFER, "POST": INFER},
    "api/prompts/<int:pk>": {"GET": OWN, "PATCH": OWN, "DELETE": OWN},  # shared ones: prompts/tests/test_prompts.py
    "api/chat/conversations": {"GET": INFER, "POST": INFER},
    "api/chat/conversations/delete": {"POST": INFER},  # of one's own: chat/tests/test_lists.py
    "api/chat/folders": {"GET": INFER},
    "api/chat/import": {"POST": INFER},
    "api/chat/conversations/<int:pk>": {"GET": OWN, "PATCH": OWN, "DELETE": OWN},
    "api/chat/conversations/<int:pk>/share": {"POST": OWN, "DELETE": OWN},
    "api/chat/conversations/<int:pk>/versions": {"POST": OWN},
    "api/chat/conversations/<int:pk>/export.json": {"GET": OWN},
    "api/chat/conversations/<int:pk>/export.md": {"GET": OWN},
    "api/compare/votes": {"GET": INFER},
    # The id of a comparison is its client's: whoever sends a vote on it makes one of their own.
    "api/compare/votes/<uuid:run>": {"GET": OWN, "PUT": INFER, "DELETE": OWN},
    "api/compare/votes/export.jsonl": {"GET": INFER},
    "api/compare/votes/export.csv": {"GET": INFER},
    "compare/head-to-head": {"GET": PAGE},
    "api/compare/head-to-head": {"GET": INFER},
    "api/compare/summary": {"GET": INFER},
    "evaluations": {"GET": PAGE},
    "evaluations/new": {"GET": PAGE},
    "evaluations/sets": {"GET": PAGE},
    "evaluations/parity": {"GET": PAGE},
    "evaluations/parity/<int:pk>": {"GET": OWN_PAGE},
    # Shared sets and runs: evaluations/tests/
    "evaluations/sets/<int:pk>": {"GET": OWN_PAGE},
    "evaluations/runs/<int:pk>": {"GET": OWN_PAGE},
    "evaluations/gates": {"GET": OPERATOR_PAGE},
    "evaluations/gates/<int:pk>": {"GET": OPERATOR_PAGE},
    "api/evaluations/gates": {"GET": OPERATE, "POST": OPERATE},
    "api/evaluations/gates/standing": {"GET": OPERATE},
    "api/evaluations/gates/<int:pk>": {"GET": OPERATE, "PATCH": OPERATE, "DELETE": OPERATE},
    "api/evaluations/gates/<int:pk>/verdicts": {"GET": OPERATE, "POST": OPERATE},
    "api/evaluations/gates/<int:pk>/notices": {"GET": OPERATE},
    "evaluations/runs/<int:pk>/head-to-head": {"GET": OWN_PAGE},
    "api/evaluations/sets": {"GET": INFER, "POST": INFER},
    "api/evaluations/sets/<int:pk>": {"GET": OWN, "PATCH": OWN, "DELETE": OWN},
    "api/evaluations/sets/<int:pk>/versions": {"GET": OWN},
    "api/evaluations/sets/<int:pk>/items": {"GET": OWN, "POST": OWN},
    "api/evaluations/sets/<int:pk>/items/remove": {"POST": OWN},
    "api/evaluations/sets/<int:pk>/items/<int:number>": {"GET": OWN, "PUT": OWN, "DELETE": OWN},
    "api/evaluations/sets/<int:pk>/import": {"POST": OWN},
    "api/evaluations/sets/<int:pk>/export.jsonl": {"GET": OWN},
    "api/evaluations/sets/<int:pk>/export.csv": {"GET": OWN},
    "api/evaluations/parity": {"GET": INFER, "POST": INFER},
    "api/evaluations/parity/<int:pk>": {"GET": OWN, "DELETE": OWN},
    "api/evaluations/parity/<int:pk>/cancel": {"POST": OWN},
    "api/evaluations/parity/<int:pk>/export.md": {"GET": OWN},
    "api/evaluations/runs": {"GET": INFER, "POST": INFER},
    "api/evaluations/runs/<int:pk>": {"GET": OWN, "PATCH": OWN, "DELETE": OWN},
    "api/evaluations/runs/<int:pk>/cancel": {"POST": OWN},
    "api/evaluations/runs/<int:pk>/again": {"POST": OWN},
    "api/evaluations/runs/<int:pk>/results": {"GET": OWN},
    "api/evaluations/runs/<int:pk>/curve": {"GET": OWN},
    "api/evaluations/runs/<int:pk>/head-to-head": {"GET": OWN, "POST": OWN},
    "api/evaluations/head-to-head/<int:pk>": {"GET": OWN, "DELETE": OWN},
    "api/evaluations/head-to-head/<int:pk>/cancel": {"POST": OWN},
    "api/evaluations/head-to-head/<int:pk>/comparisons": {"GET": OWN},
    "api/evaluations/runs/<int:pk>/export.csv": {"GET": OWN},
    "api/evaluations/runs/<int:pk>/export.jsonl": {"GET": OWN},
    "api/evaluations/runs/<int:pk>/export.md": {"GET": OWN},
}
FRAMES = {"generate": INFER, "stop": OWN, "ack": OWN}
CHAT_FRAMES = {"ask": OWN, "again": OWN, "continue": OWN, "follow": OWN, "stop": OWN}


@dataclass(frozen=True)
class Actor:
    name: str
    scopes: tuple[str, ...] | None = None  # of a token; None: a session

    @property
    def staff(self) -> bool:
        return self.name in ("operator", "admin")


ANONYMOUS = Actor("")
ACTORS = [
    ANONYMOUS,
    *(Actor(name) for name in ("owner", "outsider", "operator", "admin")),
    Actor("owner", ("infer",)),
    Actor("outsider", ("infer",)),
    Actor("operator", ("infer",)),
    Actor("operator", ("operate",)),
    Actor("admin", ("infer", "operate")),
]


def expected(rule: str, actor: Actor) -> str:
    """`yes`, `no` (401, 403 or the sign-in page) or `hidden` (404)."""
    token = actor.scopes is not None
    if rule == PUBLIC:
        return "yes"
    if actor == ANONYMOUS or (token and rule in (PAGE, OWN_PAGE, ADMIN_PAGE, OPERATOR_PAGE)):
        return "no"
    if rule == ADMIN_PAGE:
        return "yes" if actor.name == "admin" else "no"
    if rule == OPERATOR_PAGE:
        return "yes" if actor.staff else "no"
    if rule in (PAGE, SIGNED):
        return "yes"
    if rule in (OPERATE, OPERATE_OWN):
        may = actor.staff and (not token or "operate" in (actor.scopes or ()))
        return "no" if not may else "yes" if rule == OPERATE else "hidden"
    if token and "infer" not in (actor.scopes or ()):
        return "no"
    return "hidden" if rule in (OWN, OWN_PAGE) and actor.name != "owner" else "yes"


def outcome(response: Any) -> str:
    if response.status_code in (401, 403):
        return "no"
    if response.status_code == 302 and response.headers["Location"].startswith(f"{reverse('login')}?next="):
        return "no"
    assert response.status_code < 500, response.content
    return "hidden" if response.status_code == 404 else "yes"


def patterns(entries: list[Any], before: str = "") -> Iterator[tuple[str, URLPattern]]:
    for entry in entries:
        route = before + str(entry.pattern)
        if isinstance(entry, URLResolver):
            if entry.namespace != "admin":
                yield from patterns(entry.url_patterns, route)
        else:
            yield route, entry


OBJECT = re.compile("<int:pk>|<uuid:run>")
SERVED = dict(patterns(get_resolver().url_patterns))


def test_one_address_alone_takes_a_file() -> None:
    """Programs send JSON; the bytes of a file arrive as pieces of an upload, and no form has a field for a file."""
    views = {route: getattr(entry.callback, "cls", None) for route, entry in SERVED.items()}
    kinds = {route: {one.media_type for one in getattr(view, "parser_classes", ())} for route, view in views.items()}
    others = {route.removesuffix("/"): kind for route, kind in kinds.items() if not kind <= {"application/json"}}
    assert others == {"api/lora/uploads/<slug:key>/files/<int:index>": {"application/octet-stream"}}
    assert not [field for model in apps.get_models() for field in model._meta.fields if isinstance(field, FileField)]


def classified(route: str) -> dict[str, str]:
    return ROUTES.get(route, ROUTES.get(route.removesuffix("/"), {}))


@pytest.fixture
def world(
    owner: User,
    outsider: User,
    operator: User,
    admin: User,
    registry: SimpleNamespace,  # noqa: F811
    manager: ModelManager,  # noqa: F811
) -> Iterator[SimpleNamespace]:
    """Everybody, a registry, and a fake engine."""
    Scan.objects.create(state=ScanState.DONE)
    people = {user.username: user for user in (owner, outsider, operator, admin)}
    yield SimpleNamespace(people=people, registry=registry, made=0, sessions={})
    ledger.flush()


def client_of(world: SimpleNamespace, actor: Actor, csrf: bool = False) -> APIClient:
    client = APIClient(enforce_csrf_checks=csrf)
    if actor.scopes is not None:
        secret = issue_token(world.people[actor.name], "t", actor.scopes)[1]
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    elif actor != ANONYMOUS:
        session = world.sessions.get(actor.name)
        if Session.objects.filter(pk=session).exists():  # no call has ended it
            client.cookies[settings.SESSION_COOKIE_NAME] = session
        else:
            client.force_login(world.people[actor.name])
            world.sessions[actor.name] = client.session.session_key
    return client


def address(world: SimpleNamespace, route: str) -> str:
    """The route with a fresh object of `owner` in it, since the call may end the object."""
    world.made += 1
    name = f"thing{world.made}"
    owner = world.people["owner"]
    if "<int:pk>" in route:
        if route.startswith("people/"):
            pk = User.objects.create(username=name).pk
        elif route.startswith("tokens/"):
            pk = issue_token(owner, name)[0].pk
        elif "assistants/" in route:
            pk = Assistant.objects.create(owner=owner, name=name, target="pirate").pk
        elif "evaluations/" in route:
            prompts = sets.create(owner, name, items=[read_item({"prompt": "ahoy"})])
            pk = prompts.pk
            if "parity/" in route:
                pk = Parity.objects.create(owner=owner, version=sets.version_of(prompts), slug="pirate", name=name).pk
            if "gates/" in route:
                pk = Gate.objects.create(owner=owner, kind=Family.TAG, name=name, prompts=prompts, least=0.5).pk
            if "runs/" in route or "head-to-head/" in route:
                run = Run.objects.create(owner=owner, version=sets.version_of(prompts))
                pk = run.pk if "runs/" in route else Duel.objects.create(run=run, name=name).pk
        elif "lora/merges/" in route:
            pk = Merge.objects.create(adapter_name=name, slug=name, digest="d" * 64, folder=name).pk
        elif "prompts/" in route:
            pk = SavedPrompt.objects.create(owner=owner, name=name, system="Be brief.").pk
        elif "chat/" in route:
            pk = Conversation.objects.create(user=owner, title=name).pk
        else:
            pk = LoraAdapter.objects.create(
                name=name, slug=name, path_hash=name, base=world.registry.base, status=Status.ACTIVE, digest="d" * 64
            ).pk
        route = route.replace("<int:pk>", str(pk))
    if "<uuid:run>" in route:
        vote = Vote.objects.create(user=owner, run=uuid4(), verdict=Verdict.TIE, prompt=name, size=2)
        route = route.replace("<uuid:run>", str(vote.run))
    if "<uuid:share>" in route:
        shared = Conversation.objects.create(user=owner, title=name, share=uuid4())
        route = route.replace("<uuid:share>", str(shared.share))
    route = route.replace("<str:model>", "pirate").replace("<str:uidb64>/<str:token>", "MQ/abc-def")
    route = route.replace("<str:name>", "config.json")
    route = route.replace("<slug:key>", "0" * 32).replace("<int:index>", "0")
    return "/" + route.replace("<int:number>", "1")


def call(client: APIClient, method: str, url: str) -> Any:
    body = "{}" if method in ("POST", "PATCH", "PUT") else ""
    kind = "application/octet-stream" if "/uploads/" in url and method == "PUT" else "application/json"
    return client.generic(method, url, body, content_type=kind)


@pytest.mark.parametrize("route", sorted(SERVED))
def test_every_address(world: SimpleNamespace, route: str) -> None:
    rules = classified(route)
    assert rules, f"{route} is new: say in ROUTES who may call it"
    view = getattr(SERVED[route].callback, "view_class", None) or getattr(SERVED[route].callback, "cls", None)
    if view is not None and set(rules.values()) != {PUBLIC}:
        methods = {method.upper() for method in view.http_method_names if hasattr(view, method)}
        assert methods - {"HEAD", "OPTIONS"} == set(rules)
    wrong = []
    readers = {actor: client_of(world, actor) for actor in ACTORS} if "GET" in rules else {}
    unchanged = address(world, route)
    for method, rule in rules.items():
        for actor in ACTORS:
            if method == "GET":  # ends neither an object nor a session
                response = call(readers[actor], method, unchanged)
            else:
                response = call(client_of(world, actor), method, address(world, route))
            if outcome(response) != expected(rule, actor):
                wrong.append((method, actor, expected(rule, actor), response.status_code))
    assert not wrong


@pytest.mark.parametrize("route", sorted(SERVED))
def test_every_change_by_a_session_needs_the_csrf_token(world: SimpleNamespace, route: str) -> None:
    for method in classified(route):
        if method != "GET":
            response = call(client_of(world, Actor("admin"), csrf=True), method, address(world, route))
            assert response.status_code == 403, method


@pytest.mark.parametrize("route", sorted(route for route in SERVED if OBJECT.search(route)))
def test_unknown_and_forbidden_look_alike(world: SimpleNamespace, route: str) -> None:
    for method, rule in classified(route).items():
        if rule in (OWN, OWN_PAGE):
            client = client_of(world, Actor("outsider"))
            forbidden = call(client, method, address(world, route))
            nothing = route.replace("<int:pk>", "999999").replace("<uuid:run>", str(uuid4()))
            nothing = nothing.replace("<int:number>", "1")
            unknown = call(client, method, "/" + nothing)
            assert (forbidden.status_code, unknown.status_code) == (404, 404)
            if route.startswith("api/"):
                assert forbidden.content == unknown.content


def test_no_classification_is_left_over() -> None:
    served = {route.removesuffix("/") for route in SERVED}
    later = {"styleguide"}  # not in every build
    assert {route.removesuffix("/") for route in ROUTES} - served <= later


def test_the_admin_is_for_operators(world: SimpleNamespace) -> None:
    # Its models are Django's own permissions; here only that nobody else gets a foot in.
    for _pattern in django_admin.site.get_urls():
        for actor in (ANONYMOUS, Actor("owner"), Actor("operator", ("operate",))):
            if "<" not in str(_pattern.pattern) and str(_pattern.pattern) not in ("login/", "logout/"):
                response = client_of(world, actor).get(f"/admin/{_pattern.pattern}")
                assert response.status_code in (302, 403, 404), _pattern.pattern
                assert "login" in response.headers.get("Location", "login")


# Frames


def frame_types() -> set[str]:
    kinds = (frames.Generate, frames.Stop, frames.Ack)
    return {get_args(get_type_hints(kind)["type"])[0] for kind in kinds}


def test_every_frame_is_classified() -> None:
    assert frame_types() == set(FRAMES)


async def open_socket(
    headers: list[tuple[bytes, bytes]], consumer: Any = GenerateConsumer, path: str = "/ws/generate"
) -> WebsocketCommunicator | None:
    application = AuthMiddleware(consumer.as_asgi())
    socket = WebsocketCommunicator(application, path, headers=[(b"host", b"localhost"), *headers])
    opened, _code = await socket.connect()
    return socket if opened else None


def ask(prompt: str) -> dict[str, Any]:
    return {"type": "generate", "id": "g", "targets": ["pirate"], "prompt": prompt}


@pytest.fixture
def bearer(world: SimpleNamespace) -> Callable[[Actor], list[tuple[bytes, bytes]]]:
    secrets = {actor: issue_token(world.people[actor.name], "t", actor.scopes)[1] for actor in ACTORS if actor.scopes}
    return lambda actor: [(b"authorization", f"Bearer {secrets[actor]}".encode())] if actor.scopes else []


async def test_generate_frames(bearer: Callable[[Actor], list[tuple[bytes, bytes]]]) -> None:
    assert await open_socket([]) is None
    for actor in ACTORS:
        if not actor.scopes:
            continue
        socket = await open_socket(bearer(actor))
        assert socket is not None
        await socket.send_json_to(ask("ahoy"))
        frame = await socket.receive_json_from(10)
        refused = frame["type"] == "error" and frame["status"] == 403
        assert refused == (expected(FRAMES["generate"], actor) == "no"), actor
        await socket.disconnect()


async def test_stop_and_ack_reach_ones_own_answers_only(bearer: Callable[[Actor], list[tuple[bytes, bytes]]]) -> None:
    mine, theirs = await open_socket(bearer(ACTORS[5])), await open_socket(bearer(ACTORS[6]))
    assert mine is not None and theirs is not None
    await mine.send_json_to(ask("hang"))
    while (await mine.receive_json_from(10))["type"] != "token":
        pass
    for kind in ("stop", "ack"):
        await theirs.send_json_to({"type": kind, "id": "g", "index": 0})
    await theirs.send_json_to(ask("ahoy"))  # answered, so the frames before it have been dealt with
    while (frame := await theirs.receive_json_from(10))["type"] != "done":
        pass
    assert frame["finish_reason"] == "stop"
    assert (await mine.receive_json_from(10))["type"] == "token"
    for socket in (mine, theirs):
        await socket.disconnect()


def test_every_chat_frame_is_classified() -> None:
    assert set(FRAME_TYPES) == set(CHAT_FRAMES)


@database_sync_to_async
def owners_answer(world: SimpleNamespace) -> dict[str, Any]:
    """The fields of a frame about a conversation of `owner`, with a question and its answer."""
    conversation = Conversation.objects.create(user=world.people["owner"], title="mine")
    question, answer = flows.ask(conversation, None, "ahoy", "pirate", "pirate")
    type(answer).objects.filter(pk=answer.pk).update(state=State.DONE, content="arr")
    return {
        "conversation": conversation.pk,
        "message": answer.pk,
        "content": "and?",
        "target": "pirate",
        "of": question.pk,
    }


@pytest.mark.parametrize("kind", sorted(CHAT_FRAMES))
async def test_chat_frames(
    kind: str, world: SimpleNamespace, bearer: Callable[[Actor], list[tuple[bytes, bytes]]]
) -> None:
    assert await open_socket([], ChatConsumer, "/ws/chat") is None
    for actor in ACTORS:
        if not actor.scopes:
            continue
        socket = await open_socket(bearer(actor), ChatConsumer, "/ws/chat")
        rule = expected(CHAT_FRAMES[kind], actor)
        if socket is None:
            assert rule == "no", actor
            continue
        thing = await owners_answer(world)
        frame = {**thing, "type": kind, "id": "f", "message": thing["of"] if kind == "again" else thing["message"]}
        await socket.send_json_to(frame)
        if kind == "stop":
            await socket.send_json_to({"type": "nonsense", "id": "after"})  # a stop has no answer of its own
        answer = await socket.receive_json_from(10)
        hidden = answer["type"] == "error" and answer["code"] == "not_found"
        assert hidden == (rule == "hidden"), (actor, answer)
        await socket.disconnect()
