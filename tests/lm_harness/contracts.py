"""lm-evaluation-harness against the portal, unchanged, and against PEFT on the same files: the same figures.

Not collected by itself: `make test-lm-eval`; `.ci/run` has one of the models asked about fewer documents.
"""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from demo.install import SOURCE
from demo.recipes import RECIPES
from tests.fixtures.portal import Portal

pytestmark = [pytest.mark.demo, pytest.mark.slow]
DATA = Path(__file__).resolve().parent.parent.parent / "demo" / "data"
COMMAND = Path(__file__).with_name("command.py")
TARGETS = ["pirate", "json-only", ""]  # "": the base itself
DOCUMENTS = int(os.environ.get("LORAPORTAL_LM_EVAL_DOCUMENTS", "9"))  # of each task, a third from each training
CHOICE = """
task: demo_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
ROLLING = """
task: demo_rolling
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: byte_perplexity}}, {{metric: bits_per_byte}}]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small tasks made of the rows that the demo's trainings held out: which answer is this question's, in this
    adapter's manner, and how likely are the answers by themselves."""
    folder = tmp_path_factory.mktemp("tasks")
    held = []
    for name in ("pirate", "json-only", "haiku"):
        recipe = RECIPES[name]
        lines = (DATA / f"{recipe.data}.jsonl").read_text(encoding="utf-8").splitlines()[-recipe.eval_rows :]
        held.append([[turn["content"] for turn in json.loads(line)["messages"]][-2:] for line in lines])
    rows = []
    for manner in held:
        for at, (question, answer) in enumerate(manner[: DOCUMENTS // 3]):
            others = [manner[at - 1][1], *(other[at][1] for other in held if other is not manner)]
            rows.append({"question": question, "answer": answer, "choices": [answer, *others]})
    file = folder / "held_out.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "choice.yaml").write_text(CHOICE.format(file=file), encoding="utf-8")
    (folder / "rolling.yaml").write_text(ROLLING.format(file=file), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def served(demo_portal: Portal) -> Portal:
    assert demo_portal.api("POST", "/api/lora/scan", {}).status == 200
    return demo_portal


def activate(portal: Portal, slug: str) -> None:
    rows = portal.api("GET", "/api/lora/models?page_size=200").json()["results"]
    model = next(row for row in rows if row["slug"] == slug)
    done = portal.api("POST", f"/api/lora/models/{model['id']}/activate", {})
    assert done.status == 200, done.json()


def evaluate(tasks: Path, to: Path, kind: str, arguments: str, *words: str, token: str = "") -> dict[str, Any]:
    """By the harness's own command: `figures` of the tasks, and of each request what was answered."""
    command: list[str | Path] = [
        Path(os.environ["LORAPORTAL_LM_EVAL"]) / "python", COMMAND, "run", "--model", kind,
        "--model_args", arguments, "--tasks", "demo_choice,demo_rolling", "--include_path", tasks, "--log_samples",
        "--output_path", to, *words,
    ]  # fmt: skip
    environment = {
        **os.environ, "OPENAI_API_KEY": token, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tasks / "hf"),
        "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-6000:]
    [results] = to.rglob("results_*.json")
    answered = {}
    for name in ("demo_choice", "demo_rolling"):
        [file] = to.rglob(f"samples_{name}_*.jsonl")
        rows = sorted(map(json.loads, file.read_text(encoding="utf-8").splitlines()), key=lambda row: row["doc_id"])
        answered[name] = [row["resps"] for row in rows]
    found = json.loads(results.read_text(encoding="utf-8"))["results"]
    figures = {
        (task, name): value for task, its in found.items() for name, value in its.items() if isinstance(value, float)
    }
    return {"figures": figures, "answered": answered}


def numbers(value: Any) -> list[float]:
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [float(value == "True") if value in ("True", "False") else float(value)]


@pytest.mark.parametrize("name", TARGETS, ids=lambda name: name or "base")
def test_the_figures_are_those_of_peft(
    name: str, served: Portal, tasks: Path, tmp_path: Path, demo_base_model: Path
) -> None:
    if name:
        activate(served, name)
    base = served.api("GET", "/v1/models").json()["data"]
    model = name or next(one["id"] for one in base if one["parent"] is None)
    address = f"model={model},base_url={served.url}/v1/completions,tokenizer={demo_base_model}"
    adapter = f",peft={SOURCE / name}" if name else ""
    files = f"pretrained={demo_base_model},dtype=float32{adapter}"
    with ThreadPoolExecutor() as both:  # most of the time is the harness's start, on one core
        asked = both.submit(
            evaluate, tasks, tmp_path / "portal", "local-completions", address, "--batch_size", "8",
            token=served.token(),
        )  # fmt: skip
        theirs = evaluate(tasks, tmp_path / "peft", "hf", files, "--batch_size", "4", "--device", "cpu")
        ours = asked.result()
    assert ours["figures"] == pytest.approx(theirs["figures"], abs=1e-3) and len(ours["figures"]) >= 4
    for task, answered in theirs["answered"].items():
        expected = numbers(answered)
        assert numbers(ours["answered"][task]) == pytest.approx(expected, abs=1e-3), task
        assert len(expected) >= DOCUMENTS
