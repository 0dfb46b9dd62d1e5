"""Whether an answer passes the checks of its item, and the sentence that says why it does not.

A verdict is {"passed": bool} and, where it is false, "code" (a key of REASONS) with the values that the sentence names.
That of a loss has "loss" (nats per token) and "tokens" too; without a bar it only measures, and "passed" is None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_lazy as _

from common.numbers import grouped_values
from common.parsers import loads
from patterns import InvalidPatternError, SlowPatternError, search

from .schema import Evaluation, TooManyStepsError
from .scripts import share

Verdict = dict[str, Any]
REASONS = {
    "differs": _("The answer is another text."),
    "lacks": _("The text does not occur in the answer."),
    "has": _("The text occurs in the answer."),
    "no_match": _("The pattern was not found in the answer."),
    "too_slow": _("The answer is too long for this pattern."),
    "no_json": _("The answer is not valid JSON."),
    "schema": _("The answer does not match the schema at %(at)s."),
    "too_complex": _("Schema and answer are too complex together."),
    "too_short": _("The answer has a length of %(length)s; the minimum is %(bound)s."),
    "too_long": _("The answer has a length of %(length)s; the maximum is %(bound)s."),
    "no_letters": _("The answer has no letters."),
    "script": _("%(share)s%% of the letters are of this script."),
    "loss": _("The loss of the reference is %(loss)s; the maximum is %(bound)s."),
}
DIGITS = 4  # of a loss after the point, where it is told
FENCE = "```"
MAX_AT = 200  # characters of a place in an answer
COUNTS: dict[str, Callable[[str], int]] = {
    "characters": len,
    "words": lambda text: len(text.split()),
    "lines": lambda text: len(text.splitlines()),
}


@dataclass(frozen=True)
class Scored:
    """The reference as a model takes it: the logarithm of its probability, in nats, over so many tokens."""

    logprob: float
    tokens: int

    @property
    def loss(self) -> float:
        return -self.logprob / self.tokens


def asks(checks: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an answer is needed: what has no check but losses is only scored."""
    return not checks or any(check["kind"] != "loss" for check in checks)


def scores(checks: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the loss of the reference is needed."""
    return any(check["kind"] == "loss" for check in checks)


def judged(
    text: str, reference: str, checks: Sequence[Mapping[str, Any]], scored: Scored | None = None
) -> list[Verdict]:
    """Of the checks in their order. `text` is looked at without white space around it; `scored`: where `scores`."""
    return [
        _loss(scored, check) if check["kind"] == "loss" else JUDGES[check["kind"]](text.strip(), reference, check)
        for check in checks
    ]


def passed(verdicts: Sequence[Verdict]) -> bool | None:
    """None where nothing was checked, or only measured."""
    decided = [one["passed"] for one in verdicts if one["passed"] is not None]
    return all(decided) if decided else None


def sentence(verdict: Verdict) -> str:
    """Why it failed, in the active language; "" where it did not."""
    code = verdict.get("code", "")
    return str(REASONS[code]) % grouped_values(verdict) if code in REASONS else ""


def failed(code: str, **values: Any) -> Verdict:
    return {"passed": False, "code": code, **values}


PASSED: Verdict = {"passed": True}


def _loss(scored: Scored | None, check: Mapping[str, Any]) -> Verdict:
    if scored is None:
        raise ValueError("an item with this check has to be scored")
    most, found = check.get("most"), {"loss": round(scored.loss, DIGITS), "tokens": scored.tokens}
    if most is None:
        return {"passed": None, **found}
    return {**PASSED, **found} if scored.loss <= most else failed("loss", bound=most, **found)


def _both(text: str, reference: str, check: Mapping[str, Any]) -> tuple[str, str]:
    wanted = str(check.get("value") or reference).strip()
    return (text.casefold(), wanted.casefold()) if check.get("ignore_case") else (text, wanted)


def _equals(text: str, reference: str, check: Mapping[str, Any]) -> Verdict:
    said, wanted = _both(text, reference, check)
    return PASSED if said == wanted else failed("differs")


def _contains(text: str, reference: str, check: Mapping[str, Any]) -> Verdict:
    said, wanted = _both(text, reference, check)
    return PASSED if wanted in said else failed("lacks")


def _excludes(text: str, reference: str, check: Mapping[str, Any]) -> Verdict:
    said, wanted = _both(text, reference, check)
    return failed("has") if wanted in said else PASSED


def _pattern(text: str, reference: str, check: Mapping[str, Any]) -> Verdict:
    try:
        return PASSED if search(check["value"], text) else failed("no_match")
    except (SlowPatternError, InvalidPatternError):
        return failed("too_slow")


def _parsed(text: str, check: Mapping[str, Any]) -> Any:
    """Raises ValueError."""
    lines = text.split("\n")
    if check.get("fenced") and len(lines) > 2 and lines[0].startswith(FENCE) and lines[-1].strip() == FENCE:
        text = "\n".join(lines[1:-1])
    return loads(text)


def _json(text: str, reference: str, check: Mapping[str, Any]) -> Verdict:
    try:
        _parsed(text, check)
    except ValueError:
        return failed("no_json")
    return PASSED


def _schema(text: str, reference: str, check: Mapping[str, Any]) -> Verdict:
    try:
        value = _parsed(text, check)
    except ValueError:
        return failed("no_json")
    try:
        at = Evaluation(check["schema"]).fault(check["schema"], value)
    except (TooManyStepsError, SlowPatternError):
        return failed("too_complex")
    return failed("schema", at=at[:MAX_AT]) if at else PASSED


def _length(text: str, reference: str, check: Mapping[str, Any]) -> Verdict:
    length = COUNTS[check.get("unit", "characters")](text)
    least, most = check.get("least"), check.get("most")
    if least is not None and length < least:
        return failed("too_short", length=length, bound=least)
    if most is not None and length > most:
        return failed("too_long", length=length, bound=most)
    return PASSED


def _script(text: str, reference: str, check: Mapping[str, Any]) -> Verdict:
    found = share(text, check["script"])
    if found is None:
        return failed("no_letters")
    return PASSED if found >= check.get("share", 0.8) else failed("script", share=int(100 * found))


JUDGES: dict[str, Callable[[str, str, Mapping[str, Any]], Verdict]] = {
    "equals": _equals, "contains": _contains, "excludes": _excludes, "pattern": _pattern, "json": _json,
    "schema": _schema, "length": _length, "script": _script,
}  # fmt: skip
