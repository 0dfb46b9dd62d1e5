"""What the running side takes and answers."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers as s

from .objects import Serializer, page_of


class Usage(Serializer):
    prompt_tokens = s.IntegerField()
    completion_tokens = s.IntegerField()
    cached_tokens = s.IntegerField(help_text="Of the prompt, reused from an earlier turn.")


class Timings(Serializer):
    """Seconds, from the moment when the engine received the request."""

    queue = s.FloatField()
    load = s.FloatField()
    ttft = s.FloatField(help_text="To the first token.")
    total = s.FloatField()
    tokens_per_second = s.FloatField()


class TestAnswer(Serializer):
    model = s.CharField()
    response = s.CharField(allow_blank=True)
    response_length = s.IntegerField(help_text="Characters.")
    finish_reason = s.ChoiceField(choices=["stop", "length", "cancelled"])
    usage = Usage()
    timings = Timings()
    digest = s.CharField(help_text="Content hash of the adapter that answered.")
    logprobs = s.ListField(child=s.DictField(), required=False)


class Worker(Serializer):
    state = s.ChoiceField(choices=["stopped", "starting", "ready", "failed", "closed"])
    pid = s.IntegerField(allow_null=True)
    device = s.CharField(allow_blank=True)
    restarts = s.IntegerField()
    in_flight = s.IntegerField()


class Status(Serializer):
    worker = Worker()
    engine = s.DictField(allow_null=True, help_text="What is loaded, memory, queue.")


class Count(Serializer):
    tokens = s.IntegerField()
    context_length = s.IntegerField(help_text="Tokens that prompt and answer may have together.")


class Freed(Serializer):
    freed_bytes = s.IntegerField()


class TokenRef(Serializer):
    id = s.IntegerField()
    name = s.CharField(allow_blank=True)


class UsageRow(Serializer):
    day = s.DateField()
    user = s.CharField()
    token = TokenRef(allow_null=True)
    model = s.CharField()
    digest = s.CharField()
    requests = s.IntegerField()
    prompt_tokens = s.IntegerField()
    completion_tokens = s.IntegerField()
    cached_tokens = s.IntegerField()


class Totals(Serializer):
    requests = s.IntegerField()
    prompt_tokens = s.IntegerField()
    completion_tokens = s.IntegerField()
    cached_tokens = s.IntegerField()


class LimitsObject(Serializer):
    key = s.CharField()
    requests_per_minute = s.IntegerField()
    tokens_per_day = s.IntegerField()
    concurrent = s.IntegerField()


UsagePage = page_of(UsageRow, "UsagePage", totals=Totals(), limits=LimitsObject(many=True))


# OpenAI's shapes


class OpenAIErrorObject(Serializer):
    code = s.CharField()
    message = s.CharField()
    param = s.CharField(allow_null=True)
    type = s.CharField()
    available = s.ListField(child=s.CharField(), required=False)


class OpenAIError(Serializer):
    error = OpenAIErrorObject()


class Model(Serializer):
    id = s.CharField()
    object = s.ChoiceField(choices=["model"])
    created = s.IntegerField()
    owned_by = s.CharField()
    root = s.CharField()  # type: ignore[assignment]
    parent = s.CharField(allow_null=True, help_text="The base model's id; null for a base.")  # type: ignore[assignment]
    max_model_len = s.IntegerField(allow_null=True)
    status = s.CharField()
    digest = s.CharField()


class Models(Serializer):
    object = s.ChoiceField(choices=["list"])
    data = Model(many=True)  # type: ignore[assignment]


class PromptDetails(Serializer):
    cached_tokens = s.IntegerField()


class OpenAIUsage(Serializer):
    prompt_tokens = s.IntegerField()
    completion_tokens = s.IntegerField()
    total_tokens = s.IntegerField()
    prompt_tokens_details = PromptDetails()


class AnswerMessage(Serializer):
    role = s.ChoiceField(choices=["assistant"])
    content = s.CharField(allow_blank=True)
    refusal = s.CharField(allow_null=True)


class ChatChoice(Serializer):
    index = s.IntegerField()
    message = AnswerMessage()
    logprobs = s.DictField(allow_null=True)
    finish_reason = s.ChoiceField(choices=["stop", "length"])


class CompletionChoice(Serializer):
    index = s.IntegerField()
    text = s.CharField(allow_blank=True)
    logprobs = s.DictField(allow_null=True)
    finish_reason = s.ChoiceField(choices=["stop", "length"])


class Whole(Serializer):
    id = s.CharField()
    object = s.CharField()
    created = s.IntegerField()
    model = s.CharField()
    system_fingerprint = s.CharField(help_text="Content hash of the adapter that answered, or the base's key.")
    usage = OpenAIUsage()
    timings = Timings(allow_null=True)


class ChatAnswer(Whole):
    choices: Any = ChatChoice(many=True)


class CompletionAnswer(Whole):
    choices: Any = CompletionChoice(many=True)
