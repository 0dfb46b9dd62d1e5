"""What the application's calls answer."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from common.answers import Answer, one_of, page_of
from common.pairwise import HeadToHead

from .models import Choice, Outcome, RunState, TargetState


class StoredSet(Answer):
    id: int
    name: str
    description: str
    shared: bool
    owner: str = Field(description="Account that made it.")
    mine: bool
    version: int = Field(description="The newest.")
    size: int = Field(description="Items of the newest version.")
    created_at: datetime
    updated_at: datetime


class Version(Answer):
    number: int
    digest: str
    size: int
    created_at: datetime


class Versions(Answer):
    results: list[Version]


class StoredItem(Answer):
    number: int = Field(description="The same in all versions.")
    digest: str = Field(description="sha256 of question, reference and checks.")
    messages: list[dict[str, str]] | None
    prompt: str | None
    reference: str
    checks: list[dict[str, Any]]


class Changed(Answer):
    """The version that a change has made."""

    version: int = Field(validation_alias="number")
    digest: str
    size: int
    added: int = Field(0, description="Items that were added.")


SetPage = page_of(StoredSet, "PromptSetPage")
ItemPage = page_of(StoredItem, "ItemPage", version=(int, ...), digest=(str, ...))


class Share(Answer):
    """A share of items with its 95 % interval (Wilson)."""

    share: float
    low: float
    high: float


class StoredTarget(Answer):
    id: int
    slug: str
    name: str
    checkpoint: int | None
    adapter: int | None = Field(validation_alias="adapter_id")
    digest: str = Field(description="Content hash of the adapter, or the base's key; empty before its turn.")
    base_key: str
    base_name: str
    prompting: str = Field(description="Hash of the template that the adapter brings along, or empty.")
    state: Annotated[str, one_of(TargetState.values)]
    code: str
    message: str
    done: int
    passed: int
    judged: int = Field(description="Results that passed or failed.")
    errors: int = Field(description="Items without an answer; they count as failed.")
    pass_rate: Share | None


class StoredRun(Answer):
    id: int
    prompts: int = Field(description="Id of the prompt set.")
    prompts_name: str
    version: int
    version_digest: str
    owner: str
    mine: bool
    shared: bool
    params: dict[str, Any]
    state: Annotated[str, one_of(RunState.values)]
    code: str
    message: str
    waiting: str = Field(description="Code of what it waits for now, or empty.")
    total: int = Field(description="Items times models.")
    done: int
    reused: int = Field(description="Answers that were there already.")
    prompt_tokens: int = Field(description="Computed for this run.")
    completion_tokens: int
    expected_seconds: float | None = Field(description="Until the end, by what was answered so far.")
    expected_tokens: int | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class WholeRun(StoredRun):
    targets: list[StoredTarget]


class Cell(Answer):
    """What one model came to at one item."""

    target: int = Field(description="Id of the run's model.")
    passed: bool | None
    verdicts: list[dict[str, Any]]
    answer: str | None
    finish_reason: str
    reused: bool
    code: str
    message: str


class Row(Answer):
    item: StoredItem
    cells: list[Cell] = Field(description="Those that are settled.")


RunPage = page_of(StoredRun, "EvaluationPage")
RowPage = page_of(Row, "EvaluationResultPage")


class Point(Answer):
    target: int
    slug: str
    name: str
    adapter: int | None
    step: int
    passed: int
    judged: int
    share: float
    low: float = Field(description="Lower end of the share's 95 % interval (Wilson).")
    high: float


class Best(Answer):
    target: int
    sure: float | None = Field(description="Share of paired bootstrap samples in which it beats the next best.")
    next: int | None = Field(description="Target of the next best.")


class Group(Answer):
    """The checkpoints of one training run."""

    group: str
    name: str
    points: list[Point]
    best: Best | None
    training: dict[str, Any] | None = Field(description="As `/api/lora/models/{id}/curve` tells it.")


class Curves(Answer):
    results: list[Group]


class StoredDuel(Answer):
    id: int
    run: int
    judge: str = Field(description="Slug of the model that judges; empty for the judge model of the settings.")
    name: str
    outside: bool = Field(description="Whether the judge is the judge model of the settings.")
    digest: str = Field(description="Of what judges; empty before its turn.")
    base_key: str
    criteria: str
    params: dict[str, Any]
    state: Annotated[str, one_of(RunState.values)]
    code: str
    message: str
    waiting: str = Field(description="Code of what it waits for now, or empty.")
    total: int = Field(description="Comparisons of two answers; each is asked in both orders.")
    done: int
    unclear: int = Field(description="Without a verdict: they count for nobody.")
    same: int = Field(description="Of the same text, which are a tie that nobody was asked about.")
    reused: int = Field(description="Whose verdicts were there already.")
    prompt_tokens: int = Field(description="Computed for this head to head.")
    completion_tokens: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class WholeDuel(StoredDuel):
    table: HeadToHead


class Duels(Answer):
    results: list[StoredDuel]


class StoredJudgement(Answer):
    choice: Annotated[str, one_of(Choice.values)]
    text: str = Field(description="The end of what the judge said.")


class StoredBout(Answer):
    """Two answers to one item. Both judgements are null where the answers are the same."""

    item: int = Field(description="Its number.")
    one: int = Field(description="Id of the run's model.")
    other: int
    outcome: Annotated[str, one_of(Outcome.values)]
    forward: StoredJudgement | None = Field(description="With the answer of `one` first.")
    backward: StoredJudgement | None = Field(description="With the answer of `other` first.")
    code: str
    message: str


BoutPage = page_of(StoredBout, "ComparisonPage")
