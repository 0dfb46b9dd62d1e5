"""Rows as the JSON of the API. Never an absolute path."""

from __future__ import annotations

from typing import Any

from adapters.bases.memory import fits
from adapters.failures import render
from adapters.models import AdapterEvent, BaseModel, LoraAdapter, Scan, TrainingFacts


def adapter_json(adapter: LoraAdapter) -> dict[str, Any]:
    """One adapter; `base`, `duplicate_of` and `tags` are to be fetched with it."""
    base = adapter.base
    proven = adapter.effect_kl is not None
    return {
        "id": adapter.pk,
        "name": adapter.name,
        "slug": adapter.slug,
        "status": adapter.status,
        "failure": failure_json(adapter.failure_code, adapter.failure_details),
        "base": {"id": base.pk, "name": base.name, "slug": base.slug} if base is not None else None,
        "base_name": adapter.base_name_recorded,
        "base_by_hand": adapter.base_by_hand,
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "peft_type": adapter.peft_type,
        "target_modules": adapter.target_modules,
        "size_bytes": adapter.size_bytes,
        "digest": adapter.digest,
        "path_label": adapter.path_label,
        "run": adapter.run_name,
        "checkpoint": adapter.checkpoint,
        "is_best": adapter.is_best,
        "is_last": adapter.is_last,
        "duplicate_of": adapter.duplicate_of_id,
        "incomplete": adapter.incomplete,
        "missing": adapter.missing,
        "update_available": adapter.update_available,
        "flags": [{"code": code, "message": render(code, {})} for code in adapter.flags],
        "effect": {"kl": adapter.effect_kl, "changed": adapter.effect_changed} if proven else None,
        "notes": adapter.notes,
        "tags": [tag.name for tag in adapter.tags.all()],
        "use": {
            "requests": adapter.use_count,
            "tokens": adapter.use_tokens,
            "last_used_at": adapter.last_used_at,
        },
        "trained_at": adapter.trained_at,
        "activated_at": adapter.activated_at,
        "created_at": adapter.created_at,
        "updated_at": adapter.updated_at,
    }


def failure_json(code: str, details: dict[str, Any]) -> dict[str, str] | None:
    return {"code": code, "message": render(code, details)} if code else None


def base_json(base: BaseModel) -> dict[str, Any]:
    return {
        "id": base.pk,
        "name": base.name,
        "slug": base.slug,
        "hub_id": base.hub_id,
        "architecture": base.architecture,
        "parameters": base.parameters,
        "dtype": base.dtype,
        "size_bytes": base.size_bytes,
        "context_length": base.context_length,
        "has_chat_template": base.has_chat_template,
        "memory": {"fp32": base.memory_fp32, "bf16": base.memory_bf16, "nf4": base.memory_nf4},
        "fits": fits(base),
        "problem": failure_json(base.problem_code, base.problem_details),
        "missing": base.missing,
    }


def event_json(event: AdapterEvent) -> dict[str, Any]:
    return {
        "id": event.pk,
        "kind": event.kind,
        "label": event.get_kind_display(),
        "actor": event.actor_name,
        "from": event.from_status,
        "to": event.to_status,
        "code": event.code,
        "message": event.message,
        "details": {k: v for k, v in event.details.items() if k != "files"},
        "created_at": event.created_at,
    }


def training_json(facts: TrainingFacts | None) -> dict[str, Any] | None:
    if facts is None:
        return None
    return {**facts.summary, "curve": facts.curve, "problems": facts.problems}


def scan_json(scan: Scan) -> dict[str, Any]:
    return {
        "id": scan.pk,
        "state": scan.state,
        "stage": scan.stage,
        "done": scan.done,
        "total": scan.total,
        "found": scan.found,
        "new": scan.new,
        "changed": scan.changed,
        "missing": scan.missing,
        "incomplete": scan.incomplete,
        "duration_ms": scan.duration_ms,
        "notes": scan.notes,
        "started_at": scan.started_at,
        "finished_at": scan.finished_at,
    }
