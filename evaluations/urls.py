from __future__ import annotations

from common.routes import optional_slash

from . import pages
from .api import duels, gates, parity, runs, sets

SETS, RUNS, PARITY = "api/evaluations/sets", "api/evaluations/runs", "api/evaluations/parity"
GATES, DUELS = "api/evaluations/gates", "api/evaluations/head-to-head"


urlpatterns = [
    *optional_slash("evaluations", pages.runs, "evaluations"),
    *optional_slash("evaluations/new", pages.new_run, "evaluation-new"),
    *optional_slash("evaluations/runs/<int:pk>", pages.run, "evaluation"),
    *optional_slash("evaluations/runs/<int:pk>/head-to-head", pages.head_to_head, "evaluation-duel"),
    *optional_slash("evaluations/sets", pages.prompt_sets, "prompt-sets"),
    *optional_slash("evaluations/sets/<int:pk>", pages.prompt_set, "prompt-set"),
    *optional_slash("evaluations/parity", pages.parities, "parities"),
    *optional_slash("evaluations/parity/<int:pk>", pages.parity, "parity"),
    *optional_slash(PARITY, parity.ParitiesView.as_view(), "api_parities"),
    *optional_slash(f"{PARITY}/<int:pk>", parity.ParityView.as_view(), "api_parity"),
    *optional_slash(f"{PARITY}/<int:pk>/export.md", parity.ParityExportView.as_view(), "api_parity_export"),
    *optional_slash(f"{PARITY}/<int:pk>/cancel", parity.ParityCancelView.as_view(), "api_parity_cancel"),
    *optional_slash("evaluations/gates", pages.gates, "gates"),
    *optional_slash("evaluations/gates/<int:pk>", pages.gate, "gate"),
    *optional_slash(GATES, gates.GatesView.as_view(), "api_gates"),
    *optional_slash(f"{GATES}/standing", gates.StandingView.as_view(), "api_gate_standing"),
    *optional_slash(f"{GATES}/<int:pk>", gates.GateView.as_view(), "api_gate"),
    *optional_slash(f"{GATES}/<int:pk>/verdicts", gates.VerdictsView.as_view(), "api_gate_verdicts"),
    *optional_slash(f"{GATES}/<int:pk>/notices", gates.NoticesView.as_view(), "api_gate_notices"),
    *optional_slash(SETS, sets.SetsView.as_view(), "api_prompt_sets"),
    *optional_slash(f"{SETS}/<int:pk>", sets.SetView.as_view(), "api_prompt_set"),
    *optional_slash(f"{SETS}/<int:pk>/versions", sets.VersionsView.as_view(), "api_prompt_set_versions"),
    *optional_slash(f"{SETS}/<int:pk>/items", sets.ItemsView.as_view(), "api_prompt_items"),
    *optional_slash(f"{SETS}/<int:pk>/items/remove", sets.RemovalView.as_view(), "api_prompt_items_remove"),
    *optional_slash(f"{SETS}/<int:pk>/items/<int:number>", sets.ItemView.as_view(), "api_prompt_item"),
    *optional_slash(f"{SETS}/<int:pk>/import", sets.ImportView.as_view(), "api_prompt_import"),
    *[
        route
        for kind in ("jsonl", "csv")
        for route in optional_slash(
            f"{SETS}/<int:pk>/export.{kind}", sets.ExportView.as_view(), f"api_prompt_export_{kind}", {"kind": kind}
        )
    ],
    *optional_slash(RUNS, runs.RunsView.as_view(), "api_evaluations"),
    *optional_slash(f"{RUNS}/<int:pk>", runs.RunView.as_view(), "api_evaluation"),
    *optional_slash(f"{RUNS}/<int:pk>/cancel", runs.CancelView.as_view(), "api_evaluation_cancel"),
    *optional_slash(f"{RUNS}/<int:pk>/again", runs.AgainView.as_view(), "api_evaluation_again"),
    *optional_slash(f"{RUNS}/<int:pk>/results", runs.ResultsView.as_view(), "api_evaluation_results"),
    *optional_slash(f"{RUNS}/<int:pk>/curve", runs.CurveView.as_view(), "api_evaluation_curve"),
    *optional_slash(f"{RUNS}/<int:pk>/head-to-head", duels.DuelsView.as_view(), "api_duels"),
    *optional_slash(f"{DUELS}/<int:pk>", duels.DuelView.as_view(), "api_duel"),
    *optional_slash(f"{DUELS}/<int:pk>/cancel", duels.DuelCancelView.as_view(), "api_duel_cancel"),
    *optional_slash(f"{DUELS}/<int:pk>/comparisons", duels.ComparisonsView.as_view(), "api_duel_comparisons"),
    *[
        route
        for kind in ("csv", "jsonl", "md")
        for route in optional_slash(
            f"{RUNS}/<int:pk>/export.{kind}", runs.RunExportView.as_view(), f"api_evaluation_{kind}", {"kind": kind}
        )
    ],
]
