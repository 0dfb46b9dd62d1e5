from django.db import migrations, models

from common.resumable import CreateModel, DropLeftovers


class Migration(migrations.Migration):
    dependencies = [
        ("inference", "0001_usage_and_limits"),
    ]

    operations = [
        DropLeftovers(["inference_loadtime"]),
        CreateModel(
            name="LoadTime",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("kind", models.CharField(max_length=16)),
                ("key", models.CharField(blank=True, default="", max_length=64)),
                ("seconds", models.FloatField()),
            ],
            options={
                "verbose_name": "load time",
                "verbose_name_plural": "load times",
                "indexes": [models.Index(fields=["kind", "key"], name="load_time_of")],
            },
        ),
    ]
