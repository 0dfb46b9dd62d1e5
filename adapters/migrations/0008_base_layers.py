import django.db.models.deletion
from django.db import migrations, models

from common.resumable import CreateModel, DropLeftovers


class Migration(migrations.Migration):
    dependencies = [
        ("adapters", "0007_base_keys"),
    ]

    operations = [
        DropLeftovers(["adapters_baselayers"]),
        CreateModel(
            name="BaseLayers",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("signature", models.CharField(max_length=64)),
                ("layers", models.JSONField(default=dict)),
                ("earlier_names", models.JSONField(default=dict)),
                (
                    "base",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="layers",
                        to="adapters.basemodel",
                    ),
                ),
            ],
        ),
    ]
