"""A parity report as a file: Markdown with its verdict, its losses, the precisions, and the digests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django.utils.translation import gettext as _

from evaluations.models import Parity

from .verdict import whole_json


def markdown(report: Parity) -> str:
    """In the active language."""
    return "".join(_parts(report, whole_json(report)))


def _parts(report: Parity, whole: Mapping[str, Any]) -> Iterator[str]:
    yield f"# {_('Parity')} {report.pk}: {_plain(report.name)}\n\n"
    if whole["sentence"] or whole["message"]:
        yield f"{_plain(whole['sentence'] or whole['message'])}\n\n"
    yield f"- {_('State')}: {report.get_state_display()}\n"
    yield f"- {_('Step')}: {'–' if report.step is None else report.step}\n"
    yield f"- {_('Samples')}: {whole['done']} / {report.total}\n"
    if whole["recorded"]:
        yield f"- {_('Recorded by the trainer')}: {whole['recorded']['loss']:.4f} ± {whole['tolerance']:.4f}\n"
    yield f"- {_('Prompt set')}: {_plain(whole['prompts_name'])} v{whole['version']}, `{whole['version_digest']}`\n"
    yield f"- {_('content')}: `{report.digest}`\n- {_('base model')}: {_plain(report.base_name)}, `{report.base_key}`\n"
    if report.prompting:
        yield f"- {_('template')}: `{report.prompting}`\n"
    if whole["figures"]:
        yield from _figures(whole["figures"])
    if any(one["state"] or one["measured"] for one in whole["precisions"]):
        yield from _precisions(whole["precisions"])


def _figures(figures: list[dict[str, Any]]) -> Iterator[str]:
    yield f"\n## {_('Loss here')}\n"
    yield _head(_("Counted"), _("Loss"), _("Difference"), _("Tokens"))
    named = {"ended": _("the answers with their end"), "whole": _("the whole conversations")}
    for one in figures:
        way = named.get(one["way"], _("the answers without their end"))
        if one["rendering"] == "trained":
            way = f"{way} ({_('in the tokens of training')})"
        yield f"| {way} | {one['loss']:.4f} | {_signed(one['difference'])} | {one['tokens']} |\n"


def _precisions(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield f"\n## {_('Precision of the base model')}\n"
    yield _head(_("Precision"), _("Loss"), _("Difference"), _("Compared with"), _("Tokens"), _("Remark"))
    for one in rows:
        if not one["state"] and not one["measured"]:
            continue
        loss = "–" if one["loss"] is None else f"{one['loss']:.4f}"
        against = "–" if one["reference"] or not one["against"] else one["against"]
        told = one["message"] or (_("as served") if one["served"] else "")
        difference = _signed(one["difference"])
        yield f"| {one['name']} | {loss} | {difference} | {against} | {one['tokens']} | {_plain(told)} |\n"


def _signed(difference: float | None) -> str:
    return "–" if difference is None else f"{difference:+.4f}"


def _head(*names: str) -> str:
    return "\n| " + " | ".join(names) + " |\n|" + " --- |" * len(names) + "\n"


def _plain(text: str) -> str:
    """Without what would be markup in a list or a table."""
    return "".join(f"\\{character}" if character in "\\`*_[]|<>#" else character for character in text)
