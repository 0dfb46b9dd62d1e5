"""`/api/lora/imports`: an adapter by name from a hub, pinned to its commit, compared with what the hub says it is."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from adapters import jobs, leases, services
from adapters.hub import fetching, hosts, importing, names, reaching
from adapters.leases import HeldLease
from adapters.models import AdapterEvent, EventKind, HubImport, JobState, LoraAdapter
from adapters.recovery import recover
from adapters.tests import layouts as make
from adapters.tests.test_uploads import files_of
from adapters.uploads.arriving import ARRIVING
from common import outbound
from tests.fixtures.hub import FakeHub, Repo
from tests.fixtures.portal import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
URL = "/api/lora/imports"
NAME = "ada/pirate-lora"
OTHER = {
    ".gitattributes": b"*.safetensors filter=lfs", "adapter_model.bin": b"x" * 50, "train.py": b"import os",
    "training_args.bin": b"x", "model-00001-of-00002.safetensors": b"x" * 5000, "data/train.json": b"[]",
}  # fmt: skip


@pytest.fixture(name="uploads")
def uploads_of_jobs(uploads: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(fetching, "PAUSES", (0.0, 0.0))
    yield uploads
    jobs.wait()


@pytest.fixture
def repo(hub: FakeHub, tmp_path: Path) -> Repo:
    """An adapter of the hub, with what repositories hold besides."""
    folder = make.adapter(tmp_path / "elsewhere" / "pirate")
    files = {path.rpartition("/")[2]: data for path, data in files_of(folder).items()}
    files["tokenizer_config.json"] = b'{"chat_template": "{{ messages }}"}'
    hub.repos[NAME] = Repo(files | OTHER, revisions={"main", "v1.0", "feature/x"})
    return hub.repos[NAME]


def taken(repo: Repo) -> dict[str, bytes]:
    """The files that an import fetches."""
    return {path: data for path, data in repo.files.items() if path not in OTHER}


def size_of(repo: Repo) -> int:
    return sum(len(data) for data in taken(repo).values())


def begin(op: Client, repo: str = NAME, **more: Any) -> Any:
    return op.post(URL, {"repo": repo, **more}, content_type="application/json")


def imported(op: Client, repo: str = NAME, **more: Any) -> dict[str, Any]:
    """The import once it has ended."""
    answer = begin(op, repo, **more)
    assert answer.status_code == 202, answer.content
    jobs.wait()
    found: dict[str, Any] = op.get(f"{URL}/{answer.json()['id']}").json()
    return found


def code_of(found: dict[str, Any]) -> str:
    assert found["state"] == "failed"
    return str(found["failure"]["code"])


def error(answer: Any) -> tuple[int, str, str | None]:
    body = answer.json()["error"]
    return answer.status_code, body["code"], body["param"]


def left(uploads: Path) -> list[str]:
    return os.listdir(uploads / ARRIVING) if (uploads / ARRIVING).exists() else []


def test_an_adapter_is_imported_by_name_and_activated(
    uploads: Path, op: Client, operator: User, hub: FakeHub, repo: Repo
) -> None:
    found = imported(op)
    assert (found["state"], found["failure"], found["progress"]) == ("done", None, 1.0)
    kept, size = taken(repo), size_of(repo)
    assert (found["commit"], found["files"]) == (repo.commit, len(kept))
    assert found["size_bytes"] == found["received_bytes"] == size
    assert found["folder"] == f"{operator.pk}/pirate-lora"
    assert {path.partition("/")[2]: data for path, data in files_of(uploads / found["folder"]).items()} == kept
    (adapter,) = LoraAdapter.objects.all()
    assert found["adapters"] == [{"id": adapter.pk, "name": "pirate-lora"}]
    origin = {"hub": hosts.hub_name(), "repo": NAME, "revision": "main", "commit": repo.commit}
    assert adapter.origin == origin
    event = AdapterEvent.objects.get(kind=EventKind.IMPORTED)
    assert (event.adapter, event.actor, event.details) == (adapter, operator, origin)
    assert services.activate(adapter.pk, operator).status == "active"
    assert left(uploads) == [] and op.get("/api/lora/uploads").json()["results"] == []
    asked = [came.path for came in hub.server.came]
    assert asked[0] == f"/api/models/{NAME}/revision/main"
    assert all(path.startswith(f"/{NAME}/resolve/{repo.commit}/") for path in asked[1:]) and len(asked) == 1 + len(kept)
    # Once the files are others, nobody claims any more that they are that commit's.
    (uploads / found["folder"] / "adapter_config.json").write_bytes(kept["adapter_config.json"] + b"\n")
    services.scan(None)
    adapter.refresh_from_db()
    assert adapter.origin == {}


def test_a_tag_and_a_renamed_repository(uploads: Path, op: Client, hub: FakeHub, repo: Repo) -> None:
    hub.renamed["ada/old-name"] = NAME
    hub.repos["ada/old-name"] = repo  # (files are asked for by the name that was given)
    assert imported(op, "ada/old-name", revision="v1.0")["commit"] == repo.commit
    assert imported(op, revision="feature/x")["state"] == "done"
    assert imported(op, revision=repo.commit)["folder"].endswith("pirate-lora-2")


def test_it_is_off_by_default(uploads: Path, op: Client, hub: FakeHub, repo: Repo, settings: Any) -> None:
    settings.HUB_IMPORT = False
    assert error(begin(op)) == (409, "import_off", None)
    page = op.get("/models").content.decode()
    assert "HUB_IMPORT=true" in page and "import-repo" not in page
    assert not hub.server.came and not HubImport.objects.exists()


BAD_REPOS = (
    "pirate", "a/b/c", "../etc", "ada/..", "ada/.hidden", "ada/a..b", "ada/a--b", "ada/x.git", "ada/", "/ada",
    "ada/a b", "ada/a?b", "ada/a#b", "ada/%2e%2e", "ada\\x", "ada/" + "x" * 97, "ада/x", "http://a/b", "ada@b/x",
)  # fmt: skip
BAD_REVISIONS = ("../x", "a..b", "/main", "main/", "a//b", "-x", "a b", "x?y", "a/.b", "x.lock", "x" * 201)


def test_names_of_repositories_and_revisions(hub: FakeHub, op: Client) -> None:
    for name in BAD_REPOS:
        assert error(begin(op, name)) == (400, "import_repo_invalid", "repo"), name
    for revision in BAD_REVISIONS:
        assert error(begin(op, revision=revision)) == (400, "import_revision_invalid", "revision"), revision
    assert not names.is_repo("ada/x\n") and not names.is_revision("main\n")
    assert names.is_repo(NAME) and names.is_revision("refs/pr/1") and names.is_revision("v1.0")
    assert not hub.server.came and not HubImport.objects.exists()


def test_why_the_hub_gives_nothing(uploads: Path, op: Client, hub: FakeHub, repo: Repo, settings: Any) -> None:
    assert code_of(imported(op, "ada/nobody")) in {"import_repo_not_found", "import_denied"}
    assert code_of(imported(op, revision="v9")) == "import_revision_not_found"
    repo.private = True
    assert code_of(imported(op)) == "import_denied"
    settings.HUB_TOKEN = hub.token
    assert code_of(imported(op, "ada/nobody")) == "import_repo_not_found"
    assert imported(op)["state"] == "done"
    repo.gated = True
    assert code_of(imported(op)) == "import_gated"
    for status, code in ((429, "import_rate_limited"), (503, "import_unreachable"), (403, "import_denied")):
        hub.status = status
        assert code_of(imported(op)) == code
    settings.HF_ENDPOINT = "http://127.0.0.1:1"
    assert code_of(imported(op)) == "import_unreachable"


def test_what_is_no_adapter(uploads: Path, op: Client, hub: FakeHub, repo: Repo) -> None:
    hub.repos["ada/base"] = Repo({"config.json": b"{}", "model.safetensors": b"x"})
    assert code_of(imported(op, "ada/base")) == "import_no_adapter"
    del repo.files["adapter_model.safetensors"]
    assert code_of(imported(op)) == "import_pickle"
    del repo.files["adapter_model.bin"]
    assert code_of(imported(op)) == "import_no_adapter"
    assert not hub.files.came and not LoraAdapter.objects.exists() and left(uploads) == []


def test_room_is_looked_at_before_a_file_is_fetched(
    uploads: Path, op: Client, hub: FakeHub, repo: Repo, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = size_of(repo)
    settings.UPLOAD_MAX_BYTES = size - 1
    found = imported(op)
    assert (code_of(found), found["size_bytes"]) == ("import_too_large", size)
    settings.UPLOAD_MAX_BYTES = size
    settings.UPLOAD_QUOTA_BYTES = 2 * size - 1
    with monkeypatch.context() as patch:
        patch.setattr("adapters.uploads.arriving.RESERVE", 2**60)
        assert code_of(imported(op)) == "import_no_space"
    assert not hub.files.came and len({came.path for came in hub.server.came}) == 1

    def full(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fetching.os, "pwrite", full)
        assert code_of(imported(op)) == "import_no_space" and left(uploads) == []
    assert imported(op)["state"] == "done"
    assert code_of(imported(op)) == "import_quota"


def test_what_is_not_what_the_hub_says_it_is(uploads: Path, op: Client, hub: FakeHub, repo: Repo) -> None:
    hub.wrong = True
    found = imported(op)
    assert code_of(found) == "import_digest" and "adapter_model.safetensors" in found["failure"]["message"]
    assert left(uploads) == [] and not LoraAdapter.objects.exists()


def test_a_small_file_is_compared_too(
    uploads: Path, op: Client, hub: FakeHub, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = repo.described(NAME)
    described["siblings"][0]["blobId"] = "0" * 40
    monkeypatch.setattr(Repo, "described", lambda self, name: described)
    assert code_of(imported(op)) == "import_digest"


@pytest.mark.parametrize(
    "change", [{"sha": "main"}, {"siblings": [{"rfilename": "adapter_config.json"}]}, {"siblings": 3}]
)
def test_an_answer_that_is_not_understood(
    change: dict[str, Any], uploads: Path, op: Client, hub: FakeHub, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = repo.described(NAME) | change
    monkeypatch.setattr(Repo, "described", lambda self, name: described)
    assert code_of(imported(op)) == "import_bad_answer"


def test_an_answer_without_end_is_cut_off(
    uploads: Path, op: Client, hub: FakeHub, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaching, "CALL_BYTES", 100)
    assert code_of(imported(op)) == "import_bad_answer"


def test_the_token_goes_to_the_hub_alone_and_is_told_to_nobody(
    uploads: Path, op: Client, hub: FakeHub, repo: Repo, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.HUB_TOKEN = hub.token
    with caplog.at_level(logging.DEBUG):
        found = imported(op)
    assert found["state"] == "done"
    assert all(came.headers["Authorization"] == f"Bearer {hub.token}" for came in hub.server.came)
    assert hub.files.came and not any("Authorization" in came.headers for came in hub.files.came)
    assert {came.headers["User-Agent"] for came in hub.server.came} == {"lora-portal"}
    assert not any("Cookie" in came.headers for came in [*hub.server.came, *hub.files.came])
    assert hub.token not in caplog.text and hub.token not in repr(found)
    # Whatever the client says, what makes the connection tells it to no other host.
    with reaching.client() as client:
        client.get(hub.files.url + hub.files.came[0].path, headers={"Authorization": f"Bearer {hub.token}"})
    assert "Authorization" not in hub.files.came[-1].headers


def test_a_redirect_leads_only_to_hosts_that_are_named(
    uploads: Path, op: Client, hub: FakeHub, repo: Repo, settings: Any
) -> None:
    settings.HUB_FILE_HOSTS = ["*.hf.co"]
    found = imported(op)
    assert code_of(found) == "import_redirected" and "127.0.0.1" in found["failure"]["message"]
    for target in (
        "http://169.254.169.254",
        "file:///etc",
        "https://hf.co",
        "http://cdn.hf.co",
        "https://hf.co.evil.example",
    ):
        hub.redirect = target
        assert code_of(imported(op)) == "import_redirected"
    assert not hub.files.came


def test_a_named_host_that_leads_to_a_private_address(
    uploads: Path, op: Client, hub: FakeHub, repo: Repo, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.HUB_PRIVATE_HOSTS = False
    assert code_of(imported(op)) == "import_private"
    assert not hub.server.came
    settings.HUB_PRIVATE_HOSTS = True
    settings.HUB_FILE_HOSTS = ["http://*.files.example"]
    hub.redirect = "http://cdn.files.example"
    real = outbound.socket.getaddrinfo

    def getaddrinfo(host: str, port: int, **more: Any) -> Any:
        return [(2, 1, 6, "", ("169.254.169.254", port))] if host == "cdn.files.example" else real(host, port, **more)

    monkeypatch.setattr(outbound.socket, "getaddrinfo", getaddrinfo)
    assert code_of(imported(op)) == "import_private"


def test_a_broken_connection_goes_on_where_it_ended(
    uploads: Path, op: Client, hub: FakeHub, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.cuts = [100, 200]
    assert imported(op)["state"] == "done"
    assert [came.headers.get("Range") for came in hub.files.came] == [None, "bytes=100-", "bytes=300-"]
    # Where it stays broken, what has arrived is kept, and the next import of the same commit begins there.
    hub.files.came.clear()
    repo.commit = "b2" * 20
    monkeypatch.setattr(fetching, "PAUSES", ())
    hub.cuts = [700]
    found = imported(op)
    assert code_of(found) == "import_unreachable" and len(left(uploads)) == 1
    assert op.get("/api/lora/uploads").json()["results"] == [], "it is no upload of a person's"
    assert op.delete(f"/api/lora/uploads/{left(uploads)[0]}").status_code == 404
    assert imported(op)["state"] == "done"
    assert [came.headers.get("Range") for came in hub.files.came] == [None, "bytes=700-"]
    # Who does not want it any more removes it, unless another one of the same goes on with it.
    repo.commit, hub.cuts = "c3" * 20, [700, 0]
    found, again = imported(op), imported(op)
    assert code_of(again) == "import_unreachable"
    assert op.delete(f"{URL}/{found['id']}").status_code == 204 and len(left(uploads)) == 1
    assert op.get(f"{URL}/{found['id']}").status_code == 404
    for row in op.get(URL).json()["results"]:
        assert op.delete(f"{URL}/{row['id']}").status_code == 204
    assert left(uploads) == [] and LoraAdapter.objects.count() == 2


def held(hub: FakeHub, op: Client) -> dict[str, Any]:
    """An import in the middle of its large file."""
    hub.hold_after = 500
    found: dict[str, Any] = begin(op).json()
    assert hub.holding.wait(30)
    return found


def test_it_is_cancelled(uploads: Path, op: Client, hub: FakeHub, repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "TOLD_EVERY", 0.0)
    found = held(hub, op)
    wait_for(lambda: op.get(f"{URL}/{found['id']}").json()["received_bytes"] >= 500)
    assert error(begin(op)) == (409, "import_running", None)
    assert op.delete(f"{URL}/{found['id']}").status_code == 202
    hub.release.set()
    jobs.wait()
    assert op.get(f"{URL}/{found['id']}").json()["state"] == "cancelled"
    assert left(uploads) == [] and not LoraAdapter.objects.exists()


def test_a_hub_that_falls_silent_is_left(
    uploads: Path, op: Client, hub: FakeHub, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaching, "READ_SECONDS", 0.2)
    monkeypatch.setattr(fetching, "PAUSES", ())
    held(hub, op)
    jobs.wait()
    assert not hub.release.is_set() and HubImport.objects.get().failure_code == "import_unreachable"


def test_an_import_has_an_end(
    uploads: Path, op: Client, hub: FakeHub, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "WHOLE_SECONDS", 0.0)
    assert code_of(imported(op)) == "import_too_long"


def test_few_run_at_once_and_few_are_begun(
    uploads: Path, op: Client, hub: FakeHub, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases_held = [HeldLease(HubImport(slot=slot).lease).__enter__() for slot in range(importing.AT_ONCE)]
    assert error(begin(op)) == (409, "imports_busy", None)
    leases_held[1].__exit__(None, None, None)
    assert imported(op)["state"] == "done"
    monkeypatch.setattr(importing, "PER_HOUR", 1)
    answer = begin(op)
    assert error(answer) == (429, "import_throttled", None) and answer.headers["Retry-After"] == "3600"
    assert not leases.is_held(HubImport(slot=1).lease)


def test_only_operators_and_only_the_own(uploads: Path, op: Client, hub: FakeHub, repo: Repo, person: User) -> None:
    found = imported(op)
    plain = Client()
    plain.force_login(person)
    assert plain.get(URL).status_code == begin(plain).status_code == 403
    person.is_staff = True
    person.save()
    assert plain.get(URL).json()["results"] == []
    for answer in (plain.get(f"{URL}/{found['id']}"), plain.delete(f"{URL}/{found['id']}")):
        assert answer.status_code == 404
    assert op.get(URL).json()["count"] == 1


def test_an_import_whose_process_is_gone_has_failed(operator: User, hub: FakeHub) -> None:
    row = HubImport.objects.create(repo=NAME, revision="main", hub="h", actor=operator)
    recover()
    row.refresh_from_db()
    assert (row.state, row.failure_code) == (JobState.FAILED, "import_interrupted")


@pytest.mark.parametrize(
    ("address", "reached"),
    [("https://huggingface.co/x", True), ("https://cdn-lfs.hf.co/x", True), ("https://a.b.hf.co", True),
     ("https://hf.co", False), ("http://cdn.hf.co", False), ("https://cdn.hf.co:8443", False),
     ("https://evilhf.co", False), ("https://cdn.hf.co.example", False), ("https://files.example:9000", True),
     ("https://user@huggingface.co", None), ("ftp://huggingface.co", None)],
)  # fmt: skip
def test_where_it_may_connect_to(address: str, reached: bool | None, settings: Any) -> None:
    settings.HF_ENDPOINT, settings.HUB_FILE_HOSTS = "https://huggingface.co", ["*.hf.co", "files.example:9000"]
    judge: Callable[[], bool] = lambda: hosts.may_reach(outbound.place_of(address))  # noqa: E731
    if reached is None:
        with pytest.raises(ValueError):
            judge()
    else:
        assert judge() == reached
