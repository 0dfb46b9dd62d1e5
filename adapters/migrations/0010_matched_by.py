from django.db import migrations, models

from common.resumable import AddField


class Migration(migrations.Migration):
    dependencies = [
        ("adapters", "0009_prompting"),
    ]

    operations = [
        AddField(
            model_name="loraadapter",
            name="matched_by",
            field=models.CharField(
                blank=True,
                choices=[
                    ("hub_id", "by the recorded ID"),
                    ("name", "by the recorded name"),
                    ("path", "by the recorded path, ignoring the version or revision at its end"),
                    ("packed", "by the recorded name, ignoring the suffix of a prequantised variant"),
                    ("config", "by the config.json saved next to the adapter"),
                    ("mapping", "set by an operator for this recorded name"),
                    ("hand", "set manually"),
                ],
                default="",
                editable=False,
                max_length=16,
                verbose_name="base model matched",
            ),
        ),
    ]
