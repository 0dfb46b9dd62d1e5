"""A run as a file: a row for each answer (CSV, JSONL), or a report of the figures (Markdown). All with the digests."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from django.utils.translation import gettext as _

from common.pairwise import HeadToHead
from evaluations.checks.judging import sentence
from evaluations.models import Duel, Item, Result, Run, RunTarget

from .duels import making as duels
from .duels import tables
from .figures import cells_of, items_of, targets_of

CHUNK = 100  # items in memory at once
FORMULA = ("=", "+", "-", "@", "\t", "\r")
COLUMNS = (
    "item", "item_digest", "asked", "reference", "model", "checkpoint", "model_digest", "base_digest",
    "template_digest", "passed", "reasons", "error", "finish_reason", "answer", "loss", "loss_tokens",
)  # fmt: skip
MOST_REPORTED = 20  # items of the report's list of those that failed everywhere


def _cells(run: Run) -> Iterator[tuple[Item, RunTarget, Result]]:
    targets = list(run.targets.all())
    rows = items_of(run)
    last = 0
    while chunk := list(rows.filter(number__gt=last)[:CHUNK]):
        last = chunk[-1].number
        cells = cells_of(run, chunk)
        for item in chunk:
            for target in targets:
                if (cell := cells[item.pk].get(target.pk)) is not None:
                    yield item, target, cell


def facts_of(item: Item, target: RunTarget, cell: Result) -> dict[str, Any]:
    answer, score = cell.answer, cell.score
    return {
        "item": item.number,
        "item_digest": item.digest,
        "asked": item.messages if item.messages is not None else item.prompt,
        "reference": item.reference,
        "model": target.slug,
        "checkpoint": target.checkpoint,
        "model_digest": target.digest,
        "base_digest": target.base_key,
        "template_digest": target.prompting,
        "passed": cell.passed,
        "reasons": [said for verdict in cell.verdicts if (said := sentence(verdict))],
        "error": cell.code,
        "finish_reason": answer.finish_reason if answer else "",
        "answer": answer.text if answer else None,
        "loss": score.loss if score else None,
        "loss_tokens": score.tokens if score else None,
    }


def jsonl(run: Run) -> Iterator[str]:
    """The first line tells of the run."""
    head = {
        "run": run.pk, "set": run.version.prompts.name, "version": run.version.number,
        "set_digest": run.version.digest, "params": run.params,
    }  # fmt: skip
    yield json.dumps(head, ensure_ascii=False) + "\n"
    for item, target, cell in _cells(run):
        yield json.dumps(facts_of(item, target, cell), ensure_ascii=False) + "\n"


def table(run: Run) -> Iterator[str]:
    """The byte order mark tells spreadsheets that this is UTF-8."""
    yield "\ufeff" + ",".join(COLUMNS) + "\r\n"
    for item, target, cell in _cells(run):
        text = io.StringIO()
        facts = facts_of(item, target, cell)
        csv.writer(text, quoting=csv.QUOTE_ALL).writerow([_cell(facts[name]) for name in COLUMNS])
        yield text.getvalue()


def _cell(value: Any) -> str:
    """A spreadsheet would run what begins like a formula: a quotation mark before it disarms it."""
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"'{text}" if text.startswith(FORMULA) else text


def report(run: Run) -> Iterator[str]:
    """Markdown: the figures of each model, what they were made of, and the items that every model failed."""
    prompts = run.version.prompts
    params = ", ".join(f"{name} {value}" for name, value in run.params.items())
    yield f"# {_('Evaluation')} {run.pk}: {_plain(prompts.name)}\n\n"
    yield f"- {_('Prompt set')}: {_plain(prompts.name)}, {_('version')} {run.version.number}, `{run.version.digest}`\n"
    yield f"- {_('Items')}: {run.version.size}\n- {_('Parameters')}: {_plain(params)}\n"
    yield f"- {_('State')}: {run.get_state_display()}\n"
    if run.ended_at:
        yield f"- {_('Ended at')}: {run.ended_at.isoformat(timespec='seconds')}\n"
    rows = targets_of(run)
    scored = any(row["loss"] for row in rows)
    names = [_("Model"), _("Passed"), _("Judged"), _("Pass rate"), _("Interval (95%)"), _("No answer")]
    names += [_("Loss of the references (nats per token)"), _("Tokens")] if scored else []
    yield _head(names)
    for row in rows:
        rate = row["pass_rate"]
        shown = f"{rate['share']:.1%} | {rate['low']:.1%}–{rate['high']:.1%}" if rate else "– | –"
        if scored:
            loss = row["loss"]
            shown_loss = f" {loss['loss']:.4f} | {loss['tokens']} |" if loss else " – | – |"
        else:
            shown_loss = ""
        yield f"| {_plain(row['name'])} | {row['passed']} | {row['judged']} | {shown} | {row['errors']} |{shown_loss}\n"
    yield f"\n## {_('Digests')}\n\n"
    for row in rows:
        yield f"- {_plain(row['name'])}: {_('content')} `{row['digest'] or '–'}`"
        yield f", {_('base model')} `{row['base_key'] or '–'}`"
        yield f", {_('template')} `{row['prompting']}`\n" if row["prompting"] else "\n"
    failed = _failed_everywhere(run)
    if failed:
        yield f"\n## {_('Failed by every model')}\n\n"
        yield from (f"- #{item.number} {_plain(item.title)}\n" for item in failed)
    for duel in duels.of_run(run):
        yield from _duel(duel)


def _duel(duel: Duel) -> Iterator[str]:
    """What a judge found: win rates of each pair, and the ranking or why there is none."""
    counts, table = tables.counts_of(duel), tables.table_of(duel)
    yield f"\n## {_('Head to head')} {duel.pk}: {_plain(duel.name)}\n\n"
    yield f"- {_('Judge')}: {_plain(duel.name)}, {_('content')} `{duel.digest or '–'}`"
    yield f", {_('base model')} `{duel.base_key}`" if duel.base_key else ""
    yield f", {_('template')} `{duel.prompting}`\n" if duel.prompting else "\n"
    if duel.criteria:
        yield f"- {_('Criteria')}: {_plain(' '.join(duel.criteria.split()))}\n"
    yield f"- {_('State')}: {duel.get_state_display()}\n- {_('Comparisons')}: {counts['done']} / {duel.total}\n"
    yield f"- {_('No verdict')}: {counts['unclear']}\n"
    if table.pairs:
        yield from _pairs(table)
    if table.message:
        yield f"\n{_plain(table.message)}\n"
    if table.ranking:
        names = [_("Place"), _("Model"), _("Strength (Bradley-Terry)"), _("Interval (95%)")]
        yield _head(names)
        for place, one in enumerate(table.ranking, 1):
            name = _plain(table.players[one.player].name)
            yield f"| {place} | {name} | {one.strength:.2f} | {one.low:.2f} … {one.high:.2f} |\n"


def _pairs(table: HeadToHead) -> Iterator[str]:
    yield _head([_("Model"), _("Against"), _("Won"), _("Lost"), _("Ties"), _("Win rate"), _("Interval (95%)")])
    for pair in table.pairs:
        names = (_plain(table.players[place].name) for place in (pair.one, pair.other))
        share = "– | –" if pair.share is None else f"{pair.share:.1%} | {pair.low:.1%}–{pair.high:.1%}"
        yield f"| {' | '.join(names)} | {pair.wins} | {pair.losses} | {pair.ties} | {share} |\n"


def _head(names: Sequence[str]) -> str:
    return "\n| " + " | ".join(names) + " |\n|" + " --- |" * len(names) + "\n"


def _failed_everywhere(run: Run) -> list[Item]:
    passed = Result.objects.filter(target__run=run, passed=True).values("item")
    rows = items_of(run, "failed").exclude(pk__in=passed)
    return list(rows[:MOST_REPORTED])


def _plain(text: str) -> str:
    """Without what would be markup in a list or a table."""
    return "".join(f"\\{character}" if character in "\\`*_[]|<>#" else character for character in text)
