"""What must hold for the app as a whole: documents are current, commands and the admin work, the watcher watches."""

from __future__ import annotations

import ast
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection
from django.test import Client
from django.utils import timezone, translation

from adapters import services
from adapters.bases import registry as bases
from adapters.discovery import periodic_scan, scanning
from adapters.failures import FAILURES, render
from adapters.management.commands import failure_codes
from adapters.models import AdapterEvent, BaseModel, LoraAdapter, Scan, ScanState
from adapters.tests import layouts as make
from tests.fixtures.portal import wait_for

APP = Path(__file__).resolve().parent.parent


def test_the_table_of_failure_codes_is_current() -> None:
    written = (django_settings.BASE_DIR / "docs" / "failure-codes.md").read_text(encoding="utf-8")
    assert written == failure_codes.document(), "run: python manage.py failure_codes > docs/failure-codes.md"


def raised_codes() -> set[str]:
    """Every code that the app's source passes to Refused or marks a failure with."""
    found = set()
    for path in APP.rglob("*.py"):
        if "tests" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                position = 1 if name == "mark_failed" else 0
                if name in {"Refused", "mark_failed"} and len(node.args) > position:
                    value = node.args[position]
                    if isinstance(value, ast.Constant) and isinstance(value.value, str):
                        found.add(value.value)
    return found


def test_every_code_that_is_raised_is_catalogued() -> None:
    codes = raised_codes()
    assert len(codes) > 30
    assert codes <= set(FAILURES)


def test_every_sentence_says_what_to_do() -> None:
    for code, failure in FAILURES.items():
        with translation.override("en"):
            text = render(code, {})
            assert str(failure.sentence).endswith((".", "s")) and len(str(failure.remedy)) > 8, code
            assert "%(" not in text
        with translation.override("zh-hans"):
            assert "。 " not in render(code, {}), code


def test_unknown_codes_are_shown_as_such() -> None:
    assert "from_the_future" in render("from_the_future", {})
    assert render("", {}) == ""


@pytest.mark.django_db(transaction=True)
def test_the_watcher_scans_by_itself(registry: Path) -> None:
    make.adapter(registry / "one")
    made = periodic_scan.PeriodicScan(3600.0)
    made.start()
    wait_for(lambda: made.scans, what="the scan at the start")
    made.stop()
    assert LoraAdapter.objects.count() == 1


@pytest.mark.django_db
def test_what_was_scanned_a_moment_ago_is_not_scanned_again(registry: Path, operator: Any) -> None:
    scanning.scan(operator)
    made = periodic_scan.PeriodicScan(60.0)
    made.work()
    assert Scan.objects.count() == 1
    Scan.objects.update(started_at=timezone.now() - timedelta(seconds=31))
    made.work()
    assert Scan.objects.count() == 2


@pytest.mark.django_db
@pytest.mark.parametrize("state", [ScanState.RUNNING, ScanState.FAILED])
def test_a_scan_that_did_not_end_is_done_again_at_once(registry: Path, state: str) -> None:
    Scan.objects.create(state=state)  # its process was killed
    periodic_scan.PeriodicScan(60.0).work()
    assert Scan.objects.filter(state=ScanState.DONE).count() == 1


@pytest.mark.django_db
def test_scans_that_found_nothing_new_leave_no_rows(registry: Path, operator: Any) -> None:
    make.adapter(registry / "one")
    for actor in (None, None, None, operator, None):
        scanning.scan(actor)
    kept = Scan.objects.order_by("pk").values_list("new", "actor")
    assert list(kept) == [(1, None), (0, operator.pk), (0, None)]


@pytest.mark.django_db(transaction=True)
def test_the_watcher_survives_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    made = periodic_scan.PeriodicScan(0.001)
    enough = threading.Event()
    calls: list[int] = []

    def broken(actor: Any) -> None:
        calls.append(1)
        if len(calls) >= 3:
            enough.set()
        raise OSError("the disk is away")

    monkeypatch.setattr(scanning, "scan", broken)
    made.start()
    assert enough.wait(10)
    made.stop()
    assert len(calls) >= 3


def test_no_watcher_unless_asked_for(settings: Any) -> None:
    settings.SCAN_INTERVAL = 0
    assert periodic_scan.start() is None


@pytest.fixture
def admin_client(db: None) -> Client:
    from django.contrib.auth import get_user_model

    user = get_user_model().objects.create_superuser("root", password="x")  # type: ignore[attr-defined]
    client = Client()
    client.force_login(user)
    return client


def act(client: Client, action: str, *rows: LoraAdapter) -> list[str]:
    body = {"action": action, "_selected_action": [row.pk for row in rows]}
    answer = client.post("/admin/adapters/loraadapter/", body, follow=True)
    assert answer.status_code == 200
    return [str(message) for message in answer.context["messages"]]


def test_admin_actions_tell_each_row(registry: Path, admin_client: Client) -> None:
    make.adapter(registry / "good")
    make.adapter(registry / "zero", make.lora_tensors(b_fill=0.0))
    services.scan(None)
    good, zero = (LoraAdapter.objects.get(name=name) for name in ("good", "zero"))
    messages = act(admin_client, "activate", good, zero)
    assert any("good" in m and "active" in m for m in messages)
    assert any("zero" in m and "lora_B" in m for m in messages)
    good.refresh_from_db()
    assert good.status == "active"
    assert AdapterEvent.objects.get(adapter=good, kind="activated").actor_name == "root"
    act(admin_client, "deactivate", good)
    good.refresh_from_db()
    assert good.status == "discovered"
    make.adapter(registry / "third")
    act(admin_client, "scan_now", good)
    assert LoraAdapter.objects.filter(name="third").exists()


def test_admin_pages(registry: Path, admin_client: Client, django_assert_max_num_queries: Any) -> None:
    for number in range(30):
        make.adapter(registry / f"a{number}", seed=number)
    services.scan(None)
    adapter = LoraAdapter.objects.first()
    assert adapter is not None
    with django_assert_max_num_queries(14):
        page = admin_client.get("/admin/adapters/loraadapter/?q=a&status__exact=discovered")
    assert page.status_code == 200 and b"status-discovered" in page.content
    page = admin_client.get(f"/admin/adapters/loraadapter/{adapter.pk}/change/")
    assert b'name="status"' not in page.content  # shown, never a field
    assert b"discovered" in page.content
    for model in ("basemodel", "basemapping", "adapterevent", "scan", "tag"):
        assert admin_client.get(f"/admin/adapters/{model}/").status_code == 200
    assert admin_client.post(f"/admin/adapters/loraadapter/{adapter.pk}/delete/").status_code == 403


BASES = [
    ({"model.safetensors": None}, "base_weights_missing"),
    ({"model.safetensors": b"short"}, "base_weights_missing"),
    ({"config.json": None}, "base_config_missing"),
    ({"config.json": b"{"}, "config_malformed"),
    ({"tokenizer.json": None}, "base_tokenizer_missing"),
    ({"config.json": b'{"quantization_config": {"quant_method": "gptq"}}'}, "base_quantization_unsupported"),
]


@pytest.mark.django_db
@pytest.mark.parametrize(("changes", "code"), BASES, ids=lambda value: str(value)[:50])
def test_bases_that_are_not_whole(registry: Path, tmp_path: Path, changes: dict[str, bytes | None], code: str) -> None:
    folder = tmp_path / "models" / make.BASE_NAME
    for name, data in changes.items():
        if data is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(data)
    make.adapter(registry / "one")
    services.scan(None)
    base = BaseModel.objects.get()
    assert (base.problem_code, base.usable) == (code, False)
    assert base.problem_message
    assert LoraAdapter.objects.get().failure_code == "base_broken"


@pytest.mark.django_db
def test_bases_of_all_places(registry: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    make.base_model(models / "org" / "Nested", shards=3)
    snapshot = models / "models--hub--Cached" / "snapshots" / "abc"
    make.base_model(snapshot)
    make.adapter(registry / "a", base_model_name_or_path="org/Nested")
    make.adapter(registry / "b", base_model_name_or_path="hub/Cached")
    make.adapter(registry / "c", base_model_name_or_path=None)
    (registry / "c" / "config.json").write_text((models / make.BASE_NAME / "config.json").read_text())
    services.scan(None)
    found = {b.name: b for b in BaseModel.objects.all()}
    assert {name: b.hub_id for name, b in found.items()} == {
        make.BASE_NAME: "", "Nested": "org/Nested", "Cached": "hub/Cached",
    }  # fmt: skip
    assert found["Cached"].key == found[make.BASE_NAME].key != found["Nested"].key  # by content, not by place
    assert found["Nested"].parameters == found["Cached"].parameters > 1000
    bases = {a.name: a.base.name if a.base else None for a in LoraAdapter.objects.all()}
    assert bases["a"] == "Nested" and bases["b"] == "Cached"


@pytest.mark.django_db
def test_a_base_is_read_outside_of_a_transaction(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes seconds, and would keep everybody else from writing to SQLite."""
    read, within, real = [], len(connection.savepoint_ids), bases.read_shapes

    def noted(*args: Any) -> Any:
        read.append(len(connection.savepoint_ids))
        return real(*args)

    monkeypatch.setattr(bases, "read_shapes", noted)
    bases.refresh()
    assert read == [within] and BaseModel.objects.get().usable


@pytest.mark.django_db
def test_the_key_of_a_base_follows_its_weights(registry: Path, tmp_path: Path) -> None:
    services.scan(None)
    before = BaseModel.objects.get()
    path = tmp_path / "models" / make.BASE_NAME / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-300:] = bytes(300)
    path.write_bytes(data)
    services.scan(None)
    after = BaseModel.objects.get()
    assert before.key != after.key and before.config_hash == after.config_hash


DECIDING = [
    "chat_template.jinja", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.txt", "additional_chat_templates/default.jinja",
]  # fmt: skip


@pytest.mark.django_db
@pytest.mark.parametrize("name", DECIDING)
def test_whatever_decides_an_answer_is_in_the_key_of_a_base(registry: Path, tmp_path: Path, name: str) -> None:
    """Two folders that differ in one such file are two bases, and an edit of it is seen by the next scan."""
    for folder in (make.BASE_NAME, "Twin"):
        make.base_model(tmp_path / "models" / folder)
        file = tmp_path / "models" / folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text('{"chat_template": "one"}')
    services.scan(None)
    first, twin = BaseModel.objects.order_by("name")
    assert (first.name, twin.name, first.key) == (make.BASE_NAME, "Twin", twin.key)
    (tmp_path / "models" / "Twin" / name).write_text('{"chat_template": "two"}')
    services.scan(None)
    first, twin = BaseModel.objects.order_by("name")
    assert first.key != twin.key


@pytest.mark.django_db
def test_what_decides_nothing_is_not_in_the_key_of_a_base(registry: Path, tmp_path: Path) -> None:
    services.scan(None)
    before = BaseModel.objects.get()
    for name in ("README.md", "LICENSE.txt", "notes"):
        (tmp_path / "models" / make.BASE_NAME / name).write_text("something")
    services.scan(None)
    after = BaseModel.objects.get()
    assert (after.key, after.signature == before.signature) == (before.key, False)
