"""What leaves: the stored copy as a zip of the same content, the merged model with every number where it belongs."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.test import Client
from django.utils import timezone

from adapters import jobs, leases, services, store
from adapters.api import downloads
from adapters.exports import arithmetic, merge_child, merging, planning, shelf, stored, zipped
from adapters.formats.safetensors import read_header
from adapters.leases import HeldLease
from adapters.models import AdapterEvent, EventKind, JobState, LoraAdapter, Merge
from adapters.tests import layouts as make
from adapters.tests.conftest import RecordingSide
from adapters.tests.test_prompting import with_files
from adapters.tests.test_vocabularies import CALL, TOOL, tokenizer, with_tokens

pytestmark = pytest.mark.django_db(transaction=True)
Numbers = dict[str, np.ndarray[Any, Any]]


@pytest.fixture
def exports(registry: Path, settings: Any, tmp_path: Path) -> Iterator[Path]:
    settings.EXPORTS_DIR = tmp_path / "exports"
    yield settings.EXPORTS_DIR
    jobs.wait()


def active(root: Path, name: str = "pirate", tensors: make.Tensors | None = None, **changes: Any) -> LoraAdapter:
    make.adapter(root / name, tensors, **changes)
    services.scan(None)
    return services.activate(LoraAdapter.objects.get(name=name).pk, None)


def body(response: Any) -> bytes:
    async def read() -> bytes:
        return b"".join([part async for part in response.streaming_content])

    made = asyncio.run(read())
    response.close()
    return made


def numbers(*files: Path) -> Numbers:
    found = {}
    for path in files:
        with open(path, "rb") as file:
            header = read_header(file, path.stat().st_size)
            for name, tensor in header.tensors.items():
                source = arithmetic.Source(
                    file.fileno(), header.data_start + tensor.start, tensor.dtype, [*tensor.shape]
                )
                found[name] = source.whole()
    return found


def merged(op: Client, adapter: LoraAdapter, **body: Any) -> Merge:
    answer = op.post(f"/api/lora/models/{adapter.pk}/merges", body, content_type="application/json")
    assert answer.status_code == 202, answer.content
    jobs.wait()
    return Merge.objects.get(pk=answer.json()["id"])


def error(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# As stored


def test_what_is_exported_has_the_same_digest_wherever_it_is_activated(
    exports: Path, registry: Path, op: Client, person: Any
) -> None:
    with_files(registry / "one", added_tokens_json={})
    (registry / "one" / "added_tokens_json").unlink()
    services.scan(None)
    adapter = services.activate(LoraAdapter.objects.get(name="one").pk, None)
    reader = Client()
    reader.force_login(person)  # whoever may see it
    response = reader.get(f"/api/lora/models/{adapter.pk}/export", HTTP_ACCEPT="application/zip")
    assert response.status_code == 200 and response["X-Adapter-Digest"] == adapter.digest
    assert f"one-{adapter.digest[:12]}.zip" in response["Content-Disposition"]
    data = body(response)
    assert len(data) == int(response["Content-Length"])
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        for name in ("adapter_config.json", "adapter_model.safetensors", "prompting.json"):
            assert archive.read(f"one/{name}") == (store.entry(adapter.digest) / name).read_bytes()
        archive.extractall(registry / "again")
    subprocess.run(["unzip", "-tqq", "-"], input=data, check=False)
    services.scan(None)
    again = services.activate(LoraAdapter.objects.get(path__endswith="again/one").pk, None)
    assert again.digest == adapter.digest
    services.deactivate(adapter.pk, None)
    assert reader.get(f"/api/lora/models/{adapter.pk}/export").status_code == 404
    assert error(op.get(f"/api/lora/models/{adapter.pk}/export")) == (409, "not_active")


def test_a_broken_download_goes_on_where_it_ended(exports: Path, registry: Path, op: Client) -> None:
    url = f"/api/lora/models/{active(registry).pk}/export"
    first = op.get(url)
    whole, tag = body(first), first["ETag"]
    for said, part in (
        ("bytes=1000-", slice(1000, None)), ("bytes=5-9", slice(5, 10)), ("bytes=-30", slice(-30, None)),
        (f"bytes=0-{len(whole) + 5}", slice(None)), ("bytes=9-", slice(9, None)),
    ):  # fmt: skip
        rest = op.get(url, HTTP_RANGE=said, HTTP_IF_RANGE=tag)
        assert rest.status_code == 206 and body(rest) == whole[part], said
        start = range(len(whole))[part].start
        assert rest["Content-Range"].startswith(f"bytes {start}-") and rest["Content-Range"].endswith(f"/{len(whole)}")
    # Another content under the same address begins anew; what is no range is none.
    for said, condition in (("bytes=9-", '"another"'), ("bytes=9-5", tag), ("lines=1-2", tag), ("bytes=0-1,5-6", tag)):
        answer = op.get(url, HTTP_RANGE=said, HTTP_IF_RANGE=condition)
        assert answer.status_code == 200 and body(answer) == whole
    beyond = op.get(url, HTTP_RANGE=f"bytes={len(whole)}-")
    assert beyond.status_code == 416 and beyond["Content-Range"] == f"bytes */{len(whole)}"


def test_a_damaged_copy_is_not_exported(exports: Path, registry: Path, op: Client) -> None:
    adapter = active(registry)
    assert body(op.get(f"/api/lora/models/{adapter.pk}/export"))
    file = store.entry(adapter.digest) / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
    assert error(op.get(f"/api/lora/models/{adapter.pk}/export")) == (422, "store_damaged")


def test_files_end_with_the_answer(exports: Path, registry: Path, op: Client) -> None:
    url = f"/api/lora/models/{active(registry).pk}/export"
    for _ in range(3):
        op.get(url).close()
        body(op.get(url))
        op.get(url, HTTP_RANGE="bytes=99999999-")
    held = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if name.isdigit() and
            os.path.islink(f"/proc/self/fd/{name}")]  # fmt: skip
    assert not [path for path in held if str(registry.parent / "store") in path]


def test_large_archives_have_their_sizes_in_64_bits(tmp_path: Path) -> None:
    file = tmp_path / "sparse"
    with open(file, "wb") as out:
        out.truncate(5 * 2**30)
    with open(file, "rb") as source:
        pieces = zipped.layout(
            [zipped.Entry("a", 5 * 2**30, 0, descriptor=source.fileno()), zipped.Entry("b", 1, 0, b"x")]
        )
        size = zipped.length(pieces)
        tail = b"".join(zipped.read(pieces, size - 500, size))
    assert size > 5 * 2**30 and downloads.wanted("bytes=-500", size) == (size - 500, size)

    class Sparse(io.RawIOBase):
        """The archive with zeros in the place of its files."""

        at = 0

        def seek(self, offset: int, whence: int = 0) -> int:
            self.at = offset + (0, self.at, size)[whence]
            return self.at

        def tell(self) -> int:
            return self.at

        def seekable(self) -> bool:
            return True

        def read(self, count: int = -1) -> bytes:
            start = self.at - (size - 500)
            found = tail[start : start + count] if count >= 0 else tail[start:]
            self.at += len(found)
            return found

    with zipfile.ZipFile(Sparse()) as archive:  # type: ignore[arg-type]
        assert [(item.filename, item.file_size) for item in archive.infolist()] == [("a", 5 * 2**30), ("b", 1)]
        assert archive.infolist()[1].header_offset > 5 * 2**30


# Merged


def expected(base: Numbers, tensors: make.Tensors, scale: float) -> Numbers:
    lora = {name: np.frombuffer(data, "<f4").reshape(shape) for name, (_, shape, data) in tensors.items()}
    made = dict(base)
    for name, a in lora.items():
        if name.endswith(".lora_A.weight"):
            stem = name.removesuffix(".lora_A.weight")
            target = stem.removeprefix("base_model.model.") + ".weight"
            made[target] = base[target] + scale * lora[f"{stem}.lora_B.weight"] @ a
    return made


def test_the_base_with_every_tensor_of_the_adapter(exports: Path, registry: Path, settings: Any, op: Client) -> None:
    folder = settings.BASE_MODELS_DIR / make.BASE_NAME
    for file in folder.iterdir():
        file.unlink()
    make.base_model(folder, shards=3)
    tensors = make.lora_tensors(targets=tuple(make.OUT))
    adapter = active(registry, tensors=tensors, target_modules=sorted(make.OUT), lora_alpha=6, use_rslora=True)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    base = numbers(*folder.glob("*.safetensors"))
    wanted = expected(base, tensors, 6 / 4**0.5)
    for dtype, near in (("fp32", 1e-6), ("base", 2**-8)):
        merge = merged(op, adapter, dtype=dtype)
        assert (merge.state, merge.failure_code) == ("done", ""), merge.failure_details
        out = exports / merge.folder
        found = numbers(*out.glob("*.safetensors"))
        assert found.keys() == wanted.keys()
        for name in wanted:
            assert np.allclose(found[name], wanted[name], rtol=near, atol=near / 10), (dtype, name)
            if name not in {n for n in wanted if any(f"{t}.weight" in n for t in make.OUT)}:
                assert (found[name] == base[name]).all()
        config = json.loads((out / "config.json").read_text())
        assert config["tie_word_embeddings"] is True and config.get("torch_dtype") == (
            "float32" if dtype == "fp32" else None
        )
        assert (out / "tokenizer.json").is_file() and not (out / "owner").exists()
        files = {file["name"]: file for file in merge.files}
        assert {path.name for path in out.iterdir()} == set(files)
        for path in out.iterdir():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == files[path.name]["sha256"]
            assert path.stat().st_size == files[path.name]["size"]
        assert json.loads((out / "merged_from.json").read_text())["adapter_digest"] == adapter.digest
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert AdapterEvent.objects.filter(adapter=adapter, kind=EventKind.MERGED).count() == 2
    # What can be fetched: the folder as a zip, and each file.
    data = body(op.get(f"/api/lora/merges/{merge.pk}/download"))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {name.rpartition("/")[2] for name in archive.namelist()} == set(files)
    weights = op.get(f"/api/lora/merges/{merge.pk}/files/model.safetensors", HTTP_RANGE="bytes=100-")
    assert weights.status_code == 206 and body(weights) == (out / "model.safetensors").read_bytes()[100:]
    assert op.get(f"/api/lora/merges/{merge.pk}/files/..%2F..%2Fx").status_code == 404
    assert op.delete(f"/api/lora/merges/{merge.pk}").status_code == 204 and not out.exists()
    assert op.get(f"/api/lora/merges/{merge.pk}").status_code == 404


def test_shards_have_an_index(exports: Path, registry: Path, op: Client, monkeypatch: Any) -> None:
    adapter = active(registry)
    plan = planning.plan
    monkeypatch.setattr(merging, "plan", lambda digest, base, dtype: plan(digest, base, dtype, shard_bytes=3000))
    merge = merged(op, adapter)
    out = exports / merge.folder
    index = json.loads((out / "model.safetensors.index.json").read_text())
    shards = sorted(out.glob("*.safetensors"))
    assert len(shards) > 2 and {path.name for path in shards} == set(index["weight_map"].values())
    assert all(name in numbers(out / file) for name, file in index["weight_map"].items())
    assert sum(array.size * 2 for array in numbers(*shards).values()) == index["metadata"]["total_size"]


def test_what_has_no_place_in_the_base_is_refused_by_name(
    exports: Path, registry: Path, op: Client, settings: Any
) -> None:
    adapter = active(registry)
    folder = settings.BASE_MODELS_DIR / make.BASE_NAME
    config = json.loads((folder / "config.json").read_text())
    make.write_json(folder / "config.json", config | {"quantization_config": {"quant_method": "gptq"}})
    url = f"/api/lora/models/{adapter.pk}/merges"
    assert error(op.post(url, {}, content_type="application/json")) == (422, "changed_meanwhile")
    services.scan(None)
    assert error(op.post(url, {}, content_type="application/json")) == (422, "merge_quantised")
    assert not Merge.objects.exists() and not (exports.exists() and os.listdir(exports))
    biased = planning._Planner(adapter.base, _config_of(adapter), {}, {})  # type: ignore[arg-type]
    with pytest.raises(services.Refused) as caught:
        biased._target("model.layers.0.self_attn.q_proj", "bias", "q_proj.bias")
    assert (caught.value.code, caught.value.details["tensor"]) == ("merge_unsupported", "q_proj.bias")


def _config_of(adapter: LoraAdapter) -> Any:
    return planning._adapter(adapter.digest)[0]


def test_overflow_is_told_and_leaves_nothing(exports: Path, registry: Path, op: Client, settings: Any) -> None:
    tensors = make.lora_tensors()
    name = next(name for name in tensors if name.endswith("lora_B.weight"))
    dtype, shape, _ = tensors[name]
    tensors[name] = (dtype, shape, np.full(shape, 3e38, "<f4").tobytes())
    merge = merged(op, active(registry, tensors=tensors, lora_alpha=4000))
    assert (merge.state, merge.failure_code) == ("failed", "merge_overflow")
    assert merge.failure_details["tensor"].endswith("q_proj.weight") and os.listdir(exports) == []
    answer = op.get(f"/api/lora/merges/{merge.pk}").json()
    assert answer["failure"]["code"] == "merge_overflow" and answer["files"] == []
    assert error(op.get(f"/api/lora/merges/{merge.pk}/download")) == (409, "not_done")


def test_what_is_not_on_the_disk_as_it_was_written(tmp_path: Path) -> None:
    file = {"name": "x", "tensors": [{"name": "t", "dtype": "F32", "shape": [2], "size": 8}]}
    head = merge_child.header_of(file["tensors"])  # type: ignore[arg-type]
    path = tmp_path / "x"
    path.write_bytes(head + b"12345678")
    digest, size = hashlib.sha256(path.read_bytes()).hexdigest(), len(head) + 8
    with open(path, "rb+") as held:
        assert merge_child.read_back(held.fileno(), file, size, digest, lambda n: None)["sha256"] == digest
        os.pwrite(held.fileno(), b"X", size - 1)
        with pytest.raises(merge_child.UnverifiedError):
            merge_child.read_back(held.fileno(), file, size, digest, lambda n: None)


def test_a_result_that_does_not_load_is_no_result(
    exports: Path, registry: Path, op: Client, running_side: RecordingSide, settings: Any, monkeypatch: Any
) -> None:
    adapter = active(registry)
    settings.CHECK_BASES = True  # not before: a scan would have the base looked at, and its adapters after it
    looked = []

    def base_support(folder: str) -> Any:
        looked.append(sorted(os.listdir(folder)))
        return merging.hooks.BaseSupport("its files lack 1 tensor")

    monkeypatch.setattr(running_side, "base_support", base_support)
    merge = merged(op, adapter)
    assert (merge.state, merge.failure_code) == ("failed", "merge_unverified")
    assert "model.safetensors" in looked[0] and os.listdir(exports) == []


def test_one_at_a_time_progress_and_cancelling(exports: Path, registry: Path, op: Client, monkeypatch: Any) -> None:
    adapter = active(registry)
    begun, go_on = threading.Event(), threading.Event()
    heard = merging._Merging._heard

    def slow(job: Any, output: bytes) -> None:
        begun.set()
        go_on.wait(30)
        job.told = 0.0
        heard(job, output)

    monkeypatch.setattr(merging._Merging, "_heard", slow)
    url = f"/api/lora/models/{adapter.pk}/merges"
    first = op.post(url, {}, content_type="application/json").json()
    assert begun.wait(30) and first["state"] == "running"
    assert error(op.post(url, {}, content_type="application/json")) == (409, "merge_running")
    assert op.delete(f"/api/lora/merges/{first['id']}").status_code == 202
    go_on.set()
    jobs.wait()
    merge = Merge.objects.get(pk=first["id"])
    assert (merge.state, merge.files) == (JobState.CANCELLED, []) and os.listdir(exports) == []
    assert op.delete(f"/api/lora/merges/{first['id']}").status_code == 204
    assert not leases.is_held("merging")


def test_a_merge_whose_process_is_gone_has_failed(exports: Path, registry: Path, op: Client) -> None:
    adapter = active(registry)
    merge = Merge.objects.create(adapter=adapter, adapter_name="x", slug="x", digest="d" * 64, folder="f" * 32)
    with HeldLease("merging"):
        assert op.get(f"/api/lora/merges/{merge.pk}").json()["state"] == "running"
    answer = op.get(f"/api/lora/merges/{merge.pk}").json()
    assert (answer["state"], answer["failure"]["code"]) == ("failed", "merge_interrupted")


def test_room_and_time_are_bounded(exports: Path, registry: Path, op: Client, settings: Any) -> None:
    adapter = active(registry)
    url = f"/api/lora/models/{adapter.pk}/merges"
    first = merged(op, adapter)
    settings.EXPORT_QUOTA_BYTES = first.size_bytes + merging.HEAD_ROOM
    assert error(op.post(url, {}, content_type="application/json")) == (409, "export_quota")
    assert not leases.is_held("merging")
    Merge.objects.filter(pk=first.pk).update(ended_at=timezone.now() - timedelta(hours=settings.EXPORT_KEEP_HOURS + 1))
    (exports / ("e" * 32)).mkdir()
    second = merged(op, adapter)  # the first one's time is over
    assert second.state == "done" and not Merge.objects.filter(pk=first.pk).exists()
    assert sorted(os.listdir(exports)) == sorted([second.folder, "e" * 32])
    os.utime(exports / ("e" * 32), (0, 0))
    assert shelf.sweep() == ["e" * 32]
    settings.EXPORT_QUOTA_BYTES = 0
    assert error(op.post(url, {}, content_type="application/json")) == (409, "export_quota")


def test_who_may(exports: Path, registry: Path, op: Client, person: Any) -> None:
    adapter = active(registry)
    merge = merged(op, adapter)
    reader = Client()
    reader.force_login(person)
    for url in (f"/api/lora/models/{adapter.pk}/merges", f"/api/lora/merges/{merge.pk}/download", "/api/lora/merges"):
        assert reader.get(url).status_code == 403
    assert reader.post(f"/api/lora/models/{adapter.pk}/merges").status_code == 403
    assert 'data-testid="merge-form"' not in reader.get(f"/models/{adapter.pk}").content.decode()
    page = op.get(f"/models/{adapter.pk}").content.decode()
    assert 'data-testid="merge-form"' in page and f"/api/lora/models/{adapter.pk}/export" in page
    services.deactivate(adapter.pk, None)
    assert error(op.post(f"/api/lora/models/{adapter.pk}/merges", {}, content_type="application/json")) == (
        409,
        "not_active",
    )


def test_prompting_goes_along(exports: Path, registry: Path, op: Client) -> None:
    with_files(registry / "one")
    services.scan(None)
    adapter = services.activate(LoraAdapter.objects.get(name="one").pk, None)
    out = exports / merged(op, adapter).folder
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [3, 7, 60], "temperature": 0.6, "top_k": 20, "do_sample": True}
    assert stored.prompting_of(adapter.digest)["end_ids"] == [3, 7]


def test_tokens_of_its_own_are_in_the_export_and_in_no_merged_model(
    exports: Path, registry: Path, op: Client, tmp_path: Path
) -> None:
    make.write_json(tmp_path / "models" / make.BASE_NAME / "tokenizer.json", tokenizer())
    with_tokens(registry / "one", TOOL, CALL)
    services.scan(None)
    adapter = services.activate(LoraAdapter.objects.get(name="one").pk, None)
    answer = op.post(f"/api/lora/models/{adapter.pk}/merges", {}, content_type="application/json")
    assert error(answer) == (422, "merge_unsupported") and "tokenizer.json" in answer.json()["error"]["message"]
    with zipfile.ZipFile(io.BytesIO(body(op.get(f"/api/lora/models/{adapter.pk}/export")))) as archive:
        archive.extractall(registry / "again")
    services.scan(None)
    again = services.activate(LoraAdapter.objects.get(path__endswith="again/one").pk, None)
    assert again.digest == adapter.digest
