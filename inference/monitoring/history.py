"""What was measured, read for charts: a range of time cut into steps, for all, one model, one user or the engine."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from django.db.models import Sum

from inference.measuring.figures import Figures, total
from inference.measuring.gathering import ALL, ENGINE, Subject
from inference.measuring.writing import instant
from inference.models import Series

HOUR, DAY = 3600, 86_400
MOST_BUSY = 20  # models in the table of the busiest


@dataclass(frozen=True)
class Range:
    """`length` seconds in steps of `step`; the table by model adds up `coarse` steps, and looks for the busiest by
    `rank` ones: few rows each."""

    length: int
    step: int
    coarse: int
    rank: int


RANGES = {
    "15m": Range(900, 60, 60, 7200),
    "1h": Range(HOUR, 60, 600, 7200),
    "6h": Range(6 * HOUR, 60, 600, 7200),
    "24h": Range(DAY, 600, 7200, DAY),
    "7d": Range(7 * DAY, 7200, DAY, DAY),
    "30d": Range(30 * DAY, 7200, DAY, DAY),
}
Value = float | int | None
Column = Callable[[Figures, float], Value]  # of one step and its seconds


def percentile(name: str, share: float) -> Column:
    return lambda figures, _seconds: rounded(figures.percentile(name, share))


def rate(name: str) -> Column:
    return lambda figures, seconds: rounded(figures.counts[name] / seconds)


def failed(figures: Figures) -> int:
    return sum(count for name, count in figures.counts.items() if name.startswith("error:"))


def refused(figures: Figures) -> dict[str, int]:
    """How many requests came to no model, by the code of the error."""
    return {
        name.removeprefix("refused:"): count
        for name, count in sorted(figures.counts.items())
        if name.startswith("refused:")
    }


def ratio(over: str, under: str) -> Column:
    return lambda figures, _seconds: (
        rounded(figures.counts[over] / figures.counts[under]) if figures.counts[under] else None
    )


def highest(name: str) -> Column:
    return lambda figures, _seconds: figures.highest(name)


def mean(name: str) -> Column:
    return lambda figures, _seconds: rounded(figures.mean(name))


REQUESTS: dict[str, Column] = {
    "requests_per_second": rate("requests"),
    "failed": lambda figures, _seconds: failed(figures),
    "refused": lambda figures, _seconds: sum(refused(figures).values()),
    **{f"latency_p{n}": percentile("latency", n / 100) for n in (50, 95, 99)},
    **{f"ttft_p{n}": percentile("ttft", n / 100) for n in (50, 95, 99)},
    **{f"gap_p{n}": percentile("gap", n / 100) for n in (50, 95)},
    "queue_p95": percentile("queue", 0.95),
    "completion_tokens_per_second": rate("completion_tokens"),
    "prompt_tokens_per_second": rate("prompt_tokens"),
    "cached_tokens_per_second": rate("cached_tokens"),
}
OF_ENGINE: dict[str, Column] = {
    "waiting": highest("waiting"),
    "running": highest("running"),
    "step_seconds": ratio("step_seconds", "steps"),
    "batch": ratio("step_rows", "steps"),
    "kv_used": mean("kv_used"),
    "kv_tokens": highest("kv_tokens"),
    "residents": mean("residents"),
    "adapters": highest("adapters"),
    **{f"rss{more}": highest(f"rss{more}") for more in ("", "_peak", "_limit")},
    "web_rss": highest("web_rss"),
    **{f"device_{name}": highest(f"device_{name}") for name in ("used", "peak", "total")},
}


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def read(subject: Subject, step: int, since: int) -> dict[int, Figures]:
    """Figures by the Unix time of their step's start, of all processes together."""
    kind, name = subject
    rows = Series.objects.filter(step=step, kind=kind, name=name, start__gte=instant(since))
    found: defaultdict[int, Figures] = defaultdict(Figures)
    for start, data in rows.values_list("start", "data"):
        found[int(start.timestamp())].merge(Figures(data))
    return dict(found)


def history(subject: Subject, wanted: Range, now: float | None = None) -> dict[str, Any]:
    """`times` (Unix times of the steps' starts), a column of values for each of REQUESTS, and the whole range as one.

    Without requests a rate is 0 and a percentile null. The step that is not over counts by the seconds that it has.
    """
    now = time.time() if now is None else now
    starts = steps(wanted, now)
    found = read(subject, wanted.step, starts[0])
    whole = total(found.values())
    return {
        "times": starts,
        "step": wanted.step,
        "columns": columns(REQUESTS, starts, found, wanted.step, now, Figures()),
        "whole": {
            "requests": whole.counts["requests"],
            "failed": failed(whole),
            "ends": ends(whole),
            "refused": sum(refused(whole).values()),
            "refusals": refused(whole),
            **{
                name: column(whole, float(wanted.length))
                for name, column in REQUESTS.items()
                if name not in ("failed", "refused")
            },
            **{name: whole.counts[name] for name in ("prompt_tokens", "cached_tokens", "completion_tokens")},
        },
    }


def engine_history(wanted: Range, now: float | None = None) -> dict[str, list[Value]]:
    """As the columns of `history`, null for steps in which no engine ran."""
    now = time.time() if now is None else now
    starts = steps(wanted, now)
    return columns(OF_ENGINE, starts, read(ENGINE, wanted.step, starts[0]), wanted.step, now, None)


def steps(wanted: Range, now: float) -> list[int]:
    last = int(now) - int(now) % wanted.step
    return list(range(last - wanted.length + wanted.step, last + 1, wanted.step))


def columns(
    wanted: dict[str, Column],
    starts: list[int],
    found: dict[int, Figures],
    step: int,
    now: float,
    missing: Figures | None,
) -> dict[str, list[Value]]:
    def value(column: Column, start: int) -> Value:
        figures = found.get(start, missing)
        return None if figures is None else column(figures, min(float(step), max(1.0, now - start)))

    return {name: [value(column, start) for start in starts] for name, column in wanted.items()}


def ends(figures: Figures) -> dict[str, int]:
    """How many requests ended how: by finish reason, and by the code of the error."""
    return {
        name.partition(":")[2]: count
        for name, count in sorted(figures.counts.items())
        if name.startswith(("end:", "error:"))
    }


def busiest(kind: str, wanted: Range, now: float | None = None) -> list[dict[str, Any]]:
    """The models or users with most requests, and their figures. Reads few rows, however many there are."""
    now = time.time() if now is None else now
    since = int(now) - wanted.length
    first = since - since % wanted.rank
    names = {name for start in range(first, int(now) + 1, wanted.rank) for name in top(kind, wanted.rank, start)}
    rows = Series.objects.filter(
        step=wanted.coarse, kind=kind, name__in=names, start__gte=instant(since - since % wanted.coarse)
    )
    sums = rows.values("name").annotate(asked=Sum("requests")).order_by("-asked", "name")[:MOST_BUSY]
    order = [row["name"] for row in sums]
    found: defaultdict[str, Figures] = defaultdict(Figures)
    for name, data in rows.filter(name__in=order).values_list("name", "data"):
        found[name].merge(Figures(data))
    return [summary(name, found[name]) for name in order]


def top(kind: str, step: int, start: int) -> Iterable[str]:
    rows = Series.objects.filter(step=step, kind=kind, start=instant(start), requests__gt=0).order_by("-requests")
    return rows.values_list("name", flat=True)[: 2 * MOST_BUSY]


def summary(name: str, figures: Figures) -> dict[str, Any]:
    return {
        "name": name,
        "requests": figures.counts["requests"],
        "failed": failed(figures),
        "latency_p50": rounded(figures.percentile("latency", 0.5)),
        "latency_p95": rounded(figures.percentile("latency", 0.95)),
        "ttft_p95": rounded(figures.percentile("ttft", 0.95)),
        **{name: figures.counts[name] for name in ("prompt_tokens", "cached_tokens", "completion_tokens")},
    }


__all__ = ["ALL", "RANGES", "Range", "busiest", "engine_history", "history"]
