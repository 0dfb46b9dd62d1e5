"""Rows as the JSON of the API. Never an absolute path."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from adapters.bases.memory import fits
from adapters.details import prompting_of
from adapters.failures import render
from adapters.models import AdapterEvent, BaseModel, LoraAdapter, MatchedBy, Status, TrainingFacts
from adapters.validation.repair.plan import CHANGES
from common.answers import Answer, one_of, page_of


class Reason(Answer):
    code: str
    message: str


class BaseRef(Answer):
    id: int
    name: str
    slug: str


class Prompting(Answer):
    chat_template: Annotated[str, one_of(["adapter", "base", "none"])] = Field(
        description="Whose template writes the prompts."
    )
    same_as_base: bool = Field(description="The adapter's own template is its base model's.")
    end_tokens: list[str] = Field(
        description="The adapter's own, tokens or ids; those of its base model end an answer too."
    )
    defaults: dict[str, int | float] = Field(description="Sampling parameters where a request names none.")


class Effect(Answer):
    kl: float = Field(
        validation_alias="effect_kl",
        description="Mean divergence from the base model over probe prompts, nats per token.",
    )
    changed: float | None = Field(
        validation_alias="effect_changed", description="Share of greedy tokens that differ, 0 to 1."
    )


class RepairChange(Answer):
    kind: Annotated[str, one_of(list(CHANGES))]
    old: str = Field(description="A tensor, a file or a field of the config; empty where there was none.")
    new: str = Field(description="What stands for it in the repaired copy; empty where nothing does.")


class Repair(Answer):
    plan: str = Field(description="Of these files and changes; another one where either is another.")
    state: Annotated[str, one_of(["offered", "accepted", "serves"])] = Field(
        description="accepted: holds for the files as they are; serves: the repaired copy is what is served."
    )
    reasons: list[Reason] = Field(description="What was found.")
    changes: int = Field(validation_alias="count", description="Tensors, files and fields of the config.")


class Activation(Answer):
    progress: float = Field(description="0 to 1 of the copy into the store.")


class Use(Answer):
    requests: int = Field(validation_alias="use_count")
    tokens: int = Field(validation_alias="use_tokens")
    last_used_at: datetime | None


class Origin(Answer):
    hub: str
    repo: str
    revision: str = Field(description="As it was asked for.")
    commit: str


class Adapter(Answer):
    id: int
    name: str
    slug: str = Field(description="The model id of the OpenAI-compatible API and the websocket.")
    status: Annotated[str, one_of(Status.values)]
    failure: Reason | None
    base: BaseRef | None
    base_name: str = Field(
        validation_alias="base_name_recorded", description="The base model that the training recorded."
    )
    base_by_hand: bool
    matched_by: Annotated[str, one_of(["", *MatchedBy.values])] = Field(description="How the base model was found.")
    rank: int | None
    alpha: float | None
    peft_type: str
    target_modules: Any
    size_bytes: int
    digest: str = Field(description="Content hash of the copy that is served.")
    path_label: str
    run: str = Field(validation_alias="run_name")
    checkpoint: int | None
    is_best: bool
    is_last: bool
    duplicate_of: int | None = Field(validation_alias="duplicate_of_id")
    incomplete: bool
    missing: bool
    update_available: bool
    flags: list[Reason]
    prompting: Prompting | None = Field(description="Of an active adapter.")
    effect: Effect | None
    notes: str
    tags: list[str]
    use: Use
    repair: Repair | None = Field(None, description="What would be or was put right without loss; not in lists.")
    activation: Activation | None = Field(None, description="While one is under way; not in lists.")
    origin: Origin | None = Field(description="Of files that were imported from a hub and have not changed since.")
    loss: float | None = Field(description="The last one, or that of the checkpoint's step.")
    eval_loss: float | None
    trained_at: datetime | None
    activated_at: datetime | None
    created_at: datetime
    updated_at: datetime


class Base(Answer):
    id: int
    name: str
    slug: str
    hub_id: str
    architecture: str
    parameters: int
    dtype: str
    size_bytes: int
    context_length: int
    has_chat_template: bool
    memory: dict[str, int] = Field(description="Bytes by precision, estimated.")
    fits: dict[str, bool | None] = Field(description="By precision, as far as it is known.")
    problem: Reason | None
    missing: bool


class Event(Answer):
    id: int
    kind: str
    label: str
    actor: str = Field(validation_alias="actor_name")
    from_: str = Field(validation_alias="from_status", serialization_alias="from")
    to: str = Field(validation_alias="to_status")
    code: str
    message: str
    details: Any
    created_at: datetime


class ScanSummary(Answer):
    found: int
    new: int
    changed: int
    missing: int
    incomplete: int
    duration_ms: int


class Scan(ScanSummary):
    id: int
    state: str
    stage: str
    done: int
    total: int
    notes: Any
    started_at: datetime
    finished_at: datetime | None
    duration_ms: int | None  # type: ignore[assignment]


class Metrics(Answer):
    id: int
    training: dict[str, Any] | None
    use: Use


class RunCurve(Answer):
    id: int
    run: str
    name: str
    state: Annotated[str, one_of(["training", "finished", "stopped", "unknown"])] = Field(
        description="stopped: before its last step, and silent since."
    )
    step: int | None
    max_steps: int | None
    updated_at: datetime | None = Field(description="When training wrote last.")
    ends_at: datetime | None = Field(description="Estimated, while it trains.")
    curve: list[dict[str, Any]] = Field(
        description="By step: loss, eval_loss, learning_rate, grad_norm, epoch, elapsed (seconds); null is NaN."
    )


class BulkResult(Answer):
    id: int
    ok: bool
    code: str
    message: str


class BulkResults(Answer):
    results: list[BulkResult]


class BaseList(Answer):
    count: int
    results: list[Base]


RepairPage = page_of(RepairChange, "RepairPage", repair=(Repair | None, ...))
AdapterPage = page_of(Adapter, "AdapterPage")
EventPage = page_of(Event, "EventPage")


def adapter_json(adapter: LoraAdapter, **more: Any) -> dict[str, Any]:
    """One adapter; `base`, `duplicate_of` and `tags` are to be fetched with it."""
    more.setdefault("repair", None)  # (the row's own is another thing)
    return Adapter.of(
        adapter,
        failure=failure_json(adapter.failure_code, adapter.failure_details),
        flags=[failure_json(code, {}) for code in adapter.flags],
        prompting=prompting_of(adapter),
        effect=adapter if adapter.effect_kl is not None else None,
        tags=[tag.name for tag in adapter.tags.all()],
        use=adapter,
        origin=adapter.origin or None,
        **more,
    )


def repair_json(found: dict[str, Any]) -> dict[str, Any]:
    return Repair.of(
        plan=found["plan"], state=found["state"], count=found["count"],
        reasons=[failure_json(kind, {}) for kind in found["kinds"]],
    )  # fmt: skip


def failure_json(code: str, details: dict[str, Any]) -> dict[str, str] | None:
    return {"code": code, "message": render(code, details)} if code else None


def base_json(base: BaseModel) -> dict[str, Any]:
    memory = {"fp32": base.memory_fp32, "bf16": base.memory_bf16, "nf4": base.memory_nf4}
    return Base.of(base, memory=memory, fits=fits(base), problem=failure_json(base.problem_code, base.problem_details))


def event_json(event: AdapterEvent) -> dict[str, Any]:
    details = {k: v for k, v in event.details.items() if k not in {"files", "base_key"}}
    return Event.of(event, label=event.get_kind_display(), details=details)


def metrics_json(adapter: LoraAdapter, facts: TrainingFacts | None) -> dict[str, Any]:
    training = {**facts.summary, "curve": facts.curve, "problems": facts.problems} if facts is not None else None
    return Metrics.of(adapter, training=training, use=adapter)
