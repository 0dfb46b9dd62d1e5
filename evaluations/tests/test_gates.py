"""Gates over a run made for it: `<adapter> says <prompt>` of a fake worker, so that names decide what passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import translation
from rest_framework.test import APIClient

from adapters import services, store
from adapters.failures import ActivationFailed
from adapters.leases import HeldLease
from adapters.models import LoraAdapter, Status
from adapters.tests import layouts
from evaluations import sets
from evaluations.gates import judging, keeping, standing
from evaluations.items import read_item
from evaluations.models import Gate, GateVerdict, PromptSet, Run, VerdictState
from evaluations.runs import queue, working
from evaluations.runs.job import in_database
from inference.errors import InferenceError
from inference.gateway.targets import find
from inference.manager import ModelManager

pytestmark = pytest.mark.django_db(transaction=True)

GATES = "/api/evaluations/gates"
BY_STEP = {10: 3, 20: 4, 100: 1}  # how many of four items the checkpoint passes: the last is trained too long


@pytest.fixture
def world(tmp_path: Path, settings: Any, manager: ModelManager, operator: User) -> SimpleNamespace:  # noqa: F811
    """A training run of three checkpoints, scanned, and the operator's prompt set that tells them apart."""
    root = tmp_path / "adapters"
    settings.VAR_DIR, settings.LORA_ROOTS, settings.STORE_DIR = tmp_path, [root], tmp_path / "store"
    settings.BASE_MODELS_DIR, settings.SCAN_SETTLE_SECONDS = tmp_path / "models", 0.0
    layouts.base_model(tmp_path / "models" / layouts.BASE_NAME)
    for step in BY_STEP:
        layouts.checkpoint(root / "pirate" / f"checkpoint-{step}", step, seed=step)
    services.scan(None)
    checks = [[step for step, passed in BY_STEP.items() if number < passed] for number in range(4)]
    patterns = [f"-({'|'.join(map(str, steps))}) says" for steps in checks]
    items = [
        read_item({"prompt": f"n{at}", "checks": [{"kind": "pattern", "value": pattern}]})
        for at, pattern in enumerate(patterns)
    ]
    prompts = sets.create(operator, "bar", items=items)
    return SimpleNamespace(root=root, prompts=prompts, operator=operator, store=tmp_path / "store")


def gate_for(world: SimpleNamespace, **facts: Any) -> Gate:
    given = {"kind": "run", "name": "pirate", "prompts": world.prompts.pk, "least": 0.75} | facts
    return keeping.save(world.operator, Gate(), **given)


def step(number: int) -> LoraAdapter:
    return LoraAdapter.objects.get(checkpoint=number, run_name="pirate")


def judge() -> None:
    """As the queue does, until every verdict is there."""
    with HeldLease(queue.LEASE) as lease:
        while True:
            judging.turn(lease.touch)
            if not queue.work_on_next(lease) and not GateVerdict.objects.filter(ended_at=None).exists():
                return


def refused(pk: int, **more: Any) -> ActivationFailed:
    with pytest.raises(ActivationFailed) as caught:
        services.activate(pk, None, **more)
    return caught.value


def test_the_over_trained_checkpoint_of_a_run_is_stopped_and_a_new_one_is_judged_by_itself(
    world: SimpleNamespace,
) -> None:
    gate = gate_for(world)
    judge()
    found = {one.adapter.checkpoint: (one.passed, one.judged) for one in gate.verdicts.select_related("adapter")}
    assert found == {at: (passed, 4) for at, passed in BY_STEP.items()}
    assert not any(store.DIGEST.match(entry.name) for entry in world.store.iterdir())  # nothing of a trial stays
    assert not LoraAdapter.objects.exclude(status=Status.DISCOVERED).exists()
    error = refused(step(100).pk)
    assert error.code == "gate_below_bar"
    assert "1 of 4" in error.message and "75%" in error.message
    with translation.override("zh-hans"):
        assert "门禁" in error.message
    assert step(100).status == Status.DISCOVERED
    assert services.activate(step(20).pk, None).status == Status.ACTIVE

    layouts.checkpoint(world.root / "pirate" / "checkpoint-200", 200, seed=200)
    services.scan(None)
    judge()
    latest = gate.verdicts.first()
    assert latest is not None and latest.adapter.checkpoint == 200 and latest.passed == 0
    assert refused(step(200).pk).code == "gate_below_bar"
    runs = Run.objects.count()
    judge()
    assert Run.objects.count() == runs  # nothing is judged twice


def test_what_is_not_judged_yet_waits_and_nobody_can_ask_it(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate_for(world)
    assert refused(step(20).pk).code == "gate_waiting"
    asked: list[str] = []
    answer = working.Worker._answer

    async def looked(self: Any, target: Any, item: Any) -> Any:
        asked.append(target.slug)
        with pytest.raises(InferenceError) as caught:  # while it is asked for the gate
            await in_database(find, target.slug)
        assert caught.value.code == "adapter_inactive"
        return await answer(self, target, item)

    monkeypatch.setattr(working.Worker, "_answer", looked)
    judge()
    assert step(20).slug in asked
    verdict = GateVerdict.objects.get(adapter=step(20))
    assert verdict.run is not None
    assert [one.digest for one in verdict.run.targets.all()] == [verdict.digest]
    assert services.activate(step(20).pk, None).digest == verdict.digest  # what was judged is what is served


def test_not_worse_than_the_active_one(world: SimpleNamespace) -> None:
    services.activate(step(20).pk, None)
    gate_for(world, least=None, not_worse=True)
    judge()
    error = refused(step(10).pk)
    assert (error.code, error.details["other"], error.details["passed"]) == ("gate_worse", 4, 3)
    assert error.details["against"] == step(20).name
    services.deactivate(step(20).pk, None)
    assert refused(step(10).pk).code == "gate_waiting"  # there is nothing to compare it with any more
    judge()
    assert services.activate(step(10).pk, None).status == Status.ACTIVE
    assert refused(step(20).pk).code == "gate_waiting"  # now the other way round
    judge()
    assert services.activate(step(20).pk, None).status == Status.ACTIVE


def doors(world: SimpleNamespace, pk: int, client: Client) -> dict[str, Callable[[], object]]:
    """Every way by which an adapter becomes active."""

    def post(path: str, body: Any) -> object:
        return client.post(f"/api/lora/models/{path}", json.dumps(body), content_type="application/json")

    def evaluate() -> None:
        with pytest.raises(CommandError):
            call_command("evaluate", f"--set={world.prompts.pk}", f"--adapter={step(100).slug}", "--activate")

    action = {"action": "activate", "_selected_action": [pk]}
    return {
        "api": lambda: post(f"{pk}/activate", {}),
        "blank reason": lambda: post(f"{pk}/activate", {"override": "  \n "}),
        "bulk": lambda: post("bulk", {"action": "activate", "ids": [pk]}),
        "admin": lambda: client.post("/admin/adapters/loraadapter/", action),
        "evaluate": evaluate,
        "scan": lambda: services.scan(None),
    }


def test_every_door_is_closed_and_a_stated_reason_is_kept_in_history(
    world: SimpleNamespace, client: Client, admin: User
) -> None:
    gate_for(world)
    judge()
    client.force_login(admin)
    pk = step(100).pk
    for name, door in doors(world, pk, client).items():
        door()
        assert step(100).status == Status.DISCOVERED, name
    codes = list(step(100).events.filter(kind="refused").values_list("code", flat=True))
    assert codes == ["gate_below_bar"] * 5

    url = f"/api/lora/models/{pk}/activate"
    answer = client.post(url, json.dumps({}), content_type="application/json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "gate_below_bar")
    body = {"override": "the demo\ntonight needs it"}
    assert client.post(url, json.dumps({"override": "x" * 501}), content_type="application/json").status_code == 400
    assert client.post(url, json.dumps(body), content_type="application/json").json()["status"] == "active"
    event = step(100).events.first()
    assert event is not None
    assert (event.kind, event.actor_name, event.code) == ("activated", "admin", "gate_overridden")
    assert "the demo tonight needs it" in event.message and "gate_below_bar" in event.message
    assert (event.details["passed"], event.details["judged"]) == (1, 4)


def test_another_name_for_the_same_files_is_no_way_round(world: SimpleNamespace) -> None:
    gate_for(world)
    judge()
    layouts.adapter(world.root / "pirate", seed=100)  # the run's own result is its last checkpoint
    services.scan(None)
    twin = LoraAdapter.objects.get(run_name="pirate", checkpoint=None)
    assert refused(twin.pk).code == "gate_below_bar"


def test_new_content_of_an_active_adapter_is_judged_before_it_is_served(world: SimpleNamespace) -> None:
    served = services.activate(step(20).pk, None).digest
    gate_for(world)
    layouts.checkpoint(world.root / "pirate" / "checkpoint-20", 20, seed=21)
    services.scan(None)
    assert refused(step(20).pk).code == "gate_waiting"
    assert (step(20).status, step(20).digest) == (Status.ACTIVE, served)
    sets.replace(world.prompts, 1, read_item({"prompt": "n", "checks": [{"kind": "excludes", "value": "says"}]}))
    sets.remove(world.prompts, [2, 3, 4])
    judge()
    assert refused(step(20).pk).code == "gate_below_bar"
    assert (step(20).status, step(20).digest) == (Status.ACTIVE, served)
    assert store.verify(served)


def test_what_cannot_be_judged_does_not_pass(world: SimpleNamespace, client: Client, operator: User) -> None:
    layouts.adapter(world.root / "dud", seed=5)  # which the worker finds to change nothing
    services.scan(None)
    dud = LoraAdapter.objects.get(name="dud")
    services.edit(dud.pk, None, tags=["Shy"])
    gate = gate_for(world, kind="tag", name=" SHY ")
    judge()
    verdict = gate.verdicts.get()
    assert (verdict.state, verdict.code) == (VerdictState.FAILED, "no_effect")
    assert refused(dud.pk).code == "gate_unjudged"

    family = gate_for(world)
    operator.is_staff = False
    operator.save()
    assert keeping.problem_of(Gate.objects.get(pk=family.pk)) == "gate_owner_missing"
    assert refused(step(20).pk).code == "gate_waiting"
    judge()
    assert refused(step(20).pk).code == "gate_unjudged"
    operator.is_staff = True
    operator.save()
    sets.delete(PromptSet.objects.get(pk=world.prompts.pk))
    assert keeping.problem_of(Gate.objects.get(pk=family.pk)) == "gate_set_missing"
    assert refused(step(10).pk).code == "gate_waiting"  # a gate does not go with its set
    judge()
    assert refused(step(10).pk).code == "gate_unjudged"


def test_a_new_version_of_the_set_and_a_new_bar_are_looked_at_anew(world: SimpleNamespace) -> None:
    gate = gate_for(world)
    judge()
    keeping.save(world.operator, gate, least=1.0)
    assert refused(step(10).pk).code == "gate_below_bar"  # by the figures that are there
    keeping.save(world.operator, gate, least=0.75)
    sets.add(world.prompts, [read_item({"prompt": "more", "checks": [{"kind": "contains", "value": "nothing"}]})])
    assert refused(step(10).pk).code == "gate_waiting"
    judge()
    error = refused(step(10).pk)
    assert (error.code, error.details["judged"]) == ("gate_below_bar", 5)
    reused = Run.objects.filter(of_gate=True).latest("pk").targets.get().results.filter(reused=True).count()
    assert reused == 4


def test_a_cancelled_evaluation_and_a_copy_that_is_tried(world: SimpleNamespace) -> None:
    gate = gate_for(world)
    with HeldLease(queue.LEASE):
        judging.turn()
    verdict = GateVerdict.objects.get(state=VerdictState.RUNNING)
    assert [one.name for one in services.clean()] == []  # the store keeps what is tried
    assert store.has(verdict.digest)
    assert verdict.run is not None
    verdict.run.delete()
    judging.turn()
    verdict.refresh_from_db()
    assert (verdict.state, verdict.code) == (VerdictState.FAILED, "gate_cancelled")
    assert not store.has(verdict.digest)
    assert standing.request(gate, verdict.adapter).pk != verdict.pk
    judge()
    assert {one.code for found in (10, 20) for one in standing.of_adapter(step(found))} == {""}


def test_gates_are_made_and_told_of_by_the_api(
    world: SimpleNamespace, api: Callable[..., APIClient], owner: User
) -> None:
    client = api(world.operator, "operate")
    wanted = {"kind": "run", "name": "pirate", "prompts": world.prompts.pk, "least": 0.75}
    assert api(owner).post(GATES, wanted, format="json").status_code == 403
    without = client.post(GATES, {**wanted, "least": None}, format="json").json()["error"]
    assert (without["code"], without["param"]) == ("required", "least")
    free = sets.create(world.operator, "free", items=[read_item({"prompt": "hi"})])
    unjudged = client.post(GATES, {**wanted, "prompts": free.pk}, format="json").json()["error"]
    assert (unjudged["code"], unjudged["param"]) == ("gate_set_missing", "prompts")
    theirs = sets.create(owner, "theirs", items=[read_item({"prompt": "hi"})])
    assert client.post(GATES, {**wanted, "prompts": theirs.pk}, format="json").status_code == 404
    made = client.post(GATES, wanted, format="json")
    assert (made.status_code, made.json()["problem"], made.json()["owner"]) == (201, "", "operator")
    gate = made.json()["id"]

    slug = step(100).slug
    told = client.get(f"{GATES}/standing?adapter={slug}").json()
    assert (told["passes"], told["pending"], told["results"][0]["code"]) == (False, True, "gate_waiting")
    assert client.post(f"{GATES}/{gate}/verdicts", {"adapter": step(100).pk}, format="json").status_code == 202
    assert client.get(f"{GATES}/standing?adapter={slug}").json()["pending"] is True
    judge()
    told = client.get(f"{GATES}/standing?adapter={slug}").json()
    (found,) = told["results"]
    assert (told["passes"], told["pending"], found["code"]) == (False, False, "gate_below_bar")
    assert (found["verdict"]["outcome"], found["verdict"]["passed"], found["verdict"]["judged"]) == ("failed", 1, 4)
    assert client.get(f"{GATES}/standing?adapter={step(20).pk}").json()["passes"] is True
    assert client.get(f"{GATES}/{gate}/verdicts").json()["count"] == 3
    changed = client.patch(f"{GATES}/{gate}", {"least": 0.25}, format="json").json()
    assert (changed["least"], changed["name"]) == (0.25, "pirate")
    assert client.get(f"{GATES}/standing?adapter={slug}").json()["passes"] is True
    stranger = {"adapter": LoraAdapter.objects.create(name="s", slug="s", path_hash="s").pk}
    assert client.post(f"{GATES}/{gate}/verdicts", stranger, format="json").status_code == 400
    assert client.delete(f"{GATES}/{gate}").status_code == 204


def test_a_verdict_is_pending_from_the_beginning_unless_none_will_come(
    world: SimpleNamespace, api: Callable[..., APIClient]
) -> None:
    client = api(world.operator, "operate")

    def told(number: int) -> tuple[bool, str]:
        answer = client.get(f"{GATES}/standing?adapter={step(number).pk}").json()
        assert answer["pending"] is answer["results"][0]["pending"]
        return answer["pending"], answer["results"][0]["unasked"]

    gate = gate_for(world)
    assert [told(number) for number in BY_STEP] == [(True, "")] * 3  # before any of them has had its turn
    LoraAdapter.objects.filter(pk=step(10).pk).update(incomplete=True)
    assert told(10) == (False, "gate_unlisted")
    judge()
    assert told(20) == told(100) == (False, "")
    sets.add(world.prompts, [read_item({"prompt": "more", "checks": [{"kind": "contains", "value": "nothing"}]})])
    assert told(20) == (False, "gate_not_new")  # it waits for somebody who wants it
    standing.request(gate, step(20))
    assert told(20) == (True, "")
    sets.delete(PromptSet.objects.get(pk=world.prompts.pk))
    assert told(100) == (False, "gate_set_missing")


def test_operators_alone_see_a_gates_evaluation(
    world: SimpleNamespace, client: Client, admin: User, outsider: User
) -> None:
    gate = gate_for(world)
    judge()
    run = gate.verdicts.exclude(run=None).values_list("run", flat=True)[0]
    client.force_login(admin)
    assert client.get(f"/evaluations/runs/{run}").status_code == 200
    page = client.get(f"/models/{step(100).pk}").content.decode()
    assert f'href="/evaluations/runs/{gate.verdicts.get(adapter=step(100)).run_id}"' in page
    assert "gate_below_bar" in page
    listed = client.get(f"/evaluations/gates/{gate.pk}").content.decode()
    assert listed.count('data-outcome="failed"') == 1 and listed.count('data-outcome="passed"') == 2
    client.force_login(outsider)
    assert client.get(f"/evaluations/runs/{run}").status_code == 404
    services.activate(step(20).pk, None)
    assert "adapter-gates" not in client.get(f"/models/{step(20).pk}").content.decode()
