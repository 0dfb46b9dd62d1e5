"""What is published stays as long as somebody uses it, goes when nobody wants it, and is kept sound."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from channels.db import database_sync_to_async
from django.core.management import call_command
from django.core.management.base import CommandError
from django.utils import timezone, translation

from adapters import services
from adapters.discovery.periodic_scan import StoreWatcher
from adapters.files import partials
from adapters.leases import HeldLease, adapter_lock
from adapters.models import LoraAdapter
from adapters.places import open_root
from adapters.processes import own_name
from adapters.recovery import recover
from inference import published
from inference.errors import sentence
from inference.gateway.targets import of_adapter
from inference.manager import set_manager
from inference.models import AdapterUse
from inference.uses import SharedUses, forget_dead, used_elsewhere
from tests.fixtures.portal import wait_for

from .fleet import fleet_manager, question

pytestmark = pytest.mark.django_db(transaction=True)
ORPHAN = "e" * 64


@pytest.fixture
def adapter(fleet: SimpleNamespace) -> LoraAdapter:
    """Active, and published."""
    return services.activate(LoraAdapter.objects.get(name="one").pk, None)


def called(command: str, **options: Any) -> str:
    call_command(command, stdout=(said := io.StringIO()), **options)
    return said.getvalue()


def orphan(fleet: SimpleNamespace, adapter: LoraAdapter, name: str = ORPHAN) -> Path:
    """As a kill leaves it between publishing and activation, or a deactivation whose portal ended meanwhile."""
    return Path(shutil.copytree(fleet.folder / adapter.digest, fleet.folder / name))


def used_by_another(digest: str) -> AdapterUse:
    until = timezone.now() + timedelta(seconds=60)
    return AdapterUse.objects.create(digest=digest, process="elsewhere - - 1 1", expires_at=until)


def test_clean_store_sweeps_it(fleet: SimpleNamespace, adapter: LoraAdapter) -> None:
    left = orphan(fleet, adapter)
    half = fleet.folder / f"{partials.PREFIX}{partials.machine()}-1"
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"half")
    (fleet.folder / "somebody's").mkdir()
    said = called("clean_store", dry_run=True)
    assert "2 folders" in said and ORPHAN in said and left.exists() and half.exists()
    with open_root(os.path.realpath(fleet.folder)) as shelf, partials.partial(shelf, "weights") as (mine, _file):
        assert "2 folders" in called("clean_store")
        assert mine.name in os.listdir(fleet.folder), "somebody is publishing it"
    assert sorted(os.listdir(fleet.folder)) == sorted([adapter.digest, "somebody's"])
    fleet.server.loaded.append(ORPHAN)
    orphan(fleet, adapter)
    recover()  # a start does the same
    assert not left.exists() and ORPHAN in fleet.server.unloaded


def test_what_is_just_being_activated_stays(fleet: SimpleNamespace, adapter: LoraAdapter) -> None:
    left = orphan(fleet, adapter)
    with HeldLease(adapter_lock(4711)):
        assert services.sweep_published() == [] and left.exists()
    assert [gone.name for gone in services.sweep_published()] == [ORPHAN]


def test_what_another_portal_uses_stays(fleet: SimpleNamespace, adapter: LoraAdapter) -> None:
    use = used_by_another(adapter.digest)
    assert published.used(adapter.digest) and not published.wait_unused(adapter.digest, 0.0)
    services.deactivate(adapter.pk, None)
    StoreWatcher(60).look()
    assert (fleet.folder / adapter.digest).is_dir() and not fleet.server.unloaded
    use.delete()
    StoreWatcher(60).look()
    assert not (fleet.folder / adapter.digest).exists() and fleet.server.unloaded == [adapter.digest]


async def test_a_portal_waits_for_the_others_requests(fleet: SimpleNamespace, adapter: LoraAdapter) -> None:
    manager = fleet_manager(fleet.folder, fleet.server.url, uses=SharedUses())
    before = set_manager(manager)
    folder = fleet.folder / adapter.digest
    try:
        use = await database_sync_to_async(used_by_another)(adapter.digest)
        manager.release(adapter.digest)
        wait_for(lambda: manager.backend.snapshot()["in_flight"] == 1, what="the withdrawal's begin")
        assert not await database_sync_to_async(published.wait_unused)(adapter.digest, 0.3)
        assert folder.is_dir()
        await database_sync_to_async(use.delete)()
        wait_for(lambda: not folder.exists(), what="the withdrawal")
    finally:
        set_manager(before)
        manager.close()


async def test_others_see_a_request_while_it_runs(
    fleet: SimpleNamespace, adapter: LoraAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.backends.fleet.backend.LINGERING", 0.01)
    monkeypatch.setattr("inference.backends.fleet.backend.RENEWING", 0.05)  # (SQLite in memory refuses the second)
    manager = fleet_manager(fleet.folder, fleet.server.url, uses=SharedUses())
    target = await database_sync_to_async(of_adapter)(adapter)
    rows = AdapterUse.objects.filter(digest=adapter.digest)
    try:
        async with await manager.generate(question(target.base, "hang", target.adapter)) as stream:
            async for event in stream:
                if event["type"] == "token":
                    break
            assert [row.process async for row in rows] == [own_name()]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("inference.uses.own_name", lambda: "another")
                assert await database_sync_to_async(used_elsewhere)(adapter.digest)
        await gone(rows)
    finally:
        manager.close()


async def gone(rows: Any) -> None:
    async with asyncio.timeout(10):
        while await rows.all().aexists():  # (not what was read of it before)
            await asyncio.sleep(0.1)


def test_requests_that_follow_each_other_cost_no_statement(django_assert_num_queries: Any, db: None) -> None:
    uses = SharedUses()
    assert uses.begin("a")
    uses.write("a")
    with django_assert_num_queries(0):
        assert not uses.end("a") or not uses.begin("a")
        uses.end("a")
    AdapterUse.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert forget_dead() == 1 and not AdapterUse.objects.exists()


def test_check_store_reads_what_is_published(fleet: SimpleNamespace, adapter: LoraAdapter) -> None:
    weights = fleet.folder / adapter.digest / "adapter_model.safetensors"
    sound, looked = weights.read_bytes(), weights.stat()
    assert "intact" in called("check_store")
    weights.chmod(0o644)
    weights.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))  # as a disk loses a bit: the same size and time
    os.utime(weights, ns=(looked.st_atime_ns, looked.st_mtime_ns))
    with pytest.raises(CommandError, match="FLEET_DIR"):
        called("check_store", dry_run=True)
    assert "published again" in called("check_store") and weights.read_bytes() == sound
    config = fleet.folder / adapter.digest / "adapter_config.json"
    config.chmod(0o644)
    config.write_text(config.read_text().replace('"r": 4', '"r": 2'))
    assert services.check_published(thorough=False)[0].mended, "the periodic look sees what has changed"
    shutil.rmtree(fleet.folder / adapter.digest)
    assert services.check_published(thorough=False)[0].reason == "the copy is missing"
    assert weights.read_bytes() == sound and services.check_published() == []


def test_the_page_shows_the_effect_that_was_measured(
    fleet: SimpleNamespace, adapter: LoraAdapter, client: Any, admin_user: Any
) -> None:
    client.force_login(admin_user)
    page = client.get(f"/models/{adapter.pk}").content.decode()
    assert f'data-testid="effect">{adapter.promotion["probe"]["difference"]:.4f} nats' in page


def test_pages_and_lists_show_the_fleets_context(
    fleet: SimpleNamespace, adapter: LoraAdapter, client: Any, admin_user: Any
) -> None:
    manager = fleet_manager(fleet.folder, fleet.server.url)
    backend: Any = manager.backend
    fleet.server.context = 256  # its base could take 512
    client.force_login(admin_user)
    try:
        manager.look()
        wait_for(lambda: backend.watching.seen, what="a look at the fleet")
        assert 'data-context="256"' in client.get("/test").content.decode()
        listed = {model["id"]: model["max_model_len"] for model in client.get("/v1/models").json()["data"]}
        assert set(listed.values()) == {256} and adapter.slug in listed
    finally:
        manager.close()
    assert 'data-context="512"' in client.get("/test").content.decode(), "nobody knows it any more"


def test_reasons_are_translated() -> None:
    with translation.override("zh-hans"):
        said = sentence("fleet_answer_invalid", {"reason": "it is not JSON"})
        assert "JSON" in said and "it is" not in said
        assert "unloading" not in sentence("fleet_cannot", {"what": "unloading a base model"})
        assert "as it came" in sentence("fleet_answer_invalid", {"reason": "as it came"})
