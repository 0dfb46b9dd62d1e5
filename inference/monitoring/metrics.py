"""`/metrics`: counters, gauges and histograms for Prometheus, under vLLM's names where it has the same thing.

Figures of requests come from the database and are those of all processes together; the engine's are this process's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from asgiref.sync import async_to_sync
from django.db.models import Count
from django.http import HttpResponse
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts.permissions import IsOperator
from adapters.models import LoraAdapter
from inference.gateway import operating
from inference.measuring.figures import PER_DOUBLING, Figures
from inference.models import Series

from .history import refused

Sample = tuple[Mapping[str, str], float]
HISTOGRAMS = (
    ("latency", "e2e_request_latency_seconds", "From the request's arrival to its end."),
    ("ttft", "time_to_first_token_seconds", "From the request's arrival to its first token."),
    ("gap", "inter_token_latency_seconds", "From one token of an answer to the next."),
    ("queue", "request_queue_time_seconds", "Waiting for a place or for memory."),
    ("load", "request_load_time_seconds", "Waiting for the engine's start, a base or an adapter."),
    ("prompt", "request_prefill_time_seconds", "Reading the prompt."),
)
BOUNDS = range(-8, 11)  # powers of two: upper bounds of histograms from 4 ms to 17 minutes


class MetricsView(APIView):
    """Counters and gauges of this process's engine, and what was asked altogether."""

    permission_classes = [IsAuthenticated, IsOperator]

    def get(self, request: Request) -> HttpResponse:
        registry = CollectorRegistry()
        registry.register(Page(async_to_sync(operating.status)()))
        return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)


class Page(Collector):
    """What `status`, the answer of `ModelManager.status`, and the database say at this moment."""

    def __init__(self, status: Mapping[str, Any]) -> None:
        self.status = status

    def collect(self) -> Iterator[Metric]:
        yield from engine_metrics(self.status["worker"], self.status["engine"] or {})
        yield from registry_metrics()
        yield from request_metrics()


def engine_metrics(worker: Mapping[str, Any], engine: Mapping[str, Any]) -> Iterator[Metric]:
    yield from metric(
        "engine_up", "gauge", "1 while the engine's process is ready.", [({}, worker["state"] == "ready")]
    )
    yield from metric("engine_restarts_total", "counter", "Times that it ended unasked.", [({}, worker["restarts"])])
    yield from metric("engine_in_flight", "gauge", "Requests that are not answered yet.", [({}, worker["in_flight"])])
    for name, key, kind, about in (
        ("num_requests_running", "running", "gauge", "Sequences in the batch."),
        ("num_requests_waiting", "waiting", "gauge", "Requests in the queue."),
        ("engine_slots", "slots", "gauge", "Sequences that fit into the batch."),
        ("engine_steps_total", "steps", "counter", "Forward passes since the process began."),
        ("engine_step_seconds_total", "step_seconds", "counter", "Time in forward passes since the process began."),
        ("engine_step_rows_total", "step_rows", "counter", "Rows of all forward passes since the process began."),
        ("engine_tokens_total", "tokens", "counter", "Tokens generated since the process began."),
        (
            "engine_errors_total",
            "errors",
            "counter",
            "Unforeseen exceptions since the process began; the engine's log has each.",
        ),
    ):
        if key in engine:
            yield from metric(name, kind, about, [({}, engine[key])])
    yield from fleet_metrics(engine.get("fleet") or ())
    if engine.get("kv_tokens"):
        share = engine["kv_used"] / engine["kv_tokens"]
        yield from metric("kv_cache_usage_perc", "gauge", "Share of the slots' tokens in use, 0 to 1.", [({}, share)])
    memory = engine.get("memory") or {}
    samples = [({"kind": kind}, size) for kind, size in sorted(memory.items())]
    yield from metric("engine_memory_bytes", "gauge", "Memory of the engine by use, its peaks and limits.", samples)
    if "adapters" in engine:
        yield from metric("engine_adapters", "gauge", "Adapters in the engine's bank.", [({}, len(engine["adapters"]))])


def fleet_metrics(addresses: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    """Of each address; figures that it does not have are left out."""
    for name, key, about in (
        ("fleet_up", "reachable", "1 while the address answers."),
        ("fleet_requests_running", "running", "Requests that its replicas work at."),
        ("fleet_requests_waiting", "waiting", "Requests that wait there."),
        ("fleet_kv_cache_usage_perc", "kv_cache", "Share of its cache in use, 0 to 1."),
    ):
        samples = [({"address": one["address"]}, one[key]) for one in addresses if one[key] is not None]
        yield from metric(name, "gauge", about, samples)


def registry_metrics() -> Iterator[Metric]:
    rows = LoraAdapter.objects.order_by().values_list("status").annotate(Count("pk"))
    yield from metric("adapters", "gauge", "Adapters by status.", [({"status": s}, n) for s, n in rows])


def request_metrics() -> Iterator[Metric]:
    """By model since the portal began: of the first METRICS_MODELS that were asked, and of all others as one."""
    rows = Series.objects.filter(step=0, kind="model").order_by("name").values_list("name", "data")
    models = [(name or "(other)", Figures(data)) for name, data in rows]
    for prefix, name, label, about in (
        ("end:", "request_success_total", "finished_reason", "Answers by how they ended."),
        ("error:", "request_errors_total", "code", "Requests that failed, by the error's code."),
    ):
        samples = [
            ({"model_name": model, label: key.removeprefix(prefix)}, count)
            for model, figures in models
            for key, count in sorted(figures.counts.items())
            if key.startswith(prefix)
        ]
        yield from metric(name, "counter", about, samples)
    row = Series.objects.filter(step=0, kind="all").first()
    refusals = refused(Figures(row.data if row else None))
    yield from metric(
        "requests_refused_total",
        "counter",
        "Requests that came to no model, by the error's code.",
        [({"code": code}, count) for code, count in refusals.items()],
    )
    for key, name, about in (
        ("prompt_tokens", "prompt_tokens_total", "Tokens of prompts."),
        ("cached_tokens", "prompt_tokens_cached_total", "Of these, reused from an earlier turn."),
        ("completion_tokens", "generation_tokens_total", "Tokens of answers."),
    ):
        yield from metric(name, "counter", about, [({"model_name": m}, f.counts[key]) for m, f in models])
    for key, name, about in HISTOGRAMS:
        family = HistogramMetricFamily(f"loraportal_{name}", about, labels=["model_name"])
        for model, figures in models:
            family.add_metric(
                [model], buckets=cumulative(figures.buckets[key]), sum_value=figures.counts[f"{key}_seconds"]
            )
        yield family


def cumulative(buckets: Mapping[int, int]) -> list[tuple[str, float]]:
    """Prometheus' buckets of ours: a power of two is the upper bound of one of them, so that the counts are exact."""
    found, seen = [], 0
    left = sorted(buckets.items(), reverse=True)
    for power in BOUNDS:
        while left and left[-1][0] <= power * PER_DOUBLING:
            seen += left.pop()[1]
        found.append((repr(2.0**power), float(seen)))
    return [*found, ("+Inf", float(sum(buckets.values())))]


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
