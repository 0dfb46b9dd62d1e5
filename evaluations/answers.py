"""What the application's calls answer."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from common.answers import Answer, one_of, page_of
from common.pairwise import HeadToHead

from .models import Choice, Family, NoticeState, Outcome, RunState, TargetState, VerdictState


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


class Loss(Answer):
    """Of the reference answers that were scored."""

    loss: float = Field(description="Mean cross-entropy of a token, in nats.")
    tokens: int
    items: int


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
    errors: int = Field(description="Items that the model could not be asked; they count as failed.")
    pass_rate: Share | None
    loss: Loss | None


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
    answer: str | None = Field(description="Null where there is none: an error, or an item that is only scored.")
    finish_reason: str
    loss: float | None = Field(description="Of the reference, in nats per token.")
    loss_tokens: int | None
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
    share: float | None
    low: float | None = Field(description="Lower end of the share's 95 % interval (Wilson).")
    high: float | None
    loss: float | None = Field(description="Of the references, in nats per token.")
    loss_tokens: int


class Best(Answer):
    target: int
    by: Annotated[str, one_of(["pass_rate", "loss", ""])] = Field(
        description="What decides between it and the next best. Empty: nothing does, and it is the earliest of `equal`."
    )
    equal: list[int] = Field(description="Targets that nothing decides between; empty where something does.")
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


class Recorded(Answer):
    """What the trainer's own evaluation at the step came to."""

    loss: float
    samples: int | None = Field(description="Null where the trainer's files do not tell.")
    batches: int | None


class Implied(Answer):
    """Whose template and tokenizer training had; empty for none."""

    template: Annotated[str, one_of(["adapter", "base", ""])]
    tokenizer: Annotated[str, one_of(["adapter", "base", ""])]


class ParityFigure(Answer):
    way: Annotated[str, one_of(["ended", "whole", "answer"])] = Field(
        description="Which tokens count: the answer with the end of its turn, everything, or the answer alone."
    )
    rendering: Annotated[str, one_of(["served", "trained"])] = Field(description="Whose tokens.")
    loss: float = Field(description="In nats per token.")
    tokens: int
    difference: float | None = Field(description="From the recorded loss.")
    within: bool = Field(description="Whether that is within the tolerance.")
    nearest: bool = Field(
        description="The way that comes nearest to the recorded loss: which one was used is not known."
    )


class Precision(Answer):
    """Of the base model. Losses are counted in the way that is nearest to the recorded one."""

    name: str
    measured: bool
    served: bool = Field(description="Whether it is the one that answers are given in.")
    state: Annotated[str, one_of(["", "waiting", "running", "done", "failed"])] = Field(
        description="Empty: not asked for."
    )
    code: str = Field(description="Why it could not be measured, or empty.")
    message: str
    done: int = Field(description="Samples.")
    loss: float | None = Field(description="In nats per token.")
    tokens: int
    reference: bool = Field(description="Whether the others are compared with it.")
    against: str = Field(description="The precision that it is compared with.")
    difference: float | None = Field(description="From the loss in that one, over the samples that both have.")
    tolerance: float | None = Field(description="What of the difference does not matter, in nats per token.")
    matters: bool


class ShownToken(Answer):
    id: int
    text: str


class TokenDifference(Answer):
    """The first token at which what is served differs from what training implies."""

    item: int = Field(description="Number of the sample's item.")
    at: int = Field(description="Number of the token, from 0.")
    before: str
    served: ShownToken | None = Field(description="Null at its end.")
    trained: ShownToken | None
    served_after: str
    trained_after: str


class StoredParity(Answer):
    id: int
    adapter: int | None = Field(validation_alias="adapter_id")
    slug: str
    name: str
    step: int | None = Field(description="Of training, that the adapter's weights are of.")
    prompts: int = Field(description="Id of the prompt set.")
    prompts_name: str
    version: int
    version_digest: str
    digest: str
    base_key: str
    base_name: str
    prompting: str
    state: Annotated[str, one_of(RunState.values)]
    code: str
    message: str
    waiting: str
    total: int = Field(description="Samples.")
    done: int
    verdict: str = Field(description="Stable, for programs; empty before the end.")
    sentence: str = Field(description="The verdict for people, in the reader's language.")
    precision_verdict: str = Field(
        description="What the precisions come to: explains, loses, gains, same; empty where there is one alone."
    )
    precision: str = Field(description="Of the base, as it was measured; empty where that is not known.")


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


class WholeParity(StoredParity):
    errors: int = Field(description="Samples that could not be measured.")
    differing: int = Field(description="Samples whose tokens differ from what training implies.")
    recorded: Recorded | None
    implied: Implied | None
    same_samples: bool | None = Field(description="Whether the trainer evaluated as many; null where it is not known.")
    tolerance: float | None = Field(description="In nats per token.")
    batch: int | None = Field(description="Samples of a batch of the trainer; null: every token counts the same.")
    figures: list[ParityFigure]
    ending: str = Field(description="The token that ends an answer in training.")
    difference: TokenDifference | None
    untold: str = Field(description="Why training's tokens are not known, or empty.")
    precisions: list[Precision]


ParityPage = page_of(StoredParity, "ParityReportPage")


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
    pending: bool = Field(description="Whether a verdict will come: its evaluation is under way, queued or foreseen.")
    unasked: str = Field(description="Why no evaluation begins by itself though these files have to wait, or empty.")
    unasked_message: str
    verdict: StoredVerdict | None


class Standings(Answer):
    adapter: int
    slug: str
    name: str
    active: bool
    passes: bool = Field(description="Whether no gate objects.")
    pending: bool = Field(description="Whether a verdict of one of its gates will come without anybody asking for it.")
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
