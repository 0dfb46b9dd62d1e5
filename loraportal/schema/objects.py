"""The objects that the API's answers are made of."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers as s

Serializer = s.Serializer[Any]


class ErrorObject(Serializer):
    code = s.CharField(help_text="Stable, for programs.")
    message = s.CharField(help_text="A sentence for people, in the reader's language.")
    param = s.CharField(allow_null=True, help_text="The field of the request at fault.")


class Error(Serializer):
    error = ErrorObject()


class Reason(Serializer):
    code = s.CharField()
    message = s.CharField()


class BaseRef(Serializer):
    id = s.IntegerField()
    name = s.CharField()
    slug = s.CharField()


class Effect(Serializer):
    kl = s.FloatField(help_text="Mean divergence from the base model over probe prompts, nats per token.")
    changed = s.FloatField(allow_null=True, help_text="Share of greedy tokens that differ, 0 to 1.")


class Activation(Serializer):
    progress = s.FloatField(help_text="0 to 1 of the copy into the store.")


class Use(Serializer):
    requests = s.IntegerField()
    tokens = s.IntegerField()
    last_used_at = s.DateTimeField(allow_null=True)


class Adapter(Serializer):
    id = s.IntegerField()
    name = s.CharField()
    slug = s.CharField(help_text="The model id of the OpenAI-compatible API and the websocket.")
    status = s.ChoiceField(choices=["discovered", "active", "failed"])
    failure = Reason(allow_null=True)
    base = BaseRef(allow_null=True)
    base_name = s.CharField(allow_blank=True, help_text="The base model that the training recorded.")
    base_by_hand = s.BooleanField()
    rank = s.IntegerField(allow_null=True)
    alpha = s.FloatField(allow_null=True)
    peft_type = s.CharField(allow_blank=True)
    target_modules = s.JSONField()
    size_bytes = s.IntegerField()
    digest = s.CharField(allow_blank=True, help_text="Content hash of the copy that is served.")
    path_label = s.CharField()
    run = s.CharField(allow_blank=True)
    checkpoint = s.IntegerField(allow_null=True)
    is_best = s.BooleanField()
    is_last = s.BooleanField()
    duplicate_of = s.IntegerField(allow_null=True)
    incomplete = s.BooleanField()
    missing = s.BooleanField()
    update_available = s.BooleanField()
    flags = Reason(many=True)
    effect = Effect(allow_null=True)
    notes = s.CharField(allow_blank=True)
    tags = s.ListField(child=s.CharField())
    use = Use()
    activation = Activation(allow_null=True, required=False, help_text="While one is under way; not in lists.")
    trained_at = s.DateTimeField(allow_null=True)
    activated_at = s.DateTimeField(allow_null=True)
    created_at = s.DateTimeField()
    updated_at = s.DateTimeField()


class Base(Serializer):
    id = s.IntegerField()
    name = s.CharField()
    slug = s.CharField()
    hub_id = s.CharField(allow_blank=True)
    architecture = s.CharField(allow_blank=True)
    parameters = s.IntegerField()
    dtype = s.CharField(allow_blank=True)
    size_bytes = s.IntegerField()
    context_length = s.IntegerField()
    has_chat_template = s.BooleanField()
    memory = s.DictField(child=s.IntegerField(), help_text="Bytes by precision, estimated.")
    problem = Reason(allow_null=True)
    missing = s.BooleanField()


class Event(Serializer):
    id = s.IntegerField()
    kind = s.CharField()
    label = s.CharField()  # type: ignore[assignment]
    actor = s.CharField(allow_blank=True)
    to = s.CharField(allow_blank=True)
    code = s.CharField(allow_blank=True)
    message = s.CharField(allow_blank=True)
    details = s.JSONField()
    created_at = s.DateTimeField()

    def get_fields(self) -> dict[str, Any]:
        return {**super().get_fields(), "from": s.CharField(allow_blank=True)}


class ScanSummary(Serializer):
    found = s.IntegerField()
    new = s.IntegerField()
    changed = s.IntegerField()
    missing = s.IntegerField()
    incomplete = s.IntegerField()
    duration_ms = s.IntegerField()


class Scan(ScanSummary):
    id = s.IntegerField()
    state = s.CharField()
    stage = s.CharField(allow_blank=True)
    done = s.IntegerField()
    total = s.IntegerField()
    notes = s.JSONField()
    started_at = s.DateTimeField()
    finished_at = s.DateTimeField(allow_null=True)
    duration_ms = s.IntegerField(allow_null=True)


class Metrics(Serializer):
    id = s.IntegerField()
    training = s.DictField(allow_null=True)
    use = Use()


class BulkResult(Serializer):
    id = s.IntegerField()
    ok = s.BooleanField()
    code = s.CharField(allow_blank=True)
    message = s.CharField(allow_blank=True)


def page_of(item: type[Serializer], name: str, **extra: Any) -> type[Serializer]:
    """A page of a list, as `common.api.Pagination` gives it."""
    fields = {
        "count": s.IntegerField(),
        "next": s.CharField(allow_null=True),
        "previous": s.CharField(allow_null=True),
        "results": item(many=True),
    }
    return type(name, (s.Serializer,), {**fields, **extra})
