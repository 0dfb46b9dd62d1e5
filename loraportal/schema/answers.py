"""What the running side takes and answers."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers as s

from inference.api.openai.reading import MAX_CHOICES
from inference.params import MAX_LOGPROBS, MAX_MESSAGES, ROLES

from .objects import Serializer, page_of


class Message(Serializer):
    role = s.ChoiceField(choices=ROLES)
    content = s.CharField(allow_blank=True)


class Sampling(Serializer):
    """Every one may be missing or null."""

    max_tokens = s.IntegerField(min_value=1, required=False, allow_null=True)
    min_tokens = s.IntegerField(min_value=0, required=False, allow_null=True)
    temperature = s.FloatField(min_value=0, max_value=2, required=False, allow_null=True, help_text="0 is greedy.")
    top_p = s.FloatField(min_value=0, max_value=1, required=False, allow_null=True, help_text="Above 0.")
    top_k = s.IntegerField(min_value=0, max_value=1000, required=False, allow_null=True, help_text="0: off.")
    min_p = s.FloatField(min_value=0, max_value=1, required=False, allow_null=True)
    repetition_penalty = s.FloatField(min_value=0, max_value=10, required=False, allow_null=True)
    presence_penalty = s.FloatField(min_value=-2, max_value=2, required=False, allow_null=True)
    frequency_penalty = s.FloatField(min_value=-2, max_value=2, required=False, allow_null=True)
    seed = s.IntegerField(min_value=0, required=False, allow_null=True)
    stop = s.ListField(child=s.CharField(max_length=256), max_length=16, required=False, allow_null=True)
    ignore_eos = s.BooleanField(required=False, allow_null=True)


class TestRequest(Sampling):
    """Either `messages` (the base's chat template is applied) or `prompt` (raw text)."""

    messages = s.ListField(child=Message(), max_length=MAX_MESSAGES, required=False, allow_null=True)
    prompt = s.CharField(required=False, allow_null=True)
    logprobs = s.IntegerField(min_value=0, max_value=MAX_LOGPROBS, required=False, allow_null=True)
    json_object = s.BooleanField(required=False, allow_null=True)
    json_schema = s.DictField(required=False, allow_null=True)


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


class CountRequest(Serializer):
    """Exactly one of `messages` and `prompt`."""

    model = s.CharField(max_length=200, help_text="Slug of an adapter or a base.")
    messages = s.ListField(child=s.DictField(), required=False)
    prompt = s.CharField(required=False)


class Count(Serializer):
    tokens = s.IntegerField()
    context_length = s.IntegerField(help_text="Tokens that prompt and answer may have together.")


class LoadRequest(Serializer):
    model = s.CharField(help_text="An active adapter's slug, or a base model's.")
    pin = s.BooleanField(
        required=False,
        allow_null=True,
        help_text="true keeps the base model until it is unloaded; false no longer; absent leaves it as it is.",
    )


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


class StreamOptions(Serializer):
    include_usage = s.BooleanField(required=False, allow_null=True)


class Asking(Sampling):
    model = s.CharField(max_length=200, help_text="An adapter's slug or a base's.")
    n = s.IntegerField(min_value=1, max_value=MAX_CHOICES, required=False, allow_null=True)
    stream = s.BooleanField(required=False, allow_null=True, help_text="Answer as server-sent events.")
    stream_options = StreamOptions(required=False, allow_null=True)
    response_format = s.DictField(
        required=False, allow_null=True, help_text="Of type text, json_object or json_schema, as OpenAI has it."
    )


class ChatRequest(Asking):
    messages = s.ListField(child=Message(), max_length=MAX_MESSAGES)
    max_completion_tokens = s.IntegerField(min_value=1, required=False, allow_null=True)
    logprobs = s.BooleanField(required=False, allow_null=True)
    top_logprobs = s.IntegerField(min_value=0, max_value=MAX_LOGPROBS, required=False, allow_null=True)


class CompletionRequest(Asking):
    prompt = s.CharField()
    logprobs = s.IntegerField(min_value=0, max_value=MAX_LOGPROBS, required=False, allow_null=True)


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
