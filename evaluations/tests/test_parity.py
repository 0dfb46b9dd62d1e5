"""Does what was trained arrive? Over a fake worker that holds each word of a text for as likely as 1/e."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from adapters.leases import HeldLease
from adapters.models import BaseModel, LoraAdapter
from evaluations.models import Parity, PromptSet, Sample
from evaluations.parity import tokens
from evaluations.parity.comparing import Served, difference, ending
from evaluations.parity.figures import figures, mean
from evaluations.parity.tokens import TokenizerError, Written, tokenize
from evaluations.parity.verdict import outcome
from evaluations.runs import parity_working, queue
from evaluations.runs.job import in_database
from evaluations.runs.parity_apart import Elsewhere
from inference.backends.process import WorkerOptions
from inference.gateway import apart
from inference.manager import ModelManager
from inference.tests.conftest import FAKE_WORKER

PARITY = "/api/evaluations/parity"


def saved(folder: Path, vocabulary: dict[str, int]) -> Path:
    """A tokenizer of whole words that ends a text with </s>."""
    made = Tokenizer(models.WordLevel({"</s>": 9}, unk_token="</s>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 9)])
    said = json.loads(made.to_str())
    said["model"]["vocab"] = {**vocabulary, "</s>": 9}  # (`save` leaves out all but one word of an id)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(said))
    return folder / "tokenizer.json"


# Tokens and figures


def written(*ids: int) -> Written:
    return Written("".join(f"<{one}>" for one in ids), list(ids), [(3 * at, 3 * at + 3) for at in range(len(ids))])


def served(*ids: int, first: int) -> Served:
    return Served(list(ids), [f"<{one}>" for one in ids], first)


def test_the_first_token_that_differs_is_shown_with_its_surroundings() -> None:
    assert difference(served(1, 2, 3, first=2), written(1, 2, 3, 9)) is None
    apart = difference(served(1, 2, 3, 4, first=2), written(1, 2, 5, 6, 9))
    assert apart == {
        "at": 2, "before": "<1><2>", "served": {"id": 3, "text": "<3>"}, "trained": {"id": 5, "text": "<5>"},
        "served_after": "<4>", "trained_after": "<6><9>",
    }  # fmt: skip
    longer = difference(served(1, 2, 3, first=2), written(1, 2))
    assert longer is not None and (longer["at"], longer["trained"]) == (2, None)


def test_an_answer_ends_with_what_training_has_after_it() -> None:
    assert ending(served(1, 2, 3, first=1), written(1, 2, 3, 9, 8), "") == 9
    assert ending(served(1, 2, 3, first=1), written(7, 7, 2, 3, 9), "") == 9  # another question before it
    assert ending(served(1, 2, 3, first=1), written(1, 2, 3), "") is None
    assert ending(served(1, 2, 3, first=1), written(1, 4), "<2><3>") is None
    assert ending(served(1, 5, first=1), written(1, 2, 3, 9), " <2><3>") == 9  # the same text in other tokens


def test_losses_are_averaged_as_the_trainer_does() -> None:
    sums = [(8.0, 4), (1.0, 1), (3.0, 3)]
    assert mean(sums, None) == 12 / 8  # every token counts the same
    assert mean(sums, 1) == (2 + 1 + 1) / 3
    assert mean(sums, 2) == pytest.approx((2 * 9 / 5 + 1 * 1) / 3)
    facts = [{"served": {"ended": one, "answer": [one[0], one[1] + 1]}} for one in sums]
    one, other = figures(facts, 1.51, 3)
    assert (one.way, one.within, one.tokens) == ("ended", True, 8) and (other.way, other.within) == ("answer", False)


APART = {"difference": {"at": 0}}


@pytest.mark.parametrize(
    ("verdict", "recorded", "sample"),
    [
        ("arrives", {"loss": 2.02, "samples": 1, "batches": 1}, {"served": {"ended": [4.0, 2]}}),
        ("arrives", {"loss": 1.0}, {"served": {"ended": [4.0, 2], "answer": [1.0, 1]}}),
        ("apart", {"loss": 2.1}, {"served": {"ended": [4.0, 2]}}),
        ("arrives_otherwise", {"loss": 2.0}, {"served": {"ended": [4.0, 2]}, **APART}),
        ("rendering", {"loss": 1.0}, {"served": {"ended": [4.0, 2]}, "trained": {"ended": [2.0, 2]}, **APART}),
        ("apart", {"loss": 3.0}, {"served": {"ended": [4.0, 2]}, "trained": {"ended": [2.0, 2]}, **APART}),
        ("other_samples", {"loss": 2.0, "samples": 5, "batches": 1}, {"served": {"ended": [4.0, 2]}}),
        ("unrecorded", {}, {"served": {"ended": [4.0, 2]}}),
    ],
)
def test_verdicts(verdict: str, recorded: dict[str, Any], sample: dict[str, Any]) -> None:
    assert outcome(recorded, [SimpleNamespace(facts=sample, elsewhere={})])["verdict"] == verdict
    assert outcome(recorded, [])["verdict"] == "unmeasured"


@pytest.mark.parametrize(
    ("losses", "recorded", "code", "values"),
    [
        ({}, None, None, {}),
        ({"bf16": 2.02, "int8": 2.3}, None, "loses", {"name": "int8", "reference": "fp32", "difference": "0.300"}),
        ({"bf16": 2.03, "nf4": 1.9}, None, "gains", {"name": "nf4", "difference": "0.100", "tolerance": "0.040"}),
        ({"bf16": 2.03, "int8": 1.99}, None, "same", {"name": "bf16", "difference": "0.030"}),
        ({"bf16": 2.03, "int8": 2.3}, 2.3, "explains", {"name": "int8", "loss": "2.300"}),
    ],
)
def test_what_a_precision_costs(
    losses: dict[str, float], recorded: float | None, code: str | None, values: dict[str, str]
) -> None:
    """Over samples of ten tokens, one of which was not measured everywhere."""
    samples = [
        SimpleNamespace(
            facts={"served": {"ended": [20.0 + at, 10]}},
            elsewhere={name: {"ended": [10 * loss + at, 10]} if at else {"code": "x"} for name, loss in losses.items()},
        )
        for at in (0, 1, -1)
    ]  # fmt: skip
    found = outcome({"loss": recorded} if recorded else {}, samples, "fp32").get("precision") or {}
    assert found.get("code") == code
    assert {name: found["values"][name] for name in values} == values if code else not found


def test_tokenizers_of_others_are_read_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with saved(tmp_path / "good", {"a": 0, "b": 1}).open("rb", buffering=0) as file:
        one, other = tokenize(file, [("a b", True), ("b", False)])
    assert (one.ids, one.piece(1), other.ids) == ([0, 1, 9], "b", [1])
    (tmp_path / "bad.json").write_text("{}")
    with (tmp_path / "bad.json").open("rb", buffering=0) as file, pytest.raises(TokenizerError):
        tokenize(file, [("a", True)])
    greedy = json.loads((tmp_path / "good" / "tokenizer.json").read_text())
    pattern = {"Regex": r"(a|aa)+\1!"}  # at which the library gives up, and ends its process
    greedy["pre_tokenizer"] = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    (tmp_path / "greedy.json").write_text(json.dumps(greedy))
    with (tmp_path / "greedy.json").open("rb", buffering=0) as file, pytest.raises(TokenizerError) as caught:
        tokenize(file, [("a" * 200, True)])
    assert caught.value.reason == "its tokenizer takes too much time or memory"
    monkeypatch.setattr(tokens, "PATIENCE", 0.01)
    with (
        (tmp_path / "good" / "tokenizer.json").open("rb", buffering=0) as file,
        pytest.raises(TokenizerError) as caught,
    ):
        tokenize(file, [("a", True)])
    assert caught.value.reason == "its tokenizer takes too long"


# Reports


@pytest.fixture
def client(client: Client, owner: User) -> Client:
    client.force_login(owner)
    return client


@pytest.fixture
def trained(registry: SimpleNamespace, tmp_path: Path, settings: Any) -> Path:
    """The training folder of `pirate`, checkpoint 50, with its own tokenizer. The fake worker numbers the words of a
    question and of a reference from 0; so does this tokenizer."""
    settings.LORA_ROOTS = [str(tmp_path)]
    folder = tmp_path / "run" / "checkpoint-50"
    saved(folder, {"a": 0, "b": 1, "x": 0, "y": 1, "z": 2})
    speed = {"eval_runtime": 1.0, "eval_samples_per_second": 2.0, "eval_steps_per_second": 1.0}
    record(folder, {"step": 50, "eval_loss": 1.005, **speed})
    LoraAdapter.objects.filter(slug="pirate").update(path=str(folder), checkpoint=50)
    return folder


def record(folder: Path, *entries: Any) -> None:
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": list(entries)}))


def ask(client: Client, prompts: PromptSet, adapter: str = "pirate", **more: Any) -> Any:
    body = json.dumps({"adapter": adapter, "prompts": prompts.pk, **more})
    return client.post(PARITY, body, content_type="application/json")


@pytest.fixture
def precisions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
    """What is served is fp32; engines of other precisions give each word the loss that is named, or end at once."""
    started: list[str] = []

    async def status() -> dict[str, Any]:
        return {"engine": {"base_key": "b" * 64, "precision": "fp32"}}

    def install(**losses: float) -> list[str]:
        def options(log: str, **config: Any) -> WorkerOptions:
            started.append(config["precision"])
            command = (sys.executable, str(FAKE_WORKER))
            told = {"loss": losses[config["precision"]], "beat": 0.1}
            return WorkerOptions(told, tmp_path / log, FAKE_WORKER.parents[2], command, start_timeout=20.0)

        monkeypatch.setattr(apart, "worker_options", options)
        return started

    monkeypatch.setattr(parity_working, "status", status)
    return install


def work() -> None:
    with HeldLease(queue.LEASE) as lease:
        while queue.work_on_next(lease):
            pass


SAMPLE = {"prompt": "a b", "reference": " x y z"}

pytestmark = pytest.mark.django_db(transaction=True)


def test_what_was_trained_arrives(
    client: Client, trained: Path, manager: ModelManager, make_set: Callable[..., PromptSet],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    async def status() -> dict[str, Any]:
        return {"engine": {"base_key": "b" * 64, "precision": "fp32"}}

    monkeypatch.setattr(parity_working, "status", status)
    made = ask(client, make_set(SAMPLE, SAMPLE))
    assert (made.status_code, made.json()["recorded"]) == (201, {"loss": 1.005, "samples": 2, "batches": 1})
    work()
    report = client.get(f"{PARITY}/{made.json()['id']}").json()
    assert (report["state"], report["done"], report["errors"], report["differing"]) == ("done", 2, 0, 0)
    assert (report["verdict"], report["step"], report["batch"]) == ("arrives", 50, 2)
    assert report["sentence"] == "The loss here is 1.000, the trainer recorded 1.005: what was trained arrives."
    counted = [(one["way"], one["tokens"], one["loss"]) for one in report["figures"]]
    assert counted == [("ended", 2 * 4, 1.0), ("whole", 2 * 5, 1.0), ("answer", 2 * 3, 1.0)]
    assert report["implied"] == {"template": "", "tokenizer": "adapter"}
    assert [one["name"] for one in report["precisions"] if one["measured"]] == ["fp32"]
    page = client.get(f"/evaluations/parity/{report['id']}", headers={"Accept-Language": "zh-hans"}).content.decode()
    assert "训练的结果完整到达" in page
    adapter = LoraAdapter.objects.get(slug="pirate")
    assert f"/evaluations/parity?adapter={adapter.pk}" in client.get(f"/models/{adapter.pk}").content.decode()
    listed = client.get(f"/evaluations/parity?adapter={adapter.pk}").content.decode()
    assert "evaluation loss of 1.0050 at step 50" in listed and report["sentence"] in listed
    assert client.get(f"{PARITY}?adapter={adapter.pk}").json()["results"][0]["verdict"] == "arrives"
    assert client.delete(f"{PARITY}/{report['id']}").status_code == 204 and not Sample.objects.exists()


def test_other_tokens_and_other_samples_are_told(
    client: Client, trained: Path, manager: ModelManager, make_set: Callable[..., PromptSet]
) -> None:
    saved(trained, {"a": 0, "b": 1, "x": 0, "y": 7, "z": 2})
    first = ask(client, make_set(SAMPLE, SAMPLE)).json()["id"]
    second = ask(client, make_set(SAMPLE, name="one")).json()["id"]
    work()
    report = client.get(f"{PARITY}/{first}").json()
    assert (report["verdict"], report["differing"]) == ("arrives_otherwise", 2)
    assert report["difference"] == {
        "item": 1, "at": 3, "before": "abx", "served": {"id": 1, "text": "y"}, "trained": {"id": 7, "text": "y"},
        "served_after": "z", "trained_after": "z",
    }  # fmt: skip
    assert "trained" in {one["rendering"] for one in report["figures"]}
    page = client.get(f"/evaluations/parity/{first}").content.decode()
    assert "2 of 2 samples have other tokens here than in training." in page
    assert client.get(f"{PARITY}/{second}").json()["verdict"] == "other_samples"


def test_without_a_record_or_a_tokenizer_it_says_so(
    client: Client, trained: Path, manager: ModelManager, make_set: Callable[..., PromptSet]
) -> None:
    record(trained, {"step": 40, "eval_loss": 1.0})
    (trained / "tokenizer.json").unlink()
    pk = ask(client, make_set(SAMPLE, {"prompt": "fail", "reference": "a"})).json()["id"]
    work()
    report = client.get(f"{PARITY}/{pk}").json()
    assert (report["verdict"], report["recorded"], report["errors"]) == ("unrecorded", None, 1)
    assert report["untold"] == "there is no tokenizer.json" and report["figures"][0]["loss"] == 1.0
    page = client.get(f"/evaluations/parity/{pk}").content.decode()
    assert "context_length_exceeded" in page


def test_a_report_goes_on_where_a_process_died(
    client: Client, trained: Path, manager: ModelManager, make_set: Callable[..., PromptSet], settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settings.EVALUATION_CONCURRENT = 1
    pk = ask(client, make_set(SAMPLE, SAMPLE)).json()["id"]
    keep = parity_working.ParityWorker._keep

    def dies_after_one(self: Any, item: Any, **fields: Any) -> None:
        if Sample.objects.exists():
            raise KeyboardInterrupt
        keep(self, item, **fields)

    monkeypatch.setattr(parity_working.ParityWorker, "_keep", dies_after_one)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert client.get(f"{PARITY}/{pk}").json()["state"] == "running"
    monkeypatch.setattr(parity_working.ParityWorker, "_keep", keep)
    work()
    assert client.get(f"{PARITY}/{pk}").json()["verdict"] == "arrives"
    assert Sample.objects.count() == 2


def test_what_cannot_be_measured_is_refused(
    client: Client, trained: Path, manager: ModelManager, make_set: Callable[..., PromptSet], settings: Any
) -> None:
    bare = ask(client, make_set(SAMPLE, "no reference")).json()["error"]
    assert (bare["code"], bare["param"]) == ("required", "prompts") and "Item 2" in bare["message"]
    good = make_set(SAMPLE, name="good")
    assert ask(client, good, "idle").json()["error"]["code"] == "adapter_inactive"
    assert ask(client, good, "tiny").json()["error"]["code"] == "unknown_target"  # a base was trained by nobody here
    pk = ask(client, good).json()["id"]
    newest = ask(client, good).json()["id"]
    assert [one["id"] for one in client.get(PARITY).json()["results"]] == [newest, pk]
    assert client.delete(f"{PARITY}/{newest}").status_code == 204
    LoraAdapter.objects.filter(slug="pirate").update(digest="f" * 64)
    work()
    report = client.get(f"{PARITY}/{pk}").json()
    assert (report["state"], report["code"], report["verdict"]) == ("failed", "changed_meanwhile", "")
    settings.EVALUATION_RUNS = 1
    assert ask(client, good).json()["error"]["code"] == "too_many"
    again = Parity.objects.create(owner_id=Parity.objects.get().owner_id, version=good.versions.get(), slug="pirate")
    assert client.post(f"{PARITY}/{again.pk}/cancel").json()["state"] == "cancelled"


def by_name(report: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one for one in report["precisions"]}


def test_further_precisions_are_measured_by_an_engine_of_their_own(
    client: Client, trained: Path, manager: ModelManager, make_set: Callable[..., PromptSet],
    precisions: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    started = precisions(bf16=1.0, int8=1.25)
    monkeypatch.setattr(apart, "free_bytes", lambda: 8 * 2**30)
    pk = ask(client, make_set(SAMPLE, SAMPLE), precisions=["int8", "fp32", "bf16"]).json()["id"]
    assert [one["state"] for one in client.get(f"{PARITY}/{pk}").json()["precisions"]] == ["waiting"] * 3 + [""]
    keep = Elsewhere._keep

    def dies_in_the_middle(self: Any, sample: Any, name: str, found: Any) -> None:
        if name == "int8" and any(one.elsewhere.get("int8") for one in Sample.objects.all()):
            raise KeyboardInterrupt
        keep(self, sample, name, found)

    monkeypatch.setattr(Elsewhere, "_keep", dies_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        work()
    now = by_name(client.get(f"{PARITY}/{pk}").json())
    assert (now["bf16"]["state"], now["int8"]["state"], now["int8"]["done"]) == ("done", "running", 1)
    monkeypatch.setattr(Elsewhere, "_keep", keep)
    work()
    assert started == ["bf16", "int8", "int8"]  # what is served needs none, and nothing is measured twice
    report = client.get(f"{PARITY}/{pk}").json()
    now = by_name(report)
    assert (report["verdict"], report["precision_verdict"]) == ("arrives", "loses")
    assert report["sentence"].endswith(
        "int8 loses 0.250 nats against fp32; up to 0.020 (0.01 nats, or 2% of the loss) would be tolerated."
    )
    assert (now["fp32"]["served"], now["fp32"]["reference"], now["fp32"]["loss"]) == (True, True, 1.0)
    assert (now["int8"]["loss"], now["int8"]["difference"], now["int8"]["matters"]) == (1.25, 0.25, True)
    assert (now["bf16"]["difference"], now["bf16"]["matters"], now["nf4"]["measured"]) == (0.0, False, False)
    assert not any(Sample.objects.values_list("asked", flat=True))  # of no use any more
    text = client.get(f"{PARITY}/{pk}/export.md").content.decode()
    assert "| int8 | 1.2500 | +0.2500 | fp32 | 8 |" in text and "d" * 64 in text
    page = client.get(f"/evaluations/parity/{pk}", headers={"Accept-Language": "zh-hans"}).content.decode()
    assert "int8 比 fp32 损失 0.250 nat" in page and 'data-name="int8" data-state="done"' in page


def test_a_precision_that_cannot_be_measured_says_why(
    client: Client, trained: Path, manager: ModelManager, make_set: Callable[..., PromptSet], settings: Any,
    precisions: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    started = precisions(bf16=1.0)
    million = 10**6
    sizes = {"memory_fp32": 12_350 * million, "memory_bf16": 6_350 * million, "memory_nf4": 2_500 * million}
    BaseModel.objects.update(parameters=3000 * million, **sizes)
    prompts = make_set(SAMPLE)
    monkeypatch.setattr(apart, "free_bytes", lambda: 10 * 2**30)
    refused = ask(client, prompts, precisions=["bf16", "fp32"]).json()["error"]
    assert (refused["code"], refused["param"]) == ("precision_memory", "precisions")
    assert (
        "tiny in fp32" in refused["message"] and "13.0 GiB" in refused["message"] and "10.0 GiB" in refused["message"]
    )
    pk = ask(client, prompts, precisions=["bf16", "nf4"]).json()["id"]
    form = client.get(f"/evaluations/parity?adapter={LoraAdapter.objects.get(slug='pirate').pk}").content.decode()
    assert 'value="fp32" disabled' in form and 'value="bf16"  data' in form
    monkeypatch.setattr(apart, "free_bytes", lambda: 2**30)  # meanwhile
    work()
    report = client.get(f"{PARITY}/{pk}").json()
    now = by_name(report)
    assert (report["state"], report["verdict"], started) == ("done", "other_samples", [])
    assert (now["nf4"]["state"], now["nf4"]["code"]) == ("failed", "precision_memory")
    assert "1.0 GiB is free" in now["nf4"]["message"]
    settings.INFERENCE_BACKEND = "vllm"
    assert ask(client, prompts, precisions=["bf16"]).json()["error"]["code"] == "precision_unavailable"


def test_a_cancelled_report_ends_the_engine_of_a_precision(
    client: Client, trained: Path, manager: ModelManager, make_set: Callable[..., PromptSet],
    precisions: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    precisions(bf16=1.0)
    pk = ask(client, make_set(SAMPLE), precisions=["bf16"]).json()["id"]
    managers: list[ModelManager] = []
    make = apart.make_manager

    def noted(precision: str) -> ModelManager:
        managers.append(make(precision))
        return managers[-1]

    async def never_ends(self: Any, *_args: Any) -> None:
        await in_database(lambda: Parity.objects.get(pk=pk).cancel())
        await asyncio.Event().wait()

    monkeypatch.setattr(apart, "make_manager", noted)
    monkeypatch.setattr(Elsewhere, "_sample", never_ends)
    work()
    report = client.get(f"{PARITY}/{pk}").json()
    assert (report["state"], by_name(report)["bf16"]["state"]) == ("cancelled", "")
    (ended,) = managers
    assert ended.backend.snapshot()["state"] in ("stopped", "closed", "idle") and not ended.ready
