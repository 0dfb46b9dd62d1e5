"""The calls: parameters, bodies, answers, errors and an example each, tied to the views by their dotted paths."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiViewExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view

from adapters.api import views as adapter_views
from adapters.api.query import ORDERINGS
from adapters.models import Status
from inference.api import rest
from inference.api.openai import reading

from . import answers, objects

REASONS = {
    400: "The request is at fault; `param` names the field.",
    401: "Not signed in, or the token is unknown, expired or revoked.",
    403: "The account or the token may not do this.",
    404: "There is no such thing.",
    409: "The thing is in another state, or another call is at it.",
    413: "The body is too large.",
    415: "The body is not declared as application/json.",
    422: "The adapter or its base cannot be served; the code says why.",
    429: "A limit is reached; Retry-After says when to come back.",
    503: "The engine is not able to answer now; Retry-After says when to try again.",
}
ASKING = (400, 401, 403, 404, 409, 413, 415, 422, 429, 503)


def errors(*statuses: int, shape: Any = objects.Error) -> dict[int, OpenApiResponse]:
    return {status: OpenApiResponse(shape, REASONS[status]) for status in statuses}


def query(name: str, about: str, kind: Any = OpenApiTypes.STR, enum: list[str] | None = None) -> OpenApiParameter:
    return OpenApiParameter(name, kind, OpenApiParameter.QUERY, description=about, enum=enum)


PAGING = [
    query("page", "Number of the page, from 1.", OpenApiTypes.INT),
    query("page_size", "Entries on a page: 50, at most 200.", OpenApiTypes.INT),
]


def example(value: dict[str, Any]) -> list[OpenApiExample]:
    return [OpenApiExample("Example", value=value, request_only=True)]


def call(answer: Any, summary: str, *statuses: int, body: Any = None, shape: Any = objects.Error, **extra: Any) -> Any:
    """One operation that answers 200 with `answer` or with one of the errors of `statuses`."""
    return extend_schema(
        summary=summary, request=body, responses={200: answer, **errors(*statuses, shape=shape)}, **extra
    )


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

AdapterPage = objects.page_of(objects.Adapter, "AdapterPage")
EventPage = objects.page_of(objects.Event, "EventPage")
BaseList = type("BaseList", (objects.Serializer,), {
    "count": objects.s.IntegerField(), "results": objects.Base(many=True),
})  # fmt: skip
BulkResults = type("BulkResults", (objects.Serializer,), {"results": objects.BulkResult(many=True)})

describe(
    "adapters.api.views.AdaptersView",
    get=call(
        AdapterPage,
        "List adapters",
        400,
        401,
        404,
        operation_id="list_adapters",
        parameters=[
            query("status", "Only with this status.", enum=Status.values),
            query("search", "Only where every word occurs in name, slug, notes, run, base or tags."),
            query("base", "Only of this base: slug, name or id."),
            query("ordering", "Fields, comma-separated, with - for descending: " + ", ".join(sorted(ORDERINGS))),
            *PAGING,
        ],
    ),
)
describe(
    "adapters.api.views.AdapterView",
    get=call(objects.Adapter, "One adapter", 401, 404, operation_id="get_adapter"),
    patch=call(
        objects.Adapter,
        "Change name, notes, slug, tags or base",
        400,
        401,
        403,
        404,
        409,
        413,
        415,
        operation_id="change_adapter",
        body=adapter_views.AdapterPatch,
        examples=example({"notes": "Trained on the second data set.", "tags": ["support"]}),
    ),
    delete=extend_schema(
        summary="Forget an adapter, or delete its training files too",
        operation_id="delete_adapter",
        parameters=[
            query("files", "1: delete the training files too.", enum=["1", "0"]),
            query("confirm", "The adapter's name, where files are deleted."),
        ],
        request=None,
        responses={204: None, **errors(400, 401, 403, 404, 409, 413, 415, 422)},
    ),
)
for name, text in (("ActivateView", "Validate, store and serve an adapter"), ("DeactivateView", "Serve it no longer")):
    describe(
        f"adapters.api.views.{name}",
        post=call(objects.Adapter, text, 401, 403, 404, 409, 422, operation_id=f"{name.lower()}_adapter"),
    )
describe(
    "adapters.api.views.BulkView",
    post=call(
        BulkResults,
        "One action on many adapters",
        400,
        401,
        403,
        413,
        415,
        operation_id="bulk",
        body=adapter_views.BulkBody,
        examples=example({"action": "activate", "ids": [1, 2]}),
    ),
)
describe(
    "adapters.api.views.ScanView",
    get=call(objects.Scan, "The latest scan", 401, 403, 404, operation_id="latest_scan"),
    post=call(objects.ScanSummary, "Scan the roots now", 401, 403, 409, operation_id="scan"),
)
describe(
    "adapters.api.views.EventsView",
    get=call(EventPage, "History of an adapter", 401, 404, operation_id="adapter_events", parameters=PAGING),
)
describe(
    "adapters.api.views.AdapterMetricsView",
    get=call(objects.Metrics, "Training curve and use", 401, 404, operation_id="adapter_metrics"),
)
describe("adapters.api.views.BasesView", get=call(BaseList, "Base models", 401, operation_id="list_bases"))

# The running side

describe(
    "inference.api.rest.TestView",
    post=call(
        answers.TestAnswer,
        "Ask an active adapter and wait for the whole answer",
        *ASKING,
        operation_id="test_adapter",
        body=rest.TestRequest,
        examples=example({"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 64, "temperature": 0}),
    ),
)
describe(
    "inference.api.rest.CountView",
    post=call(
        answers.Count,
        "How many tokens a prompt has",
        400,
        401,
        403,
        404,
        409,
        413,
        415,
        422,
        503,
        operation_id="count_tokens",
        body=rest.CountRequest,
        examples=example({"model": "pirate", "prompt": "Hello!"}),
    ),
)
describe(
    "inference.api.rest.StatusView",
    get=call(answers.Status, "What the engine holds and does", 401, 403, operation_id="engine_status"),
)
describe(
    "inference.api.rest.LoadView",
    post=call(
        answers.Status,
        "Load a model before anybody asks, and keep it loaded or no longer",
        *ASKING,
        operation_id="load",
        body=rest.LoadRequest,
        examples=example({"model": "pirate", "pin": True}),
    ),
)
describe(
    "inference.api.rest.UnloadView",
    post=call(answers.Freed, "Free the base model", 401, 403, 503, operation_id="unload"),
)
describe(
    "inference.quota.usage.UsageView",
    get=call(
        answers.UsagePage,
        "What was asked, by day, model and token",
        400,
        401,
        403,
        404,
        operation_id="usage",
        parameters=[
            query("days", "How far back: 1 to 366.", OpenApiTypes.INT),
            query("user", "Whose: one's own, or everybody's for operators.", enum=["me", "all"]),
            *PAGING,
        ],
    ),
)

# OpenAI's calls

STREAMED = OpenApiResponse(OpenApiTypes.STR, "Server-sent events, where `stream` is true.")
describe(
    "inference.api.openai.views.ModelsView",
    get=call(answers.Models, "Models that may be asked", 401, 403, operation_id="models", shape=answers.OpenAIError),
)
describe(
    "inference.api.openai.views.ModelView",
    get=call(answers.Model, "One model", 401, 403, 404, operation_id="model", shape=answers.OpenAIError),
)
for view, body, answer, text, value in (
    (
        "ChatCompletionsView",
        reading.ChatRequest,
        answers.ChatAnswer,
        "Answer a conversation",
        {"model": "pirate", "messages": [{"role": "user", "content": "Hello!"}], "temperature": 0},
    ),
    (
        "CompletionsView",
        reading.CompletionRequest,
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
                **errors(*ASKING, shape=answers.OpenAIError),
            },
            examples=example(value),
        ),
    )
