"""Somebody or a disk damages what a running portal serves from: no answer comes from other bytes, and it is told."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.clock import Clock
from tests.fixtures.damage import CONFIG, DAMAGES, WEIGHTS, flip, to_link
from tests.fixtures.models import TinyAdapter, write_tiny_adapter
from tests.fixtures.portal import Answer, Portal, make_old, running_portal, wait_for

pytestmark = pytest.mark.slow

FROM_OUTSIDE = ("flipped", "truncated", "config changed", "weights deleted", "folder deleted", "folder a link")


@dataclass
class Served:
    """One adapter of a running portal, active."""

    portal: Portal
    pk: int
    digest: str

    @property
    def copy(self) -> Path:
        return self.portal.var_dir / "store" / self.digest

    @property
    def folder(self) -> Path:
        return self.portal.var_dir / "adapters" / "first"

    def row(self) -> dict[str, Any]:
        row: dict[str, Any] = self.portal.api("GET", f"/api/lora/models/{self.pk}").json()
        return row

    def codes(self) -> list[str]:
        events = self.portal.api("GET", f"/api/lora/models/{self.pk}/events").json()["results"]
        return [event["code"] for event in events if event["code"]]

    def forget(self) -> None:
        """Out of the engine's memory, so that the next request reads the copy."""
        assert self.portal.api("POST", "/api/inference/unload").status == 200

    def ask(self) -> Answer:
        asked = {"prompt": "The quick brown", "max_tokens": 12, "temperature": 0, "ignore_eos": True}
        return self.portal.api("POST", f"/api/lora/models/{self.pk}/test", asked, timeout=120)

    def activate(self) -> Answer:
        return self.portal.api("POST", f"/api/lora/models/{self.pk}/activate")


def whole(served: Served) -> bool:
    """The copy is a folder with the two files that its training folder has."""
    return not served.copy.is_symlink() and all(
        (served.copy / name).is_file() and (served.copy / name).read_bytes() == (served.folder / name).read_bytes()
        for name in (CONFIG, WEIGHTS)
    )


def start(var_dir: Path, base: Path, **environment: str) -> Iterator[Served]:
    shutil.copytree(base, var_dir / "models" / "tiny-llama")
    make_old(write_tiny_adapter(var_dir / "adapters" / "first", TinyAdapter(seed=1)))
    with running_portal(var_dir, CHECK_BASES="false", **environment) as portal:
        assert portal.api("POST", "/api/lora/scan", {}).status == 200
        (row,) = portal.api("GET", "/api/lora/models").json()["results"]
        active = portal.api("POST", f"/api/lora/models/{row['id']}/activate").json()
        yield Served(portal, row["id"], active["digest"])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_base_model: Path) -> Iterator[Served]:
    """Without looks: only what reads a copy can find out about it."""
    yield from start(tmp_path_factory.mktemp("damaged") / "var", tiny_base_model, STORE_CHECK_INTERVAL="0")


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    """That of `watched`."""
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, tiny_base_model: Path, clock: Clock) -> Iterator[Served]:
    var_dir = tmp_path_factory.mktemp("watched") / "var"
    yield from start(var_dir, tiny_base_model, STORE_CHECK_INTERVAL="1", **clock.environment)


@pytest.fixture
def away(served: Served) -> Iterator[Callable[[], None]]:
    """Take the training folder away; it is back at the end, and the adapter active."""
    kept = served.portal.var_dir / "kept"

    def take() -> None:
        shutil.move(served.folder, kept)

    yield take
    if kept.exists():
        shutil.move(kept, served.folder)
    assert served.activate().status == 200


@pytest.mark.parametrize("damage", FROM_OUTSIDE)
def test_the_next_request_is_answered_as_before(served: Served, damage: str) -> None:
    before = served.ask().json()["response"]
    told = len(served.codes())
    served.forget()
    DAMAGES[damage](served.copy)
    answer = served.ask()
    assert (answer.status, answer.json()["response"]) == (200, before)
    assert whole(served) and served.row()["status"] == "active"
    assert served.codes()[0] == "store_mended" and len(served.codes()) == told + 1


@pytest.mark.parametrize("damage", FROM_OUTSIDE)
def test_what_cannot_be_mended_is_told_and_served_no_more(
    served: Served, damage: str, away: Callable[[], None]
) -> None:
    served.forget()
    away()
    DAMAGES[damage](served.copy)
    first = served.ask()
    assert (first.status, first.json()["error"]["code"]) == (409, "store_damaged")
    code = "store_lost" if damage == "folder deleted" else "store_damaged"
    row = served.row()
    assert (row["status"], row["failure"]["code"], served.codes()[0]) == ("failed", code, code)
    again = served.ask()
    assert (again.status, again.json()["error"]["code"]) == (409, "adapter_inactive")
    slugs = [model["id"] for model in served.portal.api("GET", "/v1/models").json()["data"]]
    assert row["slug"] not in slugs and served.portal.call("GET", "/readyz").status == 200


def test_activating_again_makes_it_whole(served: Served) -> None:
    before = served.ask().json()["response"]
    served.forget()
    flip(served.copy / WEIGHTS)
    assert served.activate().json()["digest"] == served.digest
    assert whole(served)
    assert served.ask().json()["response"] == before


def test_check_store_tells_and_mends(served: Served) -> None:
    flip(served.copy / WEIGHTS, keep_times=True)
    with pytest.raises(AssertionError, match="1 of 1"):
        served.portal.manage("check_store", "--dry-run")
    assert not whole(served)
    assert served.digest in served.portal.manage("check_store")
    assert whole(served)


def model_of(served: Served) -> str:
    return str(served.row()["base"]["slug"])


def ask_base(served: Served) -> Answer:
    asked = {"model": model_of(served), "prompt": "The quick brown", "max_tokens": 12, "temperature": 0}
    return served.portal.api("POST", "/v1/completions", asked, timeout=120)


def test_a_base_with_another_time_is_the_same_base(served: Served) -> None:
    served.forget()
    weights = served.portal.var_dir / "models" / "tiny-llama" / "model.safetensors"
    before = ask_base(served).json()["choices"][0]["text"]
    served.forget()
    os.utime(weights)
    assert ask_base(served).json()["choices"][0]["text"] == before


@pytest.mark.parametrize("how", ["in place", "by another file"])
def test_a_base_with_other_bytes_is_not_served_as_the_one_before(served: Served, how: str) -> None:
    served.forget()
    weights = served.portal.var_dir / "models" / "tiny-llama" / "model.safetensors"
    times = weights.stat()
    other = weights.with_name("other")
    shutil.copyfile(weights, other)
    for at in range(1000, weights.stat().st_size // 2, 5000):
        flip(other, -at)
    if how == "in place":
        weights.write_bytes(other.read_bytes())
        other.unlink()
        os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    else:
        os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
        os.replace(other, weights)
    refused = ask_base(served)
    assert (refused.status, refused.json()["error"]["code"]) == (503, "base_changed")
    assert int(refused.headers["Retry-After"]) > 0
    assert ask_base(served).status == 200


def test_a_look_finds_what_nobody_asks_for(watched: Served) -> None:
    for damage in (lambda: flip(watched.copy / WEIGHTS), lambda: to_link(watched.copy)):
        damage()
        wait_for(lambda: whole(watched), 60, "the copy to be made again")
        assert watched.row()["status"] == "active"
    kept = watched.portal.var_dir / "kept"
    shutil.move(watched.folder, kept)
    os.truncate(watched.copy / WEIGHTS, 100)
    wait_for(lambda: watched.row()["status"] == "failed", 60, "the adapter to fail")
    assert watched.row()["failure"]["code"] == "store_damaged" and watched.ask().status == 409
    shutil.move(kept, watched.folder)
    assert watched.activate().status == 200 and whole(watched)


def test_damage_done_while_the_portal_is_off_is_found_at_its_start(watched: Served, clock: Clock) -> None:
    assert watched.ask().status == 200 and watched.portal.worker_pid is not None
    with clock.standing():  # with its engine it ends in order, and waits for no time to pass
        assert watched.portal.stop() == 0
    shutil.rmtree(watched.copy)
    watched.portal.start()
    wait_for(lambda: whole(watched), 60, "the copy to be made again")
    assert watched.row()["status"] == "active"
