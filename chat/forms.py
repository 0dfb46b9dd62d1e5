from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings
from django.utils.translation import gettext as _

from common.api import ApiError
from inference.errors import InferenceError
from inference.gateway.targets import find
from inference.params import sampling

from .models import Assistant

ICONS = ["robot", "comments", "wand-magic-sparkles", "bolt", "code", "pen", "star", "language", "puzzle-piece", "cube"]
MAX_SAMPLES = 6
MAX_SAMPLE = 300
NUMBERS = ("max_tokens", "temperature", "top_p")


class AssistantForm(forms.ModelForm):  # type: ignore[type-arg]
    """Parameters are read by the same rules as those of a request; sample questions are lines."""

    icon = forms.ChoiceField(choices=[(name, name) for name in ICONS], initial="robot", required=False)
    system = forms.CharField(max_length=settings.MAX_PROMPT_CHARS, required=False, strip=False)
    sample_lines = forms.CharField(max_length=MAX_SAMPLES * (MAX_SAMPLE + 2), required=False)
    max_tokens = forms.IntegerField(required=False)
    temperature = forms.FloatField(required=False)
    top_p = forms.FloatField(required=False)

    class Meta:
        model = Assistant
        fields = ("name", "description", "icon", "system", "target", "shared")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["sample_lines"] = "\n".join(self.instance.samples)
        for name in NUMBERS:
            self.initial[name] = self.instance.params.get(name)

    def clean_icon(self) -> str:
        return self.cleaned_data["icon"] or "robot"

    def clean_target(self) -> str:
        slug: str = self.cleaned_data["target"]
        try:
            find(slug)
        except InferenceError as error:
            if slug != self.instance.target:  # one whose adapter is gone may be edited all the same
                raise forms.ValidationError(error.message) from None
        return slug

    def clean_sample_lines(self) -> list[str]:
        lines = [line.strip() for line in self.cleaned_data["sample_lines"].splitlines() if line.strip()]
        if len(lines) > MAX_SAMPLES or any(len(line) > MAX_SAMPLE for line in lines):
            text = _("At most %(lines)d lines of up to %(chars)d characters each.")
            raise forms.ValidationError(text % {"lines": MAX_SAMPLES, "chars": MAX_SAMPLE})
        return lines

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        for name in NUMBERS:
            value = cleaned.get(name)
            try:
                if value is not None:
                    sampling({name: value})
            except ApiError as error:
                self.add_error(name, error.message)
        return cleaned

    def save(self, commit: bool = True) -> Assistant:
        given = {name: self.cleaned_data.get(name) for name in NUMBERS}
        self.instance.params = {name: value for name, value in given.items() if value is not None}
        self.instance.samples = self.cleaned_data["sample_lines"]
        return super().save(commit)
