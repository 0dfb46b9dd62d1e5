"""The calls about prompt sets and evaluations."""

from __future__ import annotations

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema

from evaluations import answers
from evaluations.api import duels, gates, parity, runs, sets
from evaluations.items import GivenItem, GivenItems
from evaluations.models import Outcome
from evaluations.runs.figures import FILTERS

from .calls import CHANGING, PAGING, READING, call, describe, errors, example, query

NUMBER = OpenApiParameter("number", OpenApiTypes.INT, OpenApiParameter.PATH, description="Of the item.")
VERSION = query("version", "Number of a version; without one the newest.", OpenApiTypes.INT)
SEARCH = query("search", "Only with this text.")
ITEM = {"messages": [{"role": "user", "content": "Say hello."}], "checks": [{"kind": "contains", "value": "hello"}]}


def files(summary: str, *media: str, **extra: object) -> object:
    shapes = {(200, one): OpenApiResponse(OpenApiTypes.STR) for one in media}
    return extend_schema(summary=summary, responses={**shapes, **errors(*READING, 503)}, **extra)  # type: ignore[arg-type]


describe(
    "evaluations.api.sets.SetsView",
    get=call(answers.SetPage, "Prompt sets, one's own and shared ones", *READING, operation_id="list_prompt_sets",
             parameters=[SEARCH, *PAGING]),
    post=call(answers.StoredSet, "Make a prompt set", *CHANGING, 503, status=201, body=sets.NewSet,
              operation_id="make_prompt_set", examples=example({"name": "greetings", "items": [ITEM]})),
)  # fmt: skip
describe(
    "evaluations.api.sets.SetView",
    get=call(answers.StoredSet, "One prompt set", *READING, operation_id="get_prompt_set"),
    patch=call(answers.StoredSet, "Change name, description or sharing", *CHANGING, body=sets.SetChange,
               operation_id="change_prompt_set", examples=example({"shared": True})),
    delete=call(None, "Delete a prompt set with its runs", *READING, status=204, operation_id="delete_prompt_set"),
)  # fmt: skip
describe(
    "evaluations.api.sets.VersionsView",
    get=call(answers.Versions, "The versions of a prompt set", *READING, operation_id="list_prompt_set_versions"),
)
describe(
    "evaluations.api.sets.ItemsView",
    get=call(answers.ItemPage, "The items of a version", *READING, operation_id="list_prompt_items",
             parameters=[VERSION, SEARCH, *PAGING]),
    post=call(answers.Changed, "Add items", *CHANGING, 503, status=201, body=GivenItems,
              operation_id="add_prompt_items", examples=example({"items": [ITEM]})),
)  # fmt: skip
describe(
    "evaluations.api.sets.RemovalView",
    post=call(answers.Changed, "Remove items", *CHANGING, body=sets.RemovalBody, operation_id="remove_prompt_items",
              examples=example({"numbers": [1, 2]})),
)  # fmt: skip
describe(
    "evaluations.api.sets.ItemView",
    get=call(answers.StoredItem, "One item", *READING, operation_id="get_prompt_item", parameters=[NUMBER, VERSION]),
    put=call(answers.Changed, "Replace an item", *CHANGING, body=GivenItem, operation_id="replace_prompt_item",
             parameters=[NUMBER], examples=example(ITEM)),
    delete=call(None, "Remove an item", *READING, status=204, operation_id="remove_prompt_item", parameters=[NUMBER]),
)  # fmt: skip
describe(
    "evaluations.api.sets.ImportView",
    post=call(answers.Changed, "Add the items of a file: JSONL, CSV, or a trainer's", *CHANGING, 503, status=201,
              body=sets.ImportBody, operation_id="import_prompts",
              examples=example({"text": "prompt,contains\nSay hello.,hello\n"})),
)  # fmt: skip
describe(
    "evaluations.api.sets.ExportView",
    get=files("The items of a version as a file", "application/x-ndjson", "text/csv", parameters=[VERSION]),
)
describe(
    "evaluations.api.runs.RunsView",
    get=call(answers.RunPage, "Evaluations, newest first", *READING, operation_id="list_evaluations",
             parameters=[query("prompts", "Only of this prompt set.", OpenApiTypes.INT), *PAGING]),
    post=call(answers.WholeRun, "Run a prompt set over models", *CHANGING, 422, 503, status=201, body=runs.NewRun,
              operation_id="make_evaluation", examples=example({"prompts": 1, "targets": ["pirate"]})),
)  # fmt: skip
describe(
    "evaluations.api.runs.RunView",
    get=call(answers.WholeRun, "One evaluation", *READING, operation_id="get_evaluation"),
    patch=call(answers.WholeRun, "Share an evaluation, or no longer", *CHANGING, body=runs.RunChange,
               operation_id="change_evaluation", examples=example({"shared": True})),
    delete=call(None, "Delete an evaluation", *READING, status=204, operation_id="delete_evaluation"),
)  # fmt: skip
describe(
    "evaluations.api.runs.CancelView",
    post=call(answers.WholeRun, "Cancel an evaluation", *READING, 413, 415, operation_id="cancel_evaluation"),
)
describe(
    "evaluations.api.runs.AgainView",
    post=call(answers.WholeRun, "Run it again with the newest version", *CHANGING, 422, 503, status=201,
              operation_id="repeat_evaluation"),
)  # fmt: skip
describe(
    "evaluations.api.runs.ResultsView",
    get=call(answers.RowPage, "Results item by item", *READING, operation_id="list_evaluation_results",
             parameters=[query("show", "Only such items.", enum=[one for one in FILTERS if one]), SEARCH, *PAGING]),
)  # fmt: skip
describe(
    "evaluations.api.runs.CurveView",
    get=call(answers.Curves, "Pass rate by training step", *READING, operation_id="get_evaluation_curve"),
)
describe(
    "evaluations.api.runs.RunExportView",
    get=files("Results as a file", "text/csv", "application/x-ndjson", "text/markdown"),
)
describe(
    "evaluations.api.parity.ParitiesView",
    get=call(answers.ParityPage, "Parity reports, newest first", *READING, operation_id="list_parity_reports",
             parameters=[query("adapter", "Only of the adapter with this id.", OpenApiTypes.INT), *PAGING]),
    post=call(answers.WholeParity, "Measure whether what was trained arrives here", *CHANGING, 422, 503, status=201,
              body=parity.NewParity, operation_id="make_parity_report",
              examples=example({"adapter": "pirate", "prompts": 1, "precisions": ["bf16", "int8"]})),
)  # fmt: skip
describe(
    "evaluations.api.parity.ParityView",
    get=call(answers.WholeParity, "One parity report", *READING, operation_id="get_parity_report"),
    delete=call(None, "Delete a parity report", *READING, status=204, operation_id="delete_parity_report"),
)
describe(
    "evaluations.api.parity.ParityExportView",
    get=files("A parity report as a file", "text/markdown"),
)
describe(
    "evaluations.api.parity.ParityCancelView",
    post=call(answers.WholeParity, "Cancel a parity report", *READING, 413, 415, operation_id="cancel_parity_report"),
)

GATE = {"kind": "run", "name": "pirate", "prompts": 1, "least": 0.9, "not_worse": True}
describe(
    "evaluations.api.gates.GatesView",
    get=call(answers.GatePage, "Gates", *READING, operation_id="list_gates", parameters=PAGING),
    post=call(answers.StoredGate, "Make a gate", *CHANGING, status=201, body=gates.NewGate, operation_id="make_gate",
              examples=example(GATE)),
)  # fmt: skip
describe(
    "evaluations.api.gates.GateView",
    get=call(answers.StoredGate, "One gate", *READING, operation_id="get_gate"),
    patch=call(answers.StoredGate, "Change a gate", *CHANGING, body=gates.GateChange, operation_id="change_gate",
               examples=example({"least": 0.85})),
    delete=call(None, "Delete a gate with its verdicts", *READING, status=204, operation_id="delete_gate"),
)  # fmt: skip
describe(
    "evaluations.api.gates.VerdictsView",
    get=call(answers.VerdictPage, "The verdicts of a gate, newest first", *READING, operation_id="list_gate_verdicts",
             parameters=PAGING),
    post=call(answers.StoredVerdict, "Have an adapter of its family judged, also again", *CHANGING, status=202,
              body=gates.WantedVerdict, operation_id="judge_adapter", examples=example({"adapter": 1})),
)  # fmt: skip
describe(
    "evaluations.api.gates.NoticesView",
    get=call(answers.NoticePage, "What its webhook was told, newest first", *READING, operation_id="list_gate_notices",
             parameters=PAGING),
)  # fmt: skip
describe(
    "evaluations.api.gates.StandingView",
    get=call(answers.Standings, "May an adapter become active, and what its gates found", 400, *READING,
             operation_id="get_gate_standing", parameters=[query("adapter", "Slug or id of an adapter.")]),
)  # fmt: skip
describe(
    "evaluations.api.duels.DuelsView",
    get=call(answers.Duels, "Head to heads of an evaluation, newest first", *READING,
             operation_id="list_head_to_heads"),
    post=call(answers.WholeDuel, "Have a judge compare the answers of an evaluation", *CHANGING, 422, 503, status=201,
              body=duels.NewDuel, operation_id="make_head_to_head", examples=example({"judge": "qwen", "items": 100})),
)  # fmt: skip
describe(
    "evaluations.api.duels.DuelView",
    get=call(answers.WholeDuel, "One head to head: win rates and ranking", *READING, operation_id="get_head_to_head"),
    delete=call(None, "Delete a head to head", *READING, status=204, operation_id="delete_head_to_head"),
)
describe(
    "evaluations.api.duels.DuelCancelView",
    post=call(answers.WholeDuel, "Cancel a head to head", *READING, 413, 415, operation_id="cancel_head_to_head"),
)
describe(
    "evaluations.api.duels.ComparisonsView",
    get=call(answers.BoutPage, "Its comparisons with what the judge said", *READING, operation_id="list_comparisons",
             parameters=[query("outcome", "Only such ones.", enum=Outcome.values), *PAGING]),
)  # fmt: skip
