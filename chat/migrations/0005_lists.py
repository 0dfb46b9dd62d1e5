from django.db import migrations, models

from common.resumable import AddField


class Migration(migrations.Migration):
    dependencies = [
        ("chat", "0004_message_writer"),
    ]

    operations = [
        AddField(
            model_name="conversation",
            name="pinned",
            field=models.BooleanField(default=False, verbose_name="pinned"),
        ),
        AddField(
            model_name="conversation",
            name="folder",
            field=models.CharField(blank=True, default="", max_length=80, verbose_name="folder"),
        ),
        AddField(
            model_name="conversation",
            name="share",
            field=models.UUIDField(blank=True, editable=False, null=True, unique=True, verbose_name="share link"),
        ),
        migrations.AlterModelOptions(
            name="conversation",
            options={
                "ordering": ["-pinned", "-updated_at", "-id"],
                "verbose_name": "conversation",
                "verbose_name_plural": "conversations",
            },
        ),
    ]
