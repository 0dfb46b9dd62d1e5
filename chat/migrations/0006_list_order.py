from django.db import migrations, models

from common.resumable import ReplaceIndex


class Migration(migrations.Migration):
    dependencies = [
        ("chat", "0005_lists"),
    ]

    operations = [
        ReplaceIndex(
            "conversation",
            models.Index(fields=["user", "-updated_at"], name="conversation_recent"),
            models.Index(fields=["user", "-pinned", "-updated_at", "-id"], name="conversation_listed"),
        ),
    ]
