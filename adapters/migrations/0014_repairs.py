import django.db.models.deletion
from django.db import migrations, models

from common.resumable import CreateModel, DropLeftovers


class Migration(migrations.Migration):
    dependencies = [
        ("adapters", "0013_losses"),
    ]

    operations = [
        DropLeftovers(["adapters_repair"]),
        CreateModel(
            name="Repair",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("plan", models.CharField(max_length=64)),
                ("content", models.CharField(max_length=64)),
                ("kinds", models.JSONField(default=list)),
                ("changes", models.PositiveIntegerField(default=0)),
                ("header", models.JSONField(default=dict)),
                ("accepted_at", models.DateTimeField(blank=True, null=True, verbose_name="accepted at")),
                ("found_at", models.DateTimeField(auto_now=True, verbose_name="found at")),
                (
                    "adapter",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="repair",
                        to="adapters.loraadapter",
                    ),
                ),
            ],
        ),
        migrations.AlterField(
            model_name="adapterevent",
            name="kind",
            field=models.CharField(
                choices=[
                    ("discovered", "discovered"),
                    ("changed", "files changed"),
                    ("missing", "files missing"),
                    ("returned", "files restored"),
                    ("moved", "folder moved or renamed"),
                    ("activated", "activated"),
                    ("deactivated", "deactivated"),
                    ("failed", "failed"),
                    ("refused", "activation rejected"),
                    ("recovered", "failure cleared"),
                    ("proven", "effect verified"),
                    ("repaired", "repair accepted"),
                    ("mapped", "base model set"),
                    ("edited", "edited"),
                    ("forgotten", "entry removed"),
                    ("files_deleted", "files deleted"),
                    ("imported", "imported"),
                ],
                max_length=32,
                verbose_name="event type",
            ),
        ),
    ]
