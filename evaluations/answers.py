"""What the application's calls answer."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from common.answers import Answer, one_of, page_of

from .models import Family, NoticeState, RunState, TargetState, VerdictState


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


class StoredVerdict(Answer):
    id: int
    gate: int = Field(validation_alias="gate_id")
    family: str
    adapter: int = Field(validation_alias="adapter_id")
    adapter_name: str
    slug: str
    checkpoint: int | None
    digest: str = Field(description="Content hash of what was asked; empty before it was copied.")
    state: Annotated[str, one_of(VerdictState.values)]
    outcome: Annotated[str, one_of(["passed", "failed", "unjudged", "pending"])] = Field(
        description="By the gate's bar as it is now."
    )
    passed: int
    judged: int
    pass_rate: Share | None
    against_name: str = Field(description="The active adapter that it was compared with, or empty.")
    against_digest: str
    against_passed: int
    code: str = Field(description="Why there are no figures, or empty.")
    message: str
    run: int | None = Field(validation_alias="run_id", description="Id of the evaluation; null once it is deleted.")
    created_at: datetime
    ended_at: datetime | None


class StoredGate(Answer):
    id: int
    kind: Annotated[str, one_of(Family.values)]
    name: str = Field(description="Of the training run, or the tag.")
    prompts: int | None = Field(validation_alias="prompts_id", description="Id of the prompt set.")
    prompts_name: str
    least: float | None = Field(description="Lowest share of answers that pass, 0 to 1.")
    not_worse: bool
    max_tokens: int
    webhook: str
    owner: str = Field(description="Who saved it last: its evaluations are theirs.")
    problem: str = Field(description="Code of why it judges nothing now, or empty.")
    message: str
    created_at: datetime
    updated_at: datetime


class GateStanding(Answer):
    """How an adapter's files stand with one gate."""

    gate: int
    family: str
    passes: bool
    code: str = Field(description="Why an activation would be refused, or empty.")
    message: str
    verdict: StoredVerdict | None


class Standings(Answer):
    adapter: int
    slug: str
    name: str
    active: bool
    passes: bool = Field(description="Whether no gate objects.")
    pending: bool = Field(description="Whether an evaluation for one of its gates is waiting or under way.")
    results: list[GateStanding]


class StoredNotice(Answer):
    id: int
    key: str = Field(description="As the header X-Portal-Delivery has it.")
    adapter_name: str
    url: str
    state: Annotated[str, one_of(NoticeState.values)]
    attempts: int
    status: int = Field(description="HTTP status of the last attempt; 0: no answer.")
    code: str
    message: str
    next_at: datetime | None
    created_at: datetime
    ended_at: datetime | None


GatePage = page_of(StoredGate, "GatePage")
VerdictPage = page_of(StoredVerdict, "GateVerdictPage")
NoticePage = page_of(StoredNotice, "WebhookNoticePage")
