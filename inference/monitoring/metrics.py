"""`/metrics`: counters and gauges in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from asgiref.sync import async_to_sync
from django.db.models import Count, Sum
from django.http import HttpResponse
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts.permissions import IsOperator
from adapters.models import LoraAdapter
from inference.gateway import operating
from inference.models import UsageDay

Sample = tuple[Mapping[str, str], float]


class MetricsView(APIView):
    """Counters and gauges of this process's engine, and what was asked altogether."""

    permission_classes = [IsAuthenticated, IsOperator]

    def get(self, request: Request) -> HttpResponse:
        registry = CollectorRegistry()
        registry.register(Figures(async_to_sync(operating.status)()))
        return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)


class Figures(Collector):
    """What `status`, the answer of `ModelManager.status`, and the database say at this moment."""

    def __init__(self, status: Mapping[str, Any]) -> None:
        self.status = status

    def collect(self) -> Iterator[Metric]:
        yield from engine_metrics(self.status["worker"], self.status["engine"] or {})
        yield from registry_metrics()
        yield from usage_metrics()


def engine_metrics(worker: Mapping[str, Any], engine: Mapping[str, Any]) -> Iterator[Metric]:
    yield from metric(
        "engine_up", "gauge", "1 while the engine's process is ready.", [({}, worker["state"] == "ready")]
    )
    yield from metric("engine_restarts_total", "counter", "Times that it ended unasked.", [({}, worker["restarts"])])
    yield from metric("engine_in_flight", "gauge", "Requests that are not answered yet.", [({}, worker["in_flight"])])
    for name, kind, about in (
        ("running", "gauge", "Sequences in the batch."),
        ("waiting", "gauge", "Requests in the queue."),
        ("slots", "gauge", "Sequences that fit into the batch."),
        ("steps", "counter", "Forward passes since the process began."),
        ("tokens", "counter", "Tokens generated since the process began."),
        ("errors", "counter", "Unforeseen exceptions since the process began; the engine's log has each."),
    ):
        if name in engine:
            yield from metric(f"engine_{name}{'_total' * (kind == 'counter')}", kind, about, [({}, engine[name])])
    memory = engine.get("memory") or {}
    samples = [({"kind": kind}, size) for kind, size in sorted(memory.items())]
    yield from metric("engine_memory_bytes", "gauge", "Memory of the engine by use.", samples)
    loaded = [({"name": item["name"], "digest": item["digest"]}, 1.0) for item in engine.get("adapters", ())]
    yield from metric("engine_adapter_loaded", "gauge", "Adapters in the engine's bank.", loaded)


def registry_metrics() -> Iterator[Metric]:
    rows = LoraAdapter.objects.order_by().values_list("status").annotate(Count("pk"))
    yield from metric("adapters", "gauge", "Adapters by status.", [({"status": s}, n) for s, n in rows])


def usage_metrics() -> Iterator[Metric]:
    rows = (
        UsageDay.objects.order_by("model")
        .values("model")
        .annotate(requests=Sum("requests"), prompt=Sum("prompt_tokens"), completion=Sum("completion_tokens"))
    )
    samples = [({"model": row["model"]}, row["requests"]) for row in rows]
    yield from metric("answers_total", "counter", "Answers by model, of all processes.", samples)
    tokens = [({"model": row["model"], "kind": kind}, row[kind]) for row in rows for kind in ("prompt", "completion")]
    yield from metric("tokens_total", "counter", "Tokens by model and kind, of all processes.", tokens)


def metric(name: str, kind: str, about: str, samples: Iterable[Sample]) -> Iterator[Metric]:
    """The family `loraportal_{name}` (`kind`: gauge or counter); none where there are no samples."""
    found = list(samples)
    if not found:
        return
    labels = list(found[0][0])
    family = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily}[kind](
        f"loraportal_{name}", about, labels=labels
    )
    for values, figure in found:
        family.add_metric([values[label] for label in labels], float(figure))
    yield family
