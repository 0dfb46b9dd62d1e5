from typing import Any

from django.db import migrations, models

from common.resumable import AddField

KEYS = ("loss", "eval_loss")


def fill(apps: Any, schema_editor: Any) -> None:
    """From what is known of each training already; later ones are written by scans."""
    facts = apps.get_model("adapters", "TrainingFacts")
    adapters = apps.get_model("adapters", "LoraAdapter")
    for row in facts.objects.select_related("adapter").iterator(chunk_size=200):
        step = row.adapter.checkpoint
        found = {}
        for key in KEYS:
            points = [point for point in row.curve if key in point and (step is None or point["step"] <= step)]
            if points and points[-1][key] is not None:
                found[key] = points[-1][key]
        if found:
            adapters.objects.filter(pk=row.adapter_id).update(**found)


class Migration(migrations.Migration):
    dependencies = [
        ("adapters", "0012_promotion"),
    ]

    operations = [
        AddField(
            model_name="loraadapter",
            name="loss",
            field=models.FloatField(blank=True, editable=False, null=True, verbose_name="loss"),
        ),
        AddField(
            model_name="loraadapter",
            name="eval_loss",
            field=models.FloatField(blank=True, editable=False, null=True, verbose_name="evaluation loss"),
        ),
        migrations.RunPython(fill, migrations.RunPython.noop),
    ]
