from __future__ import annotations

import time

from inference.measuring.entries import Record
from tests.fixtures.isolation import skip_for


def test_a_request_is_a_span_with_its_stages_in_it() -> None:
    try:
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    except ImportError:
        skip_for("opentelemetry")

    from inference.measuring.traces import Traces

    exporter = InMemorySpanExporter()
    traces = Traces(exporter)
    ended = time.time()
    spans = (("queue", 0.0, 0.5), ("prompt", 0.5, 0.75), ("answer", 0.75, 2.0))
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    traces.add(
        Record(
            ended, "r1", 7, 0, "pirate", "d" * 64, "error", "engine_crashed", total=2.0, spans=spans, traceparent=parent
        )
    )
    traces.close()
    *inner, outer = exporter.get_finished_spans()
    assert outer.parent is not None and format(outer.context.trace_id, "032x") == "0af7651916cd43dd8448eb211c80319c"
    assert (outer.name, outer.status.description) == ("chat pirate", "engine_crashed")
    assert outer.attributes is not None and outer.attributes["loraportal.request_id"] == "r1"
    assert [span.name for span in inner] == ["queue: queue", "engine: prompt", "engine: answer"]
    assert all(span.parent is not None and span.parent.span_id == outer.context.span_id for span in inner)
    begun = [round((span.start_time or 0) / 1e9 - (ended - 2.0), 3) for span in [outer, *inner]]
    assert begun == [0.0, 0.0, 0.5, 0.75]
