"""Traces of requests by OpenTelemetry, where OTEL_TRACES is on: a span of the request, and in it one for each stage.

Spans are made when a request has ended, from what was measured, on the recorder's thread: a request costs nothing more.
Where they go, and under which name, the standard variables OTEL_* say.
"""

from __future__ import annotations

import os
from typing import Any

from .entries import Record

NANO = 10**9
PLACES = {"door": "web", "queue": "queue", "memory": "queue"}  # all other stages are spent in the engine


class Traces:
    """`exporter`: of the SDK; the one for OTLP over HTTP where none is given."""

    def __init__(self, exporter: Any = None) -> None:
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        if exporter is None:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter()
        named = "OTEL_SERVICE_NAME" in os.environ or SERVICE_NAME in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        self.provider = TracerProvider(resource=Resource.create({} if named else {SERVICE_NAME: "loraportal"}))
        self.provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracer = self.provider.get_tracer("loraportal")

    def add(self, record: Record) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract({"traceparent": record.traceparent})
        begun = record.at - record.total
        span = self.tracer.start_span(
            f"chat {record.model}",
            parent,
            SpanKind.SERVER,
            attributes={
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": record.model,
                "gen_ai.response.finish_reasons": [record.reason],
                "gen_ai.usage.input_tokens": record.prompt_tokens,
                "gen_ai.usage.output_tokens": record.completion_tokens,
                "loraportal.request_id": record.request_id,
                "loraportal.digest": record.digest,
                "enduser.id": str(record.user_id),
            },
            start_time=nanoseconds(begun),
        )
        if record.code:
            span.set_attribute("error.type", record.code)
            span.set_status(Status(StatusCode.ERROR, record.code))
        inside = set_span_in_context(span, parent)
        for stage, since, until in record.spans:
            name = f"{PLACES.get(stage, 'engine')}: {stage}"
            child = self.tracer.start_span(name, inside, start_time=nanoseconds(begun + since))
            child.end(nanoseconds(begun + until))
        span.end(nanoseconds(record.at))

    def close(self) -> None:
        self.provider.shutdown()


def nanoseconds(at: float) -> int:
    return int(at * NANO)
