"""`/api/lora/uploads`: what arrives, in whatever pieces, is an adapter like any other; hostile archives leave none."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from adapters import services
from adapters.models import LoraAdapter
from adapters.places import Elsewhere
from adapters.tests import layouts as make
from adapters.uploads import arriving
from adapters.uploads.arriving import ARRIVING
from adapters.uploads.finishing import finish

pytestmark = pytest.mark.django_db
URL = "/api/lora/uploads"


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder.parent)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.fixture
def pirate(tmp_path: Path) -> dict[str, bytes]:
    return files_of(make.adapter(tmp_path / "elsewhere" / "pirate"))


def begin(op: Client, files: dict[str, bytes], **more: Any) -> Any:
    announced = [{"path": path, "size": len(data), "modified": 1} for path, data in files.items()]
    return op.post(URL, {"files": announced, **more}, content_type="application/json")


def put(op: Client, key: str, index: int, data: bytes, offset: int = 0) -> Any:
    return op.put(f"{URL}/{key}/files/{index}?offset={offset}", data, content_type="application/octet-stream")


def send(op: Client, files: dict[str, bytes], piece: int = 2**20, **more: Any) -> Any:
    """Announce, send and finish; the last answer."""
    begun = begin(op, files, **more)
    assert begun.status_code == 201, begun.content
    key = begun.json()["id"]
    for index, data in enumerate(files.values()):
        for offset in range(0, len(data), piece):
            answer = put(op, key, index, data[offset : offset + piece], offset)
            assert answer.status_code == 200, answer.content
    return op.post(f"{URL}/{key}/finish")


def zipped(files: dict[str, bytes], change: Callable[[zipfile.ZipInfo], None] = lambda item: None) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            item = zipfile.ZipInfo(name)
            item.compress_type = zipfile.ZIP_DEFLATED
            change(item)
            archive.writestr(item, content)
    return data.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w:gz", extra: tarfile.TarInfo | None = None) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            item = tarfile.TarInfo(name)
            item.size = len(content)
            archive.addfile(item, io.BytesIO(content))
        if extra is not None:
            archive.addfile(extra)
    return data.getvalue()


def error(answer: Any) -> tuple[int, str, str]:
    body = answer.json()["error"]
    return answer.status_code, body["code"], body.get("reason", "")


def test_a_folder_arrives_and_is_activated(uploads: Path, op: Client, operator: Any, pirate: dict[str, bytes]) -> None:
    done = send(op, pirate, piece=1000)
    assert done.status_code == 201, done.content
    body = done.json()
    assert body["folder"] == f"{operator.pk}/pirate" and body["scanned"] and body["left_out_count"] == 0
    (adapter,) = body["adapters"]
    assert (adapter["name"], adapter["status"]) == ("pirate", "discovered") and str(
        uploads
    ) not in done.content.decode()
    assert files_of(uploads / str(operator.pk) / "pirate") == pirate
    assert services.activate(adapter["id"], operator).status == "active"
    assert os.listdir(uploads / ARRIVING) == [] and op.get(URL).json()["results"] == []
    # The same once more is another folder, and deletion with files takes what was uploaded.
    assert send(op, pirate).json()["folder"] == f"{operator.pk}/pirate-2"
    services.deactivate(adapter["id"], operator)
    services.delete_files(adapter["id"], operator, "pirate")
    assert os.listdir(uploads / str(operator.pk)) == ["pirate-2"]


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar"])
def test_an_archive_is_unpacked(kind: str, uploads: Path, op: Client, operator: Any, pirate: dict[str, bytes]) -> None:
    files = pirate | {"pirate/optimizer.pt": b"x" * 100, "__MACOSX/pirate/._a.json": b"x", "pirate/trainer.log": b"hi"}
    data = zipped(files) if kind == "zip" else tarred(files, "w:gz" if kind == "tar.gz" else "w")
    body = send(op, {f"Seven seas.{kind}": data}).json()
    assert body["folder"] == f"{operator.pk}/Seven-seas" and body["files"] == len(pirate)
    assert sorted(body["left_out"]) == ["pirate/optimizer.pt", "pirate/trainer.log"] and body["left_out_count"] == 2
    assert sorted(os.listdir(uploads / body["folder"])) == sorted(path.rpartition("/")[2] for path in pirate)
    assert [adapter["status"] for adapter in body["adapters"]] == ["discovered"]


def test_it_goes_on_where_it_ended(uploads: Path, op: Client, pirate: dict[str, bytes]) -> None:
    first = begin(op, pirate).json()
    index = next(i for i, path in enumerate(pirate) if path.endswith(".safetensors"))
    data = list(pirate.values())[index]
    assert put(op, first["id"], index, data[:100]).json() == {"received": 100}
    again = begin(op, pirate)
    assert again.status_code == 200 and again.json()["id"] == first["id"]
    assert again.json()["files"][index]["received"] == 100 == again.json()["received"]
    refused = put(op, first["id"], index, data[:100])
    assert error(refused)[:2] == (409, "upload_offset") and refused.json()["error"]["received"] == 100
    assert error(put(op, first["id"], index, data + b"x", 100))[1] == "upload_offset"  # more than was announced
    assert error(op.post(f"{URL}/{first['id']}/finish"))[1] == "upload_incomplete"
    changed = begin(op, pirate | {list(pirate)[0]: b"{}"})  # other files: another upload
    assert changed.status_code == 201 and len(op.get(URL).json()["results"]) == 2
    assert op.delete(f"{URL}/{changed.json()['id']}").status_code == 204
    assert op.get(f"{URL}/{changed.json()['id']}").status_code == 404
    assert services.scan(None).found == 0, "what is under way is no adapter"
    assert os.listdir(uploads / ARRIVING) == [first["id"]]


def test_only_operators_and_only_the_own(uploads: Path, op: Client, person: Any, pirate: dict[str, bytes]) -> None:
    key = begin(op, pirate).json()["id"]
    plain = Client()
    plain.force_login(person)
    assert plain.get(URL).status_code == begin(plain, pirate).status_code == 403
    person.is_staff = True
    person.save()
    assert plain.get(URL).json()["results"] == []
    for answer in (plain.get(f"{URL}/{key}"), plain.delete(f"{URL}/{key}"), put(plain, key, 0, b"x"),
                   plain.post(f"{URL}/{key}/finish"), op.get(f"{URL}/{'0' * 32}"), op.get(f"{URL}/x")):  # fmt: skip
        assert answer.status_code == 404, answer.content


@pytest.mark.parametrize(
    ("path", "reason"),
    [("../a.json", "escapes"), ("/etc/a.json", "escapes"), ("a\\b.json", "escapes"), ("C:a.json", "escapes"),
     ("a/../../b.json", "escapes"), ("a\nb.json", "bad_name"),
     ("x" * 200 + ".json", "bad_name"), (" /a.json", "bad_name"),
     ("a/" * 9 + "b.json", "bad_name"), ("a.py", "kind"), ("adapter_model.bin", "pickle"), ("", "bad_name")],
)  # fmt: skip
def test_names_are_judged_before_anything_is_sent(path: str, reason: str, uploads: Path, op: Client) -> None:
    files = {"a/adapter_config.json": b"{}", path: b"x"}
    answer = begin(op, files)
    assert error(answer) == (422, "upload_refused", reason) and answer.json()["error"]["param"] == "files[1].path"
    assert not uploads.exists() or os.listdir(uploads / ARRIVING) == []


def link(name: str, target: str) -> tarfile.TarInfo:
    item = tarfile.TarInfo(name)
    item.type, item.linkname = tarfile.SYMTYPE, target
    return item


def as_link(item: zipfile.ZipInfo) -> None:
    item.external_attr = (stat.S_IFLNK | 0o777) << 16


CONFIG = {"a/adapter_config.json": b"{}"}
HOSTILE: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "traversal": ("a.zip", lambda: zipped(CONFIG | {"../../evil.json": b"{}"}), "escapes"),
    "absolute": ("a.tar", lambda: tarred(CONFIG | {"/evil.json": b"{}"}, "w"), "escapes"),
    "links in a zip": ("a.zip", lambda: zipped({"a/evil.json": b"/etc/hostname"}, as_link), "link"),
    "link in a tar": ("a.tar.gz", lambda: tarred(CONFIG, extra=link("a/evil.json", "/etc/hostname")), "link"),
    "link to a folder": ("a.tar", lambda: tarred({}, "w", link("a", "/etc")), "link"),
    "twice": ("a.tar", lambda: tarred(CONFIG | {"A/Adapter_Config.json": b"{}"}, "w"), "twice"),
    "file and folder": ("a.tar", lambda: tarred({"a.json": b"{}", "a.json/adapter_config.json": b"{}"}, "w"), "twice"),
    "bomb": ("a.zip", lambda: zipped(CONFIG | {"a/w.safetensors": bytes(4 * 2**20)}), "too_large"),
    "bomb of a tar": ("a.tar.xz", lambda: tarred(CONFIG | {"a/w.safetensors": bytes(4 * 2**20)}, "w:xz"), "too_large"),
    "many files": ("a.zip", lambda: zipped({f"{n}.json": b"" for n in range(1100)}), "too_many"),
    "noise": ("a.zip", lambda: os.urandom(3000), "damaged"),
    "noise as tar": ("a.tgz", lambda: os.urandom(3000), "damaged"),
    "cut off": ("a.zip", lambda: zipped(CONFIG | {"a/w.safetensors": os.urandom(9000)})[:-3000], "damaged"),
    "a name of control characters": ("a.zip", lambda: zipped({"a/\x1b[2Jx.json": b""}), "bad_name"),
    "nothing in it": ("a.zip", lambda: zipped({"a/readme.txt": b"hi"}), "no_adapter"),
    "pickles": ("a.zip", lambda: zipped({"a/adapter_model.bin": b"hi"}), "no_adapter"),
}


@pytest.mark.parametrize("case", list(HOSTILE))
def test_a_hostile_archive_leaves_nothing(case: str, uploads: Path, op: Client, operator: Any, settings: Any) -> None:
    settings.UPLOAD_MAX_BYTES = 2 * 2**20
    name, content, reason = HOSTILE[case]
    before = set(uploads.parent.rglob("*"))
    answer = send(op, {name: content()})
    assert error(answer) == (422, "upload_refused", reason), answer.content
    (key,) = (upload["id"] for upload in op.get(URL).json()["results"])
    assert op.delete(f"{URL}/{key}").status_code == 204
    left = set(uploads.parent.rglob("*")) - before - {uploads, uploads / ARRIVING}
    assert left == set() and services.scan(None).found == 0
    assert not LoraAdapter.objects.exists()


def test_an_encrypted_archive(uploads: Path, op: Client) -> None:
    data = bytearray(zipped(CONFIG))
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    assert error(send(op, {"a.zip": bytes(data)}))[2] == "encrypted"


def test_room_is_bounded(uploads: Path, op: Client, settings: Any, pirate: dict[str, bytes]) -> None:
    size = sum(map(len, pirate.values()))
    settings.UPLOAD_QUOTA_BYTES = size + 10
    assert send(op, pirate).status_code == 201
    answer = begin(op, {"x/adapter_config.json": b"0" * 11})
    assert error(answer)[:2] == (413, "upload_quota")
    first = begin(op, {"x/adapter_config.json": b"0" * 10})
    assert first.status_code == 201
    assert error(begin(op, {"y/adapter_config.json": b"0"}))[1] == "upload_quota", "what is announced counts"
    settings.UPLOAD_MAX_BYTES = size - 1
    assert error(begin(op, pirate))[:2] == (413, "upload_too_large")
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 5
    assert error(put(op, first.json()["id"], 0, b"0" * 6))[0] == 413


def test_a_full_disk_is_told_and_the_piece_can_be_sent_again(
    uploads: Path, op: Client, pirate: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = begin(op, pirate).json()["id"]
    real = os.pwrite

    def full(descriptor: int, data: bytes, offset: int) -> int:
        if offset == 0:
            return real(descriptor, bytes(data)[:10], offset)
        raise OSError(28, "No space left on device")

    data = list(pirate.values())[0]
    with monkeypatch.context() as patch:
        patch.setattr(arriving.os, "pwrite", full)
        answer = put(op, key, 0, data)
    assert error(answer)[:2] == (503, "upload_no_space") and answer.headers["Retry-After"] == "60"
    assert put(op, key, 0, data).json() == {"received": len(data)}


def test_what_nobody_continues_goes_after_a_day(uploads: Path, op: Client, pirate: dict[str, bytes]) -> None:
    old, young = (begin(op, pirate, name=name).json()["id"] for name in ("old", "young"))
    os.utime(uploads / ARRIVING / old, (1, 1))
    assert arriving.sweep_all() == [old] and os.listdir(uploads / ARRIVING) == [young]


def test_a_link_in_the_way_is_not_followed(
    uploads: Path, op: Client, operator: Any, tmp_path: Path, pirate: dict[str, bytes]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    uploads.mkdir()
    (uploads / str(operator.pk)).symlink_to(outside)
    begun = begin(op, pirate).json()["id"]
    for index, data in enumerate(pirate.values()):
        put(op, begun, index, data)
    with pytest.raises(Elsewhere):
        finish(operator.pk, begun)
    assert os.listdir(outside) == []
