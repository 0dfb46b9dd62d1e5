"""Runs over a fake worker that answers `<model> says <prompt>`."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client

from adapters.failures import ActivationFailed
from adapters.leases import HeldLease
from adapters.models import LoraAdapter, Status
from evaluations import sets
from evaluations.items import read_item
from evaluations.models import Answer, PromptSet, Result, Run, Score
from evaluations.runs import figures, making, queue, working
from inference.errors import InferenceError
from inference.manager import ModelManager
from inference.models import UsageDay
from inference.quota.ledger import ledger

pytestmark = pytest.mark.django_db(transaction=True)

RUNS = "/api/evaluations/runs"
SAYS_PIRATE = [{"kind": "contains", "value": "pirate"}]


@pytest.fixture
def client(client: Client, owner: User) -> Client:
    client.force_login(owner)
    return client


def send(client: Client, method: str, path: str, data: Any = None) -> Any:
    return client.generic(method, f"{RUNS}{path}", json.dumps(data or {}), content_type="application/json")


def written(response: Any) -> str:
    async def parts() -> list[bytes]:
        return [part async for part in response.streaming_content]

    return b"".join(async_to_sync(parts)()).decode()


def work() -> None:
    """As the queue does, until nothing is left."""
    with HeldLease(queue.LEASE) as lease:
        while queue.work_on_next(lease):
            pass


def test_a_set_over_several_models(
    client: Client, registry: SimpleNamespace, manager: ModelManager, make_set: Callable[..., PromptSet]
) -> None:
    prompts = make_set({"prompt": "ahoy", "checks": SAYS_PIRATE}, {"prompt": "hi", "checks": SAYS_PIRATE}, "free")
    made = send(client, "POST", "", {"prompts": prompts.pk, "targets": ["pirate", "poet", "tiny"]})
    assert (made.status_code, made.json()["state"], made.json()["total"]) == (201, "queued", 9)
    run = made.json()["id"]
    work()
    whole = client.get(f"{RUNS}/{run}").json()
    assert (whole["state"], whole["done"], whole["reused"]) == ("done", 9, 0)
    assert whole["completion_tokens"] > 0
    shares = [(one["slug"], one["passed"], one["judged"], one["digest"]) for one in whole["targets"]]
    assert shares == [("pirate", 2, 2, "d" * 64), ("poet", 0, 2, "e" * 64), ("tiny", 0, 2, "b" * 64)]
    assert whole["targets"][0]["pass_rate"]["low"] == pytest.approx(0.342, abs=1e-3)
    rows = client.get(f"{RUNS}/{run}/results").json()["results"]
    assert [row["item"]["number"] for row in rows] == [1, 2, 3]
    assert rows[0]["cells"][0]["answer"].strip() == "pirate says ahoy"
    assert client.get(f"{RUNS}/{run}/results?show=disagree").json()["count"] == 3  # the third by its text
    assert client.get(f"{RUNS}/{run}/results?show=failed").json()["count"] == 2
    ledger.flush()
    assert sum(UsageDay.objects.values_list("requests", flat=True)) == 9  # it counts as use of its owner


def test_nothing_is_computed_twice_and_a_difference_is_explained(
    client: Client, registry: SimpleNamespace, manager: ModelManager, make_set: Callable[..., PromptSet]
) -> None:
    prompts = make_set({"prompt": "ahoy", "checks": SAYS_PIRATE}, "hi")
    first = send(client, "POST", "", {"prompts": prompts.pk, "targets": ["pirate", "poet"]}).json()["id"]
    work()
    sets.replace(prompts, 1, read_item({"prompt": "ahoy", "checks": [{"kind": "excludes", "value": "pirate"}]}))
    sets.replace(prompts, 2, read_item({"prompt": "hello"}))
    LoraAdapter.objects.filter(slug="poet").update(digest="f" * 64)
    second = send(client, "POST", f"/{first}/again").json()["id"]
    work()
    whole = client.get(f"{RUNS}/{second}").json()
    assert (whole["done"], whole["reused"]) == (4, 1)  # what "pirate" says to "ahoy", judged anew
    assert whole["targets"][0]["passed"] == 0
    changes = figures.differences(Run.objects.get(pk=second))
    assert changes == [("pirate", str(first), ["items"]), ("poet", str(first), ["items", "adapter"])]
    assert client.get(f"{RUNS}/{first}").json()["targets"][0]["passed"] == 1  # the first stays as it was
    warm = {"prompts": prompts.pk, "targets": ["pirate"], "params": {"temperature": 0.7}}
    assert send(client, "POST", "", warm).json()["params"]["seed"] == making.SEED
    work()
    assert Answer.objects.count() == 9  # other parameters, other answers


def test_what_a_dead_process_left_is_gone_on_with(
    client: Client, registry: SimpleNamespace, manager: ModelManager, make_set: Callable[..., PromptSet],
    settings: Any, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settings.EVALUATION_CONCURRENT = 1
    prompts = make_set(*(f"number {n}" for n in range(6)))
    run = send(client, "POST", "", {"prompts": prompts.pk, "targets": ["pirate"]}).json()["id"]
    settle = working.settling.settle
    settled: list[Any] = []

    def dies_after_three(*args: Any) -> None:
        if len(settled) == 3:
            raise KeyboardInterrupt
        settled.append(args)
        settle(*args)

    monkeypatch.setattr(working.settling, "settle", dies_after_three)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert client.get(f"{RUNS}/{run}").json()["state"] == "running"
    monkeypatch.setattr(working.settling, "settle", settle)
    work()
    whole = client.get(f"{RUNS}/{run}").json()
    assert (whole["state"], whole["done"]) == ("done", 6)
    assert Result.objects.count() == Answer.objects.count() == 6


def test_errors_of_an_item_of_a_model_and_of_the_moment(
    client: Client, registry: SimpleNamespace, manager: ModelManager, make_set: Callable[..., PromptSet],
    settings: Any, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    asked: list[str] = []
    answer = working.Worker._answer

    async def odd(self: Any, target: Any, item: Any) -> Any:
        asked.append(f"{target.slug} {item.prompt}")
        if item.prompt == "huge":
            raise InferenceError("context_length_exceeded", detail={"tokens": 9000, "context": 2048})
        if target.slug == "poet":
            raise InferenceError("no_effect", detail={"name": "poet"})
        if asked.count("pirate flaky") == 1 and item.prompt == "flaky":
            raise InferenceError("queue_full", detail={"retry_after": 0.01})
        return await answer(self, target, item)

    monkeypatch.setattr(working.Worker, "_answer", odd)
    settings.EVALUATION_CONCURRENT = 1
    prompts = make_set("flaky", {"prompt": "huge", "checks": SAYS_PIRATE}, "plain")
    run = send(client, "POST", "", {"prompts": prompts.pk, "targets": ["poet", "pirate"]}).json()["id"]
    work()
    whole = client.get(f"{RUNS}/{run}", headers={"Accept-Language": "zh-hans"}).json()
    poet, pirate = whole["targets"]
    assert (poet["state"], poet["code"], poet["done"]) == ("failed", "no_effect", 0)
    assert "poet" in poet["message"] and "没有" in poet["message"]  # in the reader's language
    assert (pirate["state"], pirate["done"], pirate["errors"], pirate["judged"]) == ("done", 3, 1, 1)
    assert whole["state"] == "done"
    (row,) = client.get(f"{RUNS}/{run}/results?show=errors").json()["results"]
    assert row["cells"][0]["code"] == "context_length_exceeded" and "9,000" in row["cells"][0]["message"]


def test_cancelled_runs_stop_and_keep_what_they_have(
    client: Client, registry: SimpleNamespace, manager: ModelManager, make_set: Callable[..., PromptSet]
) -> None:
    prompts = make_set("ahoy", "hang")  # which is answered without end
    run = send(client, "POST", "", {"prompts": prompts.pk, "targets": ["pirate", "poet"]}).json()["id"]
    worker = threading.Thread(target=work)
    worker.start()
    while client.get(f"{RUNS}/{run}").json()["done"] < 1:
        worker.join(0.05)
    cancelled = send(client, "POST", f"/{run}/cancel").json()
    assert cancelled["state"] == "cancelled"
    worker.join(20)
    assert not worker.is_alive()
    whole = client.get(f"{RUNS}/{run}").json()
    assert (whole["state"], whole["done"]) == ("cancelled", 1)


def test_a_long_answer_is_stopped(
    client: Client, registry: SimpleNamespace, manager: ModelManager, make_set: Callable[..., PromptSet], settings: Any
) -> None:
    settings.EVALUATION_ANSWER_CHARS = 1000
    send(client, "POST", "", {"prompts": make_set("firehose").pk, "targets": ["pirate"]})
    work()
    answer = Answer.objects.get()
    assert (len(answer.text), answer.finish_reason) == (1000, "length")


def test_inactive_adapters(
    client: Client, registry: SimpleNamespace, manager: ModelManager, make_set: Callable[..., PromptSet],
    operator: User, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    prompts = make_set("ahoy", shared=True)
    wanted = {"prompts": prompts.pk, "targets": ["idle", "pirate"], "activates": True}
    refused = send(client, "POST", "", wanted).json()["error"]
    assert (refused["code"], refused["param"]) == ("adapter_inactive", "targets")
    client.force_login(operator)
    assert send(client, "POST", "", wanted | {"activates": False}).json()["error"]["code"] == "adapter_inactive"
    activated: list[tuple[int, str]] = []

    def activate(pk: int, actor: User) -> None:
        activated.append((pk, actor.username))
        if len(activated) == 1:
            raise ActivationFailed("no_effect")
        LoraAdapter.objects.filter(pk=pk).update(status=Status.ACTIVE, digest="a" * 64)

    monkeypatch.setattr(working, "activate", activate)
    for state, done in (("failed", 0), ("done", 1)):
        run = send(client, "POST", "", wanted).json()["id"]
        work()
        idle, pirate = client.get(f"{RUNS}/{run}").json()["targets"]
        assert (idle["state"], idle["done"], pirate["state"]) == (state, done, "done")
    assert activated == [(registry.idle.pk, "operator")] * 2


def test_runs_belong_to_their_owner_and_go_with_them(
    client: Client, registry: SimpleNamespace, manager: ModelManager, make_set: Callable[..., PromptSet],
    owner: User, outsider: User,
) -> None:  # fmt: skip
    prompts = make_set("ahoy", shared=True)
    run = send(client, "POST", "", {"prompts": prompts.pk, "targets": ["pirate"]}).json()["id"]
    other = Client()
    other.force_login(outsider)
    theirs = send(other, "POST", "", {"prompts": prompts.pk, "targets": ["pirate"]}).json()["id"]
    work()
    assert Answer.objects.count() == 2  # nobody is given what another one was answered
    assert other.get(f"{RUNS}/{run}").status_code == other.get(f"{RUNS}/{run}/export.csv").status_code == 404
    send(client, "PATCH", f"/{run}", {"shared": True})
    assert other.get(f"{RUNS}/{run}").json()["mine"] is False
    assert send(other, "DELETE", f"/{run}").status_code == 404
    sets.describe(prompts, shared=False)
    assert other.get(f"{RUNS}/{run}").status_code == 404  # with the set's sharing ends the run's
    assert other.get(f"{RUNS}/{theirs}").status_code == 200
    assert send(client, "DELETE", f"/{run}").status_code == 204
    assert list(Answer.objects.values_list("owner__username", flat=True)) == ["outsider"]
    outsider.delete()
    assert not Answer.objects.exists() and not Run.objects.exists()


def test_bounds(client: Client, registry: SimpleNamespace, make_set: Callable[..., PromptSet], settings: Any) -> None:
    settings.EVALUATION_TARGETS, settings.EVALUATION_RUNS = 1, 1
    prompts = make_set("ahoy")
    for targets, code in (([], "out_of_range"), (["pirate", "poet"], "out_of_range"), (["nobody"], "unknown_target")):
        refused = send(client, "POST", "", {"prompts": prompts.pk, "targets": targets}).json()["error"]
        assert (refused["code"], refused["param"]) == (code, "targets")
    assert send(client, "POST", "", {"prompts": prompts.pk, "targets": ["pirate"]}).status_code == 201
    assert (
        send(client, "POST", "", {"prompts": prompts.pk, "targets": ["pirate"]}).json()["error"]["code"] == "too_many"
    )
    empty = make_set(name="empty")
    assert send(client, "POST", "", {"prompts": empty.pk, "targets": ["pirate"]}).json()["error"]["code"] == "empty"


def test_checkpoints_by_their_steps(
    client: Client, registry: SimpleNamespace, manager: ModelManager, make_set: Callable[..., PromptSet]
) -> None:
    for step, name in ((100, "early"), (200, "middle"), (300, "late")):
        LoraAdapter.objects.create(
            name=name, slug=name, path_hash=name, base=registry.base, status=Status.ACTIVE,
            digest=f"{step}".ljust(64, "0"), group_hash="g" * 64, run_name="run", checkpoint=step,
        )  # fmt: skip
    good = {"early": 3, "middle": 12, "late": 8}  # of 12 items that ask for the words of a model
    items = [
        {"prompt": f"n{n}", "checks": [{"kind": "pattern", "value": "|".join(k for k in good if n < good[k])}]}
        for n in range(12)
    ]  # fmt: skip
    member = LoraAdapter.objects.get(slug="late").pk
    run = send(client, "POST", "", {"prompts": make_set(*items).pk, "run_of": member, "targets": ["pirate"]}).json()[
        "id"
    ]
    work()
    (group,) = client.get(f"{RUNS}/{run}/curve").json()["results"]
    assert [(point["step"], point["passed"]) for point in group["points"]] == [(100, 3), (200, 12), (300, 8)]
    by_id = {point["target"]: point["slug"] for point in group["points"]}
    assert (by_id[group["best"]["target"]], by_id[group["best"]["next"]]) == ("middle", "late")
    assert 0.95 < group["best"]["sure"] <= 1.0
    report = client.get(f"{RUNS}/{run}/export.md")
    text = written(report)
    assert "middle" in text and "200".ljust(64, "0") in text


def test_a_runs_own_adapter_stands_for_the_checkpoint_with_the_same_files(
    client: Client, registry: SimpleNamespace, manager: ModelManager, make_set: Callable[..., PromptSet]
) -> None:
    rows = {}
    for name, step, content in (("half", 50, "a"), ("whole", 100, "b"), ("run", None, "b")):
        rows[name] = LoraAdapter.objects.create(
            name=name, slug=name, path_hash=name, base=registry.base, status=Status.ACTIVE, content_key=content * 64,
            digest=content * 64, group_hash="g" * 64, run_name="run", checkpoint=step,
        )  # fmt: skip
    LoraAdapter.objects.filter(slug="whole").update(duplicate_of=rows["run"])
    prompts = make_set({"prompt": "ahoy", "checks": SAYS_PIRATE})

    def points(**wanted: Any) -> list[tuple[int, str]]:
        run = send(client, "POST", "", {"prompts": prompts.pk, **wanted}).json()["id"]
        work()
        (group,) = client.get(f"{RUNS}/{run}/curve").json()["results"]
        return [(point["step"], point["slug"]) for point in group["points"]]

    assert points(run_of=rows["half"].pk) == [(50, "half"), (100, "run")]
    assert Answer.objects.count() == 2
    assert points(targets=["run", "whole", "half"]) == [(50, "half"), (100, "whole")]  # each step once
    assert Answer.objects.count() == 2  # by the digest, which is the same


def scored_item(prompt: str, reference: str, **check: Any) -> dict[str, Any]:
    return {"prompt": prompt, "reference": reference, "checks": [{"kind": "loss", **check}]}


def test_references_are_scored_and_kept_as_answers_are(
    client: Client, registry: SimpleNamespace, manager: ModelManager, make_set: Callable[..., PromptSet]
) -> None:
    """The fake engine holds every word of a text but its first for as likely as 1/e."""
    both = {"prompt": "ahoy", "reference": "a b c", "checks": [*SAYS_PIRATE, {"kind": "loss"}]}
    prompts = make_set(both, scored_item("hi", "aye " * 9), scored_item("ho", "a b", most=0.5))
    first = send(client, "POST", "", {"prompts": prompts.pk, "targets": ["pirate"]}).json()["id"]
    work()
    whole = client.get(f"{RUNS}/{first}").json()
    (pirate,) = whole["targets"]
    assert (whole["done"], whole["reused"], pirate["errors"], pirate["judged"], pirate["passed"]) == (3, 0, 0, 2, 1)
    assert pirate["loss"] == {"loss": 1.0, "tokens": 2 + 8 + 1, "items": 3}
    assert (Answer.objects.count(), Score.objects.count()) == (1, 3)  # nothing else is asked for an answer
    assert whole["prompt_tokens"] == 1 + 3 and whole["completion_tokens"] == 3
    rows = client.get(f"{RUNS}/{first}/results").json()["results"]
    cells = [row["cells"][0] for row in rows]
    assert [(cell["passed"], cell["loss_tokens"], cell["answer"] is None) for cell in cells] == [
        (True, 2, False), (None, 8, True), (False, 1, True)
    ]  # fmt: skip
    lines = [json.loads(line) for line in written(client.get(f"{RUNS}/{first}/export.jsonl")).splitlines()[1:]]
    assert [line["loss"] for line in lines] == [1.0, 1.0, 1.0]
    assert "| 1.0000 | 11 |" in written(client.get(f"{RUNS}/{first}/export.md"))
    sets.replace(prompts, 1, read_item({**both, "checks": [{"kind": "contains", "value": "hi"}, {"kind": "loss"}]}))
    sets.replace(prompts, 2, read_item(scored_item("hi", "aye b")))
    warm = {"prompts": prompts.pk, "targets": ["pirate"], "params": {"max_tokens": 2}}
    second = send(client, "POST", "", warm).json()["id"]
    work()
    whole = client.get(f"{RUNS}/{second}").json()
    assert (whole["done"], whole["reused"]) == (3, 1)
    assert (Answer.objects.count(), Score.objects.count()) == (2, 4)  # other parameters: another answer, the same score
    for run in (first, second):
        send(client, "DELETE", f"/{run}")
    assert not Score.objects.exists() and not Answer.objects.exists()


def curve_of(client: Client, prompts: PromptSet) -> dict[str, Any]:
    """Of a new run over all checkpoints."""
    member = LoraAdapter.objects.get(slug="late").pk
    run = send(client, "POST", "", {"prompts": prompts.pk, "run_of": member}).json()["id"]
    work()
    (group,) = client.get(f"{RUNS}/{run}/curve").json()["results"]
    page = client.get(f"/evaluations/runs/{run}").content.decode()
    sentence = page.split('data-testid="best-step"')[1].split("</p>")[0]
    return {**group, "sentence": " ".join(re.sub("<[^>]+>", " ", sentence).split())}


def test_what_decides_between_checkpoints(
    client: Client, registry: SimpleNamespace, manager: ModelManager, make_set: Callable[..., PromptSet],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for step, name in ((50, "early"), (100, "late")):
        LoraAdapter.objects.create(
            name=name, slug=name, path_hash=name, base=registry.base, status=Status.ACTIVE,
            digest=f"{step}".ljust(64, "0"), group_hash="g" * 64, run_name="run", checkpoint=step,
        )  # fmt: skip
    failed = curve_of(client, make_set({"prompt": "ahoy", "checks": SAYS_PIRATE}, name="failed"))
    assert (failed["best"]["by"], len(failed["best"]["equal"])) == ("", 2)
    assert "Nothing decides between the steps 50 and 100: 0% passed with each." in failed["sentence"]
    assert "Best" not in failed["sentence"]
    score = working.Worker._score

    async def later_ones_know_it_better(self: Any, target: Any, item: Any) -> Any:
        found = await score(self, target, item)
        return replace(found, logprob=found.logprob / (2 if target.slug == "late" else 1))

    items = [scored_item(f"n{n}", "a b c") for n in range(4)]
    same = curve_of(client, make_set(*items, name="same"))
    assert (same["best"]["by"], same["points"][0]["share"]) == ("", None)
    assert "the loss is 1.0000 with each" in same["sentence"]
    monkeypatch.setattr(working.Worker, "_score", later_ones_know_it_better)
    items = [{**scored_item(f"m{n}", "a b c"), "checks": [*SAYS_PIRATE, {"kind": "loss"}]} for n in range(4)]
    group = curve_of(client, make_set(*items, name="both"))
    by_id = {point["target"]: point for point in group["points"]}
    best = by_id[group["best"]["target"]]
    assert (group["best"]["by"], best["slug"], best["loss"], group["best"]["sure"]) == ("loss", "late", 0.5, 1.0)
    assert "Best: step 100, by its loss of 0.5000; 0% passed, as with the next best." in group["sentence"]


def test_the_command_fails_below_the_bar(
    registry: SimpleNamespace,
    manager: ModelManager,
    make_set: Callable[..., PromptSet],
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_set({"prompt": "ahoy", "checks": SAYS_PIRATE}, {"prompt": "poet", "checks": SAYS_PIRATE}, name="bar")
    call_command("evaluate", "--set=bar", "--adapter=pirate", "--fail-under=100%")
    assert capsys.readouterr().out.startswith("pirate\t100.0% (34.2%-100.0%)\t2/2\t" + "d" * 64)
    with pytest.raises(CommandError, match="poet"):
        call_command("evaluate", "--set=bar", "--adapter=poet", "--adapter=pirate", "--fail-under=0.5")
    with pytest.raises(CommandError, match="adapter_inactive"):
        call_command("evaluate", "--set=bar", "--adapter=idle")
