"""`/api/lora/...`: contract, roles, and how many queries a list takes."""

from __future__ import annotations

from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.test import Client
from django.utils import timezone

from adapters import services
from adapters.bases import memory
from adapters.discovery import scanning
from adapters.leases import HeldLease
from adapters.models import LoraAdapter, TrainingFacts
from adapters.tests import layouts as make

pytestmark = pytest.mark.django_db
LIST = "/api/lora/models"


@pytest.fixture
def plain(person: Any) -> Client:
    client = Client()
    client.force_login(person)
    return client


def results(client: Client, query: str = "") -> list[dict[str, Any]]:
    response = client.get(f"{LIST}?{query}")
    assert response.status_code == 200, response.content
    found: list[dict[str, Any]] = response.json()["results"]
    return found


def test_scan_list_activate_deactivate(registry: Path, op: Client) -> None:
    make.hf_run(registry, "run")
    make.adapter(registry / "zero", make.lora_tensors(b_fill=0.0))
    summary = op.post("/api/lora/scan").json()
    assert set(summary) == {"found", "new", "changed", "missing", "incomplete", "duration_ms"}
    assert (summary["found"], summary["new"]) == (5, 5)
    latest = op.get("/api/lora/scan").json()
    assert (latest["state"], latest["found"]) == ("done", 5)
    row = next(r for r in results(op) if r["name"] == "run")
    assert (row["status"], row["failure"], row["effect"], row["digest"]) == ("discovered", None, None, "")
    assert row["base"]["name"] == make.BASE_NAME
    assert str(registry) not in str(row)
    for slash in ("", "/"):
        answer = op.post(f"{LIST}/{row['id']}/activate{slash}")
        assert (answer.status_code, answer.json()["status"]) == (200, "active")
    zero = next(r for r in results(op) if r["name"] == "zero")
    answer = op.post(f"{LIST}/{zero['id']}/activate")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "no_effect")
    assert op.get(f"{LIST}/{zero['id']}").json()["failure"]["code"] == "no_effect"
    answer = op.post(f"{LIST}/{row['id']}/deactivate")
    assert (answer.status_code, answer.json()["status"]) == (200, "discovered")
    kinds = [event["kind"] for event in op.get(f"{LIST}/{row['id']}/events").json()["results"]]
    assert kinds == ["deactivated", "activated", "discovered"]


def test_errors_have_their_place(registry: Path, op: Client) -> None:
    make.adapter(registry / "one")
    op.post("/api/lora/scan")
    pk = LoraAdapter.objects.get().pk
    for method, path, body, status, code, param in [
        ("get", f"{LIST}/999999", None, 404, "not_found", None),
        ("post", f"{LIST}/999999/activate", None, 404, "not_found", None),
        ("get", f"{LIST}?status=deployed", None, 400, "invalid", "status"),
        ("get", f"{LIST}?ordering=password", None, 400, "invalid", "ordering"),
        ("get", f"{LIST}?missing=perhaps", None, 400, "invalid", "missing"),
        ("get", f"{LIST}?trained_after=yesterday", None, 400, "invalid", "trained_after"),
        ("get", f"{LIST}?max_loss=inf", None, 400, "invalid", "max_loss"),
        ("get", f"{LIST}?run_of=sea", None, 400, "invalid", "run_of"),
        ("get", f"{LIST}?page=999", None, 404, "not_found", None),
        ("patch", f"{LIST}/{pk}", {"slug": "A b"}, 400, "invalid", "slug"),
        ("patch", f"{LIST}/{pk}", {"slug": "tiny-llama-0.1m"}, 409, "slug_taken", "slug"),
        ("patch", f"{LIST}/{pk}", {"base": "nope"}, 400, "invalid", "base"),
        ("patch", f"{LIST}/{pk}", {"tags": "x"}, 400, "not_a_list", "tags"),
        ("patch", f"{LIST}/{pk}", {"notes": "x" * 20_001}, 400, "max_length", "notes"),
        ("delete", f"{LIST}/{pk}?files=1", None, 400, "not_confirmed", "confirm"),
        ("post", f"{LIST}/bulk", {"action": "explode", "ids": [1]}, 400, "invalid_choice", "action"),
    ]:  # type: ignore[var-annotated]
        answer = getattr(op, method)(path, body or {}, content_type="application/json")
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (status, code, param), path
        assert error["message"]
    with HeldLease(scanning.LEASE):
        answer = op.post("/api/lora/scan")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "scan_running")
    with HeldLease(f"adapter:{pk}"):
        assert op.post(f"{LIST}/{pk}/activate").status_code == 409
    answer = op.patch(f"{LIST}/{pk}", b"{", content_type="application/json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed_json")


def test_a_plain_user_sees_what_is_active_and_changes_nothing(registry: Path, op: Client, plain: Client) -> None:
    make.adapter(registry / "shown")
    make.adapter(registry / "hidden", seed=2)
    op.post("/api/lora/scan")
    shown, hidden = (LoraAdapter.objects.get(name=name) for name in ("shown", "hidden"))
    services.activate(shown.pk, None)
    assert [row["name"] for row in results(plain)] == ["shown"]
    assert plain.get(f"{LIST}/{shown.pk}").status_code == 200
    for path in (f"{LIST}/{hidden.pk}", f"{LIST}/{hidden.pk}/events", f"{LIST}/{hidden.pk}/metrics"):
        assert plain.get(path).status_code == 404
    assert [plain.get(f"/models/{row.pk}").status_code for row in (shown, hidden)] == [200, 404]
    for method, path in [
        ("post", "/api/lora/scan"),
        ("get", "/api/lora/scan"),
        ("post", f"{LIST}/{shown.pk}/activate"),
        ("post", f"{LIST}/{shown.pk}/deactivate"),
        ("patch", f"{LIST}/{shown.pk}"),
        ("delete", f"{LIST}/{shown.pk}"),
        ("post", f"{LIST}/bulk"),
    ]:
        assert getattr(plain, method)(path).status_code == 403
    stranger = Client()
    assert stranger.get(LIST).status_code == 401
    shown.refresh_from_db()
    assert shown.status == "active"


def test_search_filters_and_ordering(registry: Path, op: Client) -> None:
    make.adapter(registry / "pirate", make.lora_tensors(rank=2), r=2)
    make.adapter(registry / "poet", make.lora_tensors(rank=8), r=8)
    make.adapter(registry / "archive" / "lost", base_model_name_or_path="Qwen/Other")
    op.post("/api/lora/scan")
    pirate = LoraAdapter.objects.get(name="pirate")
    services.edit(pirate.pk, None, notes="arr matey", tags=["sea", "fun"])
    services.activate(pirate.pk, None)

    def names(query: str) -> list[str]:
        return [row["name"] for row in results(op, query)]

    assert names("ordering=name") == ["lost", "pirate", "poet"]
    assert names("ordering=-rank&base=tiny-llama-0.1m") == ["poet", "pirate"]
    assert names("status=active") == names("search=matey") == names("search=SEA+pir") == names("tag=sea") == ["pirate"]
    assert names("search=qwen") == names("failure=base_not_found") == names("search=archive") == ["lost"]
    assert (
        names(f"search={registry.parent.name}") == names(f"search={registry}/pirate") == []
    )  # never where the root lies
    assert names("status=failed&search=pirate") == []
    assert len(results(op, "search=%25%27%22%5C")) == 0
    page = op.get(f"{LIST}?page_size=2&ordering=name").json()
    assert (page["count"], len(page["results"]), page["previous"]) == (3, 2, None)
    assert page["next"].endswith("page=2&page_size=2") or "page=2" in page["next"]


def test_patch_and_delete(registry: Path, op: Client) -> None:
    make.adapter(registry / "one")
    op.post("/api/lora/scan")
    pk = LoraAdapter.objects.get().pk
    body = {"name": "Eins", "notes": "n", "tags": ["B", "a"], "slug": "eins"}
    row = op.patch(f"{LIST}/{pk}", body, content_type="application/json").json()
    assert {key: row[key] for key in body} == body | {"tags": ["a", "b"]}
    assert op.patch(f"{LIST}/{pk}", {"status": "active"}, content_type="application/json").json()["status"] != "active"
    assert op.delete(f"{LIST}/{pk}").status_code == 204
    op.post("/api/lora/scan")
    pk = LoraAdapter.objects.get().pk
    assert op.delete(f"{LIST}/{pk}?files=1&confirm=one").status_code == 204
    assert not (registry / "one").exists()


def test_bulk(registry: Path, op: Client) -> None:
    make.adapter(registry / "good")
    make.adapter(registry / "zero", make.lora_tensors(b_fill=0.0))
    op.post("/api/lora/scan")
    good, zero = (LoraAdapter.objects.get(name=name).pk for name in ("good", "zero"))
    body = {"action": "activate", "ids": [good, zero, 999_999]}
    rows = op.post(f"{LIST}/bulk", body, content_type="application/json").json()["results"]
    assert [(row["id"], row["ok"], row["code"]) for row in rows] == [
        (good, True, ""),
        (zero, False, "no_effect"),
        (999_999, False, "not_found"),
    ]


def test_metrics(registry: Path, op: Client) -> None:
    make.hf_run(registry, "run", (10, 20), best=20)
    op.post("/api/lora/scan")
    pk = LoraAdapter.objects.get(name="run/checkpoint-20").pk
    found = op.get(f"{LIST}/{pk}/metrics").json()
    assert found["use"] == {"requests": 0, "tokens": 0, "last_used_at": None}
    training = found["training"]
    assert (training["steps"], training["best_step"], training["learning_rate"]) == (20, 20, 1e-4)
    assert [point["step"] for point in training["curve"]] == [10, 20]
    assert training["base_model"] == make.HUB_ID


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b'{"log_history": 5}', b'{"log_history": [1, {"step": "x"}, {"step": 1, "loss": NaN}]}'],
)
def test_damaged_facts_stop_nothing(registry: Path, damage: bytes) -> None:
    folder = make.adapter(registry / "one")
    for name in ("trainer_state.json", "trainer_log.jsonl", "args.json", "README.md"):
        (folder / name).write_bytes(damage)
    services.scan(None)
    adapter = LoraAdapter.objects.get()
    assert services.activate(adapter.pk, None).status == "active"
    facts = TrainingFacts.objects.filter(adapter=adapter).first()
    assert facts is None or facts.curve in ([], [{"step": 1, "loss": None}])


def test_queries_of_lists_do_not_grow(registry: Path, op: Client, django_assert_max_num_queries: Any) -> None:
    for number in range(40):
        make.adapter(registry / f"a{number}", seed=number)
    services.scan(None)
    for adapter in LoraAdapter.objects.all()[:20]:
        services.edit(adapter.pk, None, tags=["x", f"t{adapter.pk}"])
    with django_assert_max_num_queries(6):
        assert len(results(op, "page_size=200")) == 40
    with django_assert_max_num_queries(6):
        results(op, "page_size=200&search=a&ordering=-created_at")
    pk = LoraAdapter.objects.first().pk  # type: ignore[union-attr]
    for path in (f"{LIST}/{pk}", f"{LIST}/{pk}/events", f"{LIST}/{pk}/metrics", "/api/lora/bases"):
        with django_assert_max_num_queries(7):
            assert op.get(path).status_code == 200


def test_bases(registry: Path, op: Client, plain: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make.base_model(tmp_path / "models" / "NoTokenizer", tokenizer=False)
    op.post("/api/lora/scan")
    found = {row["name"]: row for row in op.get("/api/lora/bases").json()["results"]}
    assert found["NoTokenizer"]["problem"]["code"] == "base_tokenizer_missing"
    tiny = found[make.BASE_NAME]
    assert tiny["problem"] is None and tiny["has_chat_template"] and tiny["context_length"] == 128
    assert tiny["memory"]["fp32"] > tiny["memory"]["bf16"] > tiny["memory"]["nf4"]
    assert tiny["fits"] == {"fp32": True, "bf16": True, "nf4": True}
    monkeypatch.setattr(memory, "gpu_bytes", lambda: 1000)
    rows = op.get("/api/lora/bases").json()["results"]
    assert next(row for row in rows if row["name"] == make.BASE_NAME)["fits"]["nf4"] is False
    assert [row["name"] for row in plain.get("/api/lora/bases").json()["results"]] == [make.BASE_NAME]


def test_an_activation_under_way_shows_how_far_it_is(
    registry: Path, op: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    make.adapter(registry / "one")
    services.scan(None)
    pk = LoraAdapter.objects.get().pk
    monkeypatch.setattr("adapters.leases.REPORT_EVERY", 0.0)
    seen: list[Any] = [op.get(f"{LIST}/{pk}").json()["activation"]]

    def look(fraction: float) -> None:
        seen.append(op.get(f"{LIST}/{pk}").json()["activation"])
        assert seen[-1] == {"progress": round(fraction, 3)}

    services.activate(pk, None, look)
    seen.append(op.get(f"{LIST}/{pk}").json()["activation"])
    assert seen[0] is None and seen[-1] is None
    assert len(seen) > 2


def test_runs_days_losses_and_effects_narrow_and_order_the_list(registry: Path, op: Client) -> None:
    make.hf_run(registry, "run")
    make.hf_run(registry, "other")
    make.adapter(registry / "alone")
    op.post("/api/lora/scan")

    def names(query: str) -> list[str]:
        return [row["name"] for row in results(op, query)]

    member = next(row for row in results(op) if row["name"] == "run/checkpoint-20")
    assert (member["loss"], member["eval_loss"]) == (3 / 20, 1.0)  # of its own step
    in_order = ["run/checkpoint-10", "run/checkpoint-20", "run/checkpoint-100", "run"]
    assert names(f"run_of={member['id']}&ordering=checkpoint") == in_order
    assert names(f"run_of={next(row for row in results(op) if row['name'] == 'alone')['id']}") == ["alone"]
    assert names("run_of=99999") == []
    assert names("run=run&max_loss=0.2&ordering=-loss,name")[0] == "run/checkpoint-20"
    assert "alone" not in names("max_loss=100") and names("ordering=loss")[-1] == "alone"
    LoraAdapter.objects.filter(name="alone").update(
        effect_changed=0.25, trained_at=datetime(2020, 5, 6, 12, tzinfo=timezone.get_default_timezone())
    )
    assert names("trained_before=2020-05-06") == ["alone"] == names("min_effect=0.2")
    assert names("trained_before=2020-05-05") == [] == names("max_effect=0.2")
    assert "alone" not in names("trained_after=2020-05-07")
    assert op.get("/api/lora/models?trained_before=9999-12-31").status_code == 400


def test_known_losses_are_filled_in_by_the_migration(registry: Path) -> None:
    make.hf_run(registry, "run")
    scanning.scan(None)
    LoraAdapter.objects.update(loss=None, eval_loss=None)
    import_module("adapters.migrations.0013_losses").fill(apps, None)
    found = dict(LoraAdapter.objects.values_list("name", "loss"))
    assert found["run/checkpoint-10"] == 3 / 10
