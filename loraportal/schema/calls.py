"""The calls: parameters, bodies, answers, errors and an example each, tied to the views by their dotted paths."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiViewExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view

from adapters.api import blends, exports, imports, present, uploads
from adapters.api import views as adapter_views
from adapters.api.query import ORDERINGS
from adapters.models import Status
from common.answers import Error
from inference.api import rest, scoring, targets
from inference.api.openai import answers, bodies, catalogue
from inference.api.openai.errors import OpenAIError
from inference.monitoring import views as monitoring
from inference.monitoring.history import RANGES
from inference.quota.usage import UsagePage

REASONS = {
    400: "The request is invalid; `param` names the field.",
    401: "Not signed in, or the token is invalid, expired or revoked.",
    403: "The account or the token has no permission for this.",
    404: "The requested object was not found.",
    409: "The object is in a conflicting state, or another operation on it is in progress.",
    413: "The request body is too large.",
    415: "The request body is not declared as application/json.",
    422: "The adapter or its base model cannot be used; the code gives the reason.",
    429: "A limit has been reached; Retry-After says when to try again.",
    503: "The engine cannot answer at the moment; Retry-After says when to try again.",
}
READING = (401, 403, 404)
CHANGING = (400, 401, 403, 404, 409, 413, 415)
ASKING = (400, 401, 403, 404, 409, 413, 415, 422, 429, 503)


def errors(*statuses: int, shape: Any = Error) -> dict[int, OpenApiResponse]:
    return {status: OpenApiResponse(shape, REASONS[status]) for status in statuses}


def query(name: str, about: str, kind: Any = OpenApiTypes.STR, enum: list[str] | None = None) -> OpenApiParameter:
    return OpenApiParameter(name, kind, OpenApiParameter.QUERY, description=about, enum=enum)


PAGING = [
    query("page", "Number of the page, from 1.", OpenApiTypes.INT),
    query("page_size", "Entries on a page: 50, at most 200.", OpenApiTypes.INT),
]


def example(value: dict[str, Any]) -> list[OpenApiExample]:
    return [OpenApiExample("Example", value=value, request_only=True)]


def call(
    answer: Any, summary: str, *statuses: int, status: int | tuple[int, ...] = 200, body: Any = None,
    shape: Any = Error, **extra: Any,
) -> Any:  # fmt: skip
    """One operation that answers `status` (or one of several) with `answer`, or one of the errors of `statuses`."""
    good = dict.fromkeys((status,) if isinstance(status, int) else status, answer)
    return extend_schema(summary=summary, request=body, responses={**good, **errors(*statuses, shape=shape)}, **extra)


def describe(view: str, **methods: Any) -> None:
    """Tie operations to the view named by its dotted path."""

    def view_replacement(self: Any) -> type:
        class Described(self.target_class):  # type: ignore[misc, name-defined]
            action = next(iter(methods))  # some views have something else of this name, which the generator reads

        Described.__name__ = self.target_class.__name__
        return extend_schema_view(**methods)(Described)

    # The metaclass-free way that the library offers: subclasses register themselves.
    type(f"{view.rsplit('.', 1)[-1]}Description", (OpenApiViewExtension,), {
        "target_class": view, "view_replacement": view_replacement,
    })  # fmt: skip


# The registry

describe(
    "adapters.api.views.AdaptersView",
    get=call(
        present.AdapterPage,
        "List adapters",
        *(400, 401, 404),
        operation_id="list_adapters",
        parameters=[
            query("status", "Only with this status.", enum=Status.values),
            query(
                "search", "Only where every word occurs in name, slug, path below its root, notes, run, base or tags."
            ),
            query("base", "Only of this base: slug, name or id."),
            query("tag", "Only with this tag."),
            query("run", "Only of runs of this name."),
            query("run_of", "Only of the run that this adapter (its id) belongs to.", OpenApiTypes.INT),
            query("trained_after", "Only trained on this day or later.", OpenApiTypes.DATE),
            query("trained_before", "Only trained on this day or earlier.", OpenApiTypes.DATE),
            query("max_loss", "Only with a training loss of at most this.", OpenApiTypes.FLOAT),
            query("max_eval_loss", "Only with an evaluation loss of at most this.", OpenApiTypes.FLOAT),
            query("min_effect", "Only where at least this share of tokens differs, 0 to 1.", OpenApiTypes.FLOAT),
            query("max_effect", "Only where at most this share of tokens differs, 0 to 1.", OpenApiTypes.FLOAT),
            query("ordering", "Fields, comma-separated, with - for descending: " + ", ".join(sorted(ORDERINGS))),
            *PAGING,
        ],
    ),
)
describe(
    "adapters.api.views.AdapterView",
    get=call(present.Adapter, "One adapter", 401, 404, operation_id="get_adapter"),
    patch=call(
        present.Adapter,
        "Change name, notes, slug, tags or base",
        *CHANGING,
        operation_id="change_adapter",
        body=adapter_views.AdapterPatch,
        examples=example({"notes": "Trained on the second data set.", "tags": ["support"]}),
    ),
    delete=call(
        None,
        "Forget an adapter, or delete its training files too",
        *(400, 401, 403, 404, 409, 413, 415, 422),
        status=204,
        operation_id="delete_adapter",
        parameters=[
            query("files", "1: delete the training files too.", enum=["1", "0"]),
            query("confirm", "The adapter's name, where files are deleted."),
        ],
    ),
)
describe(
    "adapters.api.views.ActivateView",
    post=call(
        present.Adapter,
        "Validate, store and serve an adapter; `override` is the reason for doing so though a gate objects",
        *(400, 401, 403, 404, 409, 413, 422),
        operation_id="activateview_adapter",
        body=adapter_views.ActivateBody,
    ),
)
describe(
    "adapters.api.views.DeactivateView",
    post=call(present.Adapter, "Serve it no longer", 401, 403, 404, 409, 422, operation_id="deactivateview_adapter"),
)
describe(
    "adapters.api.views.RepairView",
    get=call(
        present.RepairPage,
        "What the repair of an adapter's files changes",
        *(401, 403, 404),
        operation_id="adapter_repair",
        parameters=PAGING,
    ),
    post=call(
        present.Adapter,
        "Repair an adapter's files into a new copy, and serve it",
        *(400, 401, 403, 404, 409, 413, 415, 422),
        operation_id="repair_adapter",
        body=adapter_views.RepairBody,
    ),
)
describe(
    "adapters.api.views.BulkView",
    post=call(
        present.BulkResults,
        "One action on many adapters",
        *(400, 401, 403, 413, 415),
        operation_id="bulk",
        body=adapter_views.BulkBody,
        examples=example({"action": "activate", "ids": [1, 2]}),
    ),
)
describe(
    "adapters.api.views.ScanView",
    get=call(present.Scan, "The latest scan", 401, 403, 404, operation_id="latest_scan"),
    post=call(present.ScanSummary, "Scan the roots now", 401, 403, 409, operation_id="scan"),
)
describe(
    "adapters.api.views.EventsView",
    get=call(present.EventPage, "History of an adapter", 401, 404, operation_id="adapter_events", parameters=PAGING),
)
describe(
    "adapters.api.views.AdapterMetricsView",
    get=call(present.Metrics, "Training curve and use", 401, 404, operation_id="adapter_metrics"),
)
describe(
    "adapters.api.views.RunCurveView",
    get=call(
        present.RunCurve,
        "The training curve of an adapter's run as its files are now, and how far the training is",
        *(401, 404),
        operation_id="run_curve",
    ),
)
describe(
    "adapters.api.uploads.UploadsView",
    get=call(uploads.Uploads, "One's uploads under way, and the limits", 401, 403, operation_id="list_uploads"),
    post=call(
        uploads.Upload,
        "Announce an upload, or go on with one (200)",
        *CHANGING,
        422,
        503,
        operation_id="begin_upload",
        status=(200, 201),
        body=uploads.NewUpload,
        examples=example({"files": [{"path": "pirate.zip", "size": 1048576}]}),
    ),
)
describe(
    "adapters.api.uploads.UploadView",
    get=call(uploads.Upload, "One upload under way", *READING, operation_id="get_upload"),
    delete=call(None, "Give an upload up", *READING, 409, operation_id="cancel_upload", status=204),
)
describe(
    "adapters.api.uploads.PieceView",
    put=call(
        uploads.Piece,
        "Send the next bytes of a file",
        *CHANGING,
        503,
        operation_id="send_upload_piece",
        body={"application/octet-stream": OpenApiTypes.BINARY},
        parameters=[query("offset", "How much of the file has arrived.", OpenApiTypes.INT)],
    ),
)
describe(
    "adapters.api.uploads.FinishView",
    post=call(
        uploads.FinishedUpload,
        "Finish an upload and scan it",
        *READING,
        409,
        422,
        503,
        operation_id="finish_upload",
        status=201,
    ),
)
describe(
    "adapters.api.imports.ImportsView",
    get=call(imports.ImportPage, "One's imports from a hub", *READING, operation_id="list_imports", parameters=PAGING),
    post=call(
        imports.ImportAnswer,
        "Import an adapter by name from a hub",
        *CHANGING,
        429,
        operation_id="import_adapter",
        status=202,
        body=imports.NewImport,
        examples=example({"repo": "owner/pirate-lora", "revision": "main"}),
    ),
)
describe(
    "adapters.api.imports.ImportView",
    get=call(imports.ImportAnswer, "One import and how far it is", *READING, operation_id="get_import"),
    delete=extend_schema(
        summary="Cancel an import that runs (202), or remove it from the list (204)",
        request=None,
        responses={202: imports.ImportAnswer, 204: None, **errors(*READING)},
        operation_id="delete_import",
    ),
)
describe(
    "adapters.api.blends.BlendsView",
    post=call(
        blends.SavedBlend,
        "Save a blend of active adapters as an adapter of its own",
        *CHANGING,
        409,
        422,
        503,
        operation_id="save_blend",
        status=201,
        body=blends.NewBlend,
        examples=example(
            {
                "name": "pirate-haiku",
                "adapters": [{"id": 1, "weight": 0.7}, {"id": 2, "weight": 0.5}],
                "method": "svd",
                "rank": 16,
            }
        ),
    ),
)
RANGE = OpenApiParameter("Range", OpenApiTypes.STR, OpenApiParameter.HEADER, description="bytes=N-: go on at a byte.")


def file_call(kind: str, summary: str, *statuses: int, **extra: Any) -> Any:
    """One that answers with a file, or (206) with the part of it that was asked for."""
    responses: dict[Any, Any] = {(status, kind): OpenApiTypes.BINARY for status in (200, 206)}
    responses |= {416: OpenApiResponse(None, "The file has no such bytes."), **errors(*statuses)}
    return extend_schema(summary=summary, parameters=[RANGE], responses=responses, **extra)


describe(
    "adapters.api.exports.ExportView",
    get=file_call(
        exports.ZIP,
        "An active adapter as it is stored: a folder in PEFT's form, as a zip",
        *(401, 404, 409, 422),
        operation_id="export_adapter",
    ),
)
describe(
    "adapters.api.exports.AdapterMergesView",
    get=call(
        exports.MergePage, "Merges of an adapter", *READING, operation_id="list_adapter_merges", parameters=PAGING
    ),
    post=call(
        exports.MergeAnswer,
        "Merge an active adapter into its base model",
        *CHANGING,
        422,
        503,
        operation_id="merge_adapter",
        status=202,
        body=exports.NewMerge,
        examples=example({"dtype": "base"}),
    ),
)
describe(
    "adapters.api.exports.MergesView",
    get=call(exports.MergePage, "Merges of all adapters", *READING, operation_id="list_merges", parameters=PAGING),
)
describe(
    "adapters.api.exports.MergeView",
    get=call(exports.MergeAnswer, "One merge and how far it is", *READING, operation_id="get_merge"),
    delete=extend_schema(
        summary="Cancel a merge that runs (202), or delete the merged model (204)",
        request=None,
        responses={202: exports.MergeAnswer, 204: None, **errors(*READING)},
        operation_id="delete_merge",
    ),
)
describe(
    "adapters.api.exports.MergeDownloadView",
    get=file_call(exports.ZIP, "A merged model's folder as a zip", *READING, 409, operation_id="download_merge"),
)
describe(
    "adapters.api.exports.MergeFileView",
    get=file_call(exports.BYTES, "One file of a merged model", *READING, 409, operation_id="download_merged_file"),
)
describe("adapters.api.views.BasesView", get=call(present.BaseList, "Base models", 401, operation_id="list_bases"))

# The running side

describe(
    "inference.api.rest.TestView",
    post=call(
        rest.TestAnswer,
        "Ask an active adapter and wait for the whole answer",
        *ASKING,
        operation_id="test_adapter",
        body=rest.TestRequest,
        examples=example({"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 64, "temperature": 0}),
    ),
)
describe(
    "inference.api.targets.TargetsView",
    get=call(
        targets.TargetChoices,
        "Find a model to ask: active adapters by run and step, and base models",
        401,
        operation_id="find_targets",
        parameters=[query("search", "Only where every word occurs in name, slug, run, base or tags.")],
    ),
)
describe(
    "inference.api.rest.CountView",
    post=call(
        rest.Count,
        "How many tokens a prompt has",
        *(400, 401, 403, 404, 409, 413, 415, 422, 503),
        operation_id="count_tokens",
        body=rest.CountRequest,
        examples=example({"model": "pirate", "prompt": "Hello!"}),
    ),
)
describe(
    "inference.api.scoring.ScoreView",
    post=call(
        scoring.Scores,
        "How likely texts are after messages, by several models",
        *ASKING,
        operation_id="score",
        body=scoring.ScoreRequest,
        examples=example(
            {
                "models": ["pirate", "json-only"],
                "items": [{"messages": [{"role": "user", "content": "Hello!"}], "text": "Ahoy!"}],
            }
        ),
    ),
)
describe(
    "inference.api.rest.StatusView",
    get=call(rest.EngineStatus, "What the engine holds and does", 401, 403, operation_id="engine_status"),
)
describe(
    "inference.api.rest.LoadView",
    post=call(
        rest.EngineStatus,
        "Load a model before anybody asks, and keep it loaded or no longer",
        *ASKING,
        operation_id="load",
        body=rest.LoadRequest,
        examples=example({"model": "pirate", "pin": True}),
    ),
)
describe(
    "inference.api.rest.UnloadView", post=call(rest.Freed, "Free the base model", 401, 403, 503, operation_id="unload")
)
describe(
    "inference.quota.usage.UsageView",
    get=call(
        UsagePage,
        "What was asked, by day, model and token",
        *(400, 401, 403, 404),
        operation_id="usage",
        parameters=[
            query("days", "How far back: 1 to 366.", OpenApiTypes.INT),
            query("user", "Whose: one's own, or everybody's for operators.", enum=["me", "all"]),
            *PAGING,
        ],
    ),
)

SUBJECT = [
    query("range", "How far back.", enum=[*RANGES]),
    query("user", "me, for operators also all or the name of an account."),
    query("model", "For operators: one model alone, by slug."),
]
describe(
    "inference.monitoring.views.HistoryView",
    get=call(
        monitoring.History,
        "Rates, percentiles and tokens over time",
        *(400, 401, 403, 404),
        operation_id="monitoring_history",
        parameters=SUBJECT,
    ),
)
describe(
    "inference.monitoring.views.RequestsView",
    get=call(
        monitoring.FactsList,
        "The slowest or the failed requests, with their facts",
        *(400, 401, 403, 404),
        operation_id="monitoring_requests",
        parameters=[*SUBJECT, query("which", "slow: slowest first; failed: newest first.", enum=["slow", "failed"])],
    ),
)

# OpenAI's calls

STREAMED = OpenApiResponse(OpenApiTypes.STR, "Server-sent events, where `stream` is true.")
describe(
    "inference.api.openai.views.ModelsView",
    get=call(catalogue.Models, "Models that may be asked", 401, 403, operation_id="models", shape=OpenAIError),
)
describe(
    "inference.api.openai.views.ModelView",
    get=call(catalogue.Model, "One model", 401, 403, 404, operation_id="model", shape=OpenAIError),
)
for view, body, answer, text, value in (
    (
        "ChatCompletionsView",
        bodies.ChatRequest,
        answers.ChatAnswer,
        "Answer a conversation",
        {"model": "pirate", "messages": [{"role": "user", "content": "Hello!"}], "temperature": 0},
    ),
    (
        "CompletionsView",
        bodies.CompletionRequest,
        answers.CompletionAnswer,
        "Continue a text",
        {"model": "pirate", "prompt": "The sea", "max_tokens": 32},
    ),
):
    describe(
        f"inference.api.openai.views.{view}",
        post=extend_schema(
            summary=text,
            operation_id=view.removesuffix("View").lower(),
            request=body,
            responses={
                (200, "application/json"): answer,
                (200, "text/event-stream"): STREAMED,
                **errors(*ASKING, shape=OpenAIError),
            },
            examples=example(value),
        ),
    )
