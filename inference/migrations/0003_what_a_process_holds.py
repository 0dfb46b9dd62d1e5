from django.db import migrations, models

from common.resumable import AddField, CreateModel, DropLeftovers


class Migration(migrations.Migration):
    dependencies = [
        ("inference", "0002_load_times"),
    ]

    operations = [
        AddField(
            model_name="slot",
            name="process",
            field=models.CharField(blank=True, default="", max_length=255),
        ),
        DropLeftovers(["inference_reservation"]),
        CreateModel(
            name="Reservation",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.CharField(max_length=40)),
                ("holder", models.CharField(max_length=32)),
                ("process", models.CharField(max_length=255)),
                ("day", models.DateField()),
                ("tokens", models.BigIntegerField()),
                ("expires_at", models.DateTimeField()),
            ],
            options={
                "verbose_name": "token reservation",
                "verbose_name_plural": "token reservations",
                "constraints": [models.UniqueConstraint(fields=["holder", "key"], name="one_reservation_row")],
            },
        ),
    ]
