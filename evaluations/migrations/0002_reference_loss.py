import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

from common.resumable import AddField, CreateModel, DropLeftovers


class Migration(migrations.Migration):
    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("evaluations", "0001_sets_and_runs"),
    ]

    operations = [
        DropLeftovers(["evaluations_score"]),
        CreateModel(
            name="Score",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.CharField(max_length=64)),
                ("logprob", models.FloatField()),
                ("tokens", models.PositiveIntegerField()),
                ("prompt_tokens", models.PositiveIntegerField(default=0)),
                ("seconds", models.FloatField(default=0.0)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "owner",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="owner",
                    ),
                ),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("owner", "key"), name="one_evaluation_score")],
                "verbose_name": "score of an evaluation",
                "verbose_name_plural": "scores of evaluations",
            },
        ),
        AddField(
            model_name="result",
            name="score",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.RESTRICT,
                related_name="results",
                to="evaluations.score",
            ),
        ),
        AddField(
            model_name="result",
            name="score_reused",
            field=models.BooleanField(default=False),
        ),
    ]
