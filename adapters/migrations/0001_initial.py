import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models

from adapters.legacy.operations import AdoptLegacyTable
from common.resumable import CreateModel, DropLeftovers


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        AdoptLegacyTable(),
        DropLeftovers(
            [
                "adapters_trainingfacts",
                "adapters_adapterevent",
                "lora_models_tags",
                "lora_models",
                "adapters_basemapping",
                "adapters_scan",
                "adapters_tag",
                "adapters_lease",
                "adapters_basemodel",
            ]
        ),
        CreateModel(
            name="BaseModel",
            fields=[
                (
                    "id",
                    models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"),
                ),
                (
                    "name",
                    models.CharField(
                        help_text="Folder name under BASE_MODELS_DIR.", max_length=255, verbose_name="name"
                    ),
                ),
                ("slug", models.SlugField(max_length=128, unique=True, verbose_name="slug")),
                ("path", models.CharField(max_length=1024, verbose_name="path")),
                ("path_hash", models.CharField(editable=False, max_length=64, unique=True)),
                (
                    "key",
                    models.CharField(blank=True, db_index=True, default="", max_length=64, verbose_name="content key"),
                ),
                (
                    "config_hash",
                    models.CharField(blank=True, db_index=True, default="", max_length=64, verbose_name="config hash"),
                ),
                ("signature", models.CharField(blank=True, default="", editable=False, max_length=64)),
                (
                    "architecture",
                    models.CharField(blank=True, default="", max_length=128, verbose_name="architecture"),
                ),
                (
                    "model_type",
                    models.CharField(blank=True, default="", max_length=64, verbose_name="model type"),
                ),
                ("hub_id", models.CharField(blank=True, default="", max_length=255, verbose_name="hub id")),
                ("parameters", models.BigIntegerField(default=0, verbose_name="parameters")),
                ("dtype", models.CharField(blank=True, default="", max_length=16, verbose_name="data type")),
                ("size_bytes", models.BigIntegerField(default=0, verbose_name="size in bytes")),
                (
                    "context_length",
                    models.PositiveIntegerField(default=0, help_text="Tokens.", verbose_name="context length"),
                ),
                ("vocab_size", models.PositiveIntegerField(default=0, verbose_name="vocabulary size")),
                ("has_chat_template", models.BooleanField(default=False, verbose_name="has a chat template")),
                (
                    "memory_fp32",
                    models.BigIntegerField(default=0, help_text="Bytes, estimated.", verbose_name="memory in fp32"),
                ),
                (
                    "memory_bf16",
                    models.BigIntegerField(default=0, help_text="Bytes, estimated.", verbose_name="memory in bf16"),
                ),
                (
                    "memory_nf4",
                    models.BigIntegerField(default=0, help_text="Bytes, estimated.", verbose_name="memory in NF4"),
                ),
                (
                    "problem_code",
                    models.CharField(blank=True, default="", max_length=64, verbose_name="problem"),
                ),
                ("problem_details", models.JSONField(blank=True, default=dict)),
                ("missing", models.BooleanField(default=False, verbose_name="missing")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="found at")),
                ("updated_at", models.DateTimeField(auto_now=True, verbose_name="updated at")),
            ],
            options={
                "verbose_name": "base model",
                "verbose_name_plural": "base models",
                "ordering": ["name", "id"],
            },
        ),
        CreateModel(
            name="Lease",
            fields=[
                (
                    "id",
                    models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"),
                ),
                ("name", models.CharField(max_length=100, unique=True)),
                ("token", models.CharField(max_length=64)),
                ("holder", models.CharField(blank=True, default="", max_length=255)),
                ("expires_at", models.DateTimeField()),
            ],
        ),
        CreateModel(
            name="Tag",
            fields=[
                (
                    "id",
                    models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"),
                ),
                ("name", models.CharField(max_length=64, unique=True, verbose_name="name")),
            ],
            options={
                "verbose_name": "tag",
                "verbose_name_plural": "tags",
                "ordering": ["name"],
            },
        ),
        CreateModel(
            name="BaseMapping",
            fields=[
                (
                    "id",
                    models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"),
                ),
                ("recorded", models.CharField(max_length=512, verbose_name="recorded name")),
                ("recorded_hash", models.CharField(editable=False, max_length=64, unique=True)),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="created at")),
                (
                    "actor",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "base",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="mappings",
                        to="adapters.basemodel",
                    ),
                ),
            ],
            options={
                "verbose_name": "base mapping",
                "verbose_name_plural": "base mappings",
                "ordering": ["recorded", "id"],
            },
        ),
        CreateModel(
            name="LoraAdapter",
            fields=[
                (
                    "id",
                    models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"),
                ),
                ("name", models.CharField(max_length=255, verbose_name="name")),
                (
                    "slug",
                    models.CharField(
                        help_text="The model id in the API.", max_length=128, unique=True, verbose_name="slug"
                    ),
                ),
                ("root", models.CharField(blank=True, default="", max_length=1024, verbose_name="root")),
                ("path", models.CharField(blank=True, default="", max_length=1024, verbose_name="path")),
                ("path_hash", models.CharField(editable=False, max_length=64, unique=True)),
                ("signature", models.CharField(blank=True, default="", editable=False, max_length=64)),
                (
                    "group_hash",
                    models.CharField(blank=True, db_index=True, default="", editable=False, max_length=64),
                ),
                ("run_name", models.CharField(blank=True, default="", max_length=255, verbose_name="run")),
                ("checkpoint", models.PositiveIntegerField(blank=True, null=True, verbose_name="checkpoint")),
                ("is_best", models.BooleanField(default=False, verbose_name="best of its run")),
                ("is_last", models.BooleanField(default=False, verbose_name="last of its run")),
                (
                    "status",
                    models.CharField(
                        choices=[("discovered", "discovered"), ("active", "active"), ("failed", "failed")],
                        db_index=True,
                        default="discovered",
                        max_length=16,
                        verbose_name="status",
                    ),
                ),
                (
                    "failure_code",
                    models.CharField(blank=True, default="", max_length=64, verbose_name="failure code"),
                ),
                ("failure_details", models.JSONField(blank=True, default=dict)),
                ("flags", models.JSONField(blank=True, default=list)),
                ("incomplete", models.BooleanField(default=False, verbose_name="incomplete")),
                ("missing", models.BooleanField(default=False, verbose_name="missing")),
                ("update_available", models.BooleanField(default=False, verbose_name="update available")),
                ("base_by_hand", models.BooleanField(default=False, verbose_name="base model set manually")),
                (
                    "base_name_recorded",
                    models.CharField(blank=True, default="", max_length=512, verbose_name="recorded base model"),
                ),
                (
                    "peft_type",
                    models.CharField(blank=True, default="", max_length=64, verbose_name="PEFT type"),
                ),
                ("rank", models.PositiveIntegerField(blank=True, null=True, verbose_name="rank")),
                ("alpha", models.FloatField(blank=True, null=True, verbose_name="alpha")),
                ("target_modules", models.JSONField(blank=True, default=list)),
                ("trained_at", models.DateTimeField(blank=True, null=True, verbose_name="trained at")),
                ("size_bytes", models.BigIntegerField(default=0, verbose_name="size in bytes")),
                (
                    "digest",
                    models.CharField(blank=True, db_index=True, default="", max_length=64, verbose_name="digest"),
                ),
                ("activated_at", models.DateTimeField(blank=True, null=True, verbose_name="activated at")),
                ("proven_at", models.DateTimeField(blank=True, null=True, verbose_name="effect verified at")),
                (
                    "effect_kl",
                    models.FloatField(blank=True, help_text="Nats per token.", null=True, verbose_name="divergence"),
                ),
                (
                    "effect_changed",
                    models.FloatField(blank=True, help_text="0 to 1.", null=True, verbose_name="changed tokens"),
                ),
                ("notes", models.TextField(blank=True, default="", verbose_name="notes")),
                ("use_count", models.PositiveBigIntegerField(default=0, verbose_name="requests answered")),
                ("use_tokens", models.PositiveBigIntegerField(default=0, verbose_name="tokens generated")),
                ("last_used_at", models.DateTimeField(blank=True, null=True, verbose_name="last used at")),
                (
                    "created_at",
                    models.DateTimeField(default=django.utils.timezone.now, verbose_name="found at"),
                ),
                ("updated_at", models.DateTimeField(auto_now=True, verbose_name="updated at")),
                (
                    "base",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="adapters",
                        to="adapters.basemodel",
                    ),
                ),
                (
                    "duplicate_of",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="duplicates",
                        to="adapters.loraadapter",
                    ),
                ),
                (
                    "tags",
                    models.ManyToManyField(blank=True, related_name="adapters", to="adapters.tag", verbose_name="tags"),
                ),
            ],
            options={
                "verbose_name": "adapter",
                "verbose_name_plural": "adapters",
                "db_table": "lora_models",
                "ordering": ["-created_at", "-id"],
            },
        ),
        CreateModel(
            name="AdapterEvent",
            fields=[
                (
                    "id",
                    models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"),
                ),
                (
                    "adapter_name",
                    models.CharField(blank=True, default="", max_length=255, verbose_name="adapter"),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("discovered", "discovered"),
                            ("changed", "files changed"),
                            ("missing", "files missing"),
                            ("returned", "files restored"),
                            ("activated", "activated"),
                            ("deactivated", "deactivated"),
                            ("failed", "failed"),
                            ("recovered", "failure cleared"),
                            ("proven", "effect verified"),
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
                ("actor_name", models.CharField(blank=True, default="", max_length=150, verbose_name="performed by")),
                (
                    "from_status",
                    models.CharField(blank=True, default="", max_length=16, verbose_name="previous status"),
                ),
                ("to_status", models.CharField(blank=True, default="", max_length=16, verbose_name="new status")),
                ("code", models.CharField(blank=True, default="", max_length=64, verbose_name="code")),
                ("details", models.JSONField(blank=True, default=dict)),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="time")),
                (
                    "actor",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "adapter",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="events",
                        to="adapters.loraadapter",
                    ),
                ),
            ],
            options={
                "verbose_name": "event",
                "verbose_name_plural": "events",
                "ordering": ["-id"],
            },
        ),
        CreateModel(
            name="Scan",
            fields=[
                (
                    "id",
                    models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[("running", "running"), ("done", "done"), ("failed", "failed")],
                        default="running",
                        max_length=16,
                        verbose_name="state",
                    ),
                ),
                ("stage", models.CharField(blank=True, default="", max_length=32, verbose_name="stage")),
                ("done", models.PositiveIntegerField(default=0, verbose_name="folders scanned")),
                ("total", models.PositiveIntegerField(default=0, verbose_name="folders in total")),
                ("found", models.PositiveIntegerField(default=0, verbose_name="found")),
                ("new", models.PositiveIntegerField(default=0, verbose_name="new")),
                ("changed", models.PositiveIntegerField(default=0, verbose_name="changed")),
                ("missing", models.PositiveIntegerField(default=0, verbose_name="missing")),
                ("incomplete", models.PositiveIntegerField(default=0, verbose_name="incomplete")),
                ("duration_ms", models.PositiveIntegerField(default=0, verbose_name="duration in ms")),
                ("notes", models.JSONField(blank=True, default=list)),
                ("started_at", models.DateTimeField(auto_now_add=True, verbose_name="started at")),
                ("finished_at", models.DateTimeField(blank=True, null=True, verbose_name="finished at")),
                (
                    "actor",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "verbose_name": "scan",
                "verbose_name_plural": "scans",
                "ordering": ["-id"],
            },
        ),
        CreateModel(
            name="TrainingFacts",
            fields=[
                (
                    "id",
                    models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"),
                ),
                ("summary", models.JSONField(blank=True, default=dict)),
                ("curve", models.JSONField(blank=True, default=list)),
                ("problems", models.JSONField(blank=True, default=list)),
                (
                    "adapter",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="training",
                        to="adapters.loraadapter",
                    ),
                ),
            ],
        ),
    ]
