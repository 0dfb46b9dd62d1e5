from __future__ import annotations

from django.db import models

from .adapter import LoraAdapter


class TrainingFacts(models.Model):
    """What training left about itself beside an adapter; a table apart because curves are long."""

    adapter = models.OneToOneField(LoraAdapter, on_delete=models.CASCADE, related_name="training")
    summary = models.JSONField(default=dict, blank=True)  # see adapters/training/facts.py for its keys
    curve = models.JSONField(default=list, blank=True)  # [{"step", "epoch", "loss", "eval_loss", "learning_rate"}]
    problems = models.JSONField(default=list, blank=True)  # names of files that could not be read

    def __str__(self) -> str:
        return f"training facts of adapter {self.adapter_id}"
