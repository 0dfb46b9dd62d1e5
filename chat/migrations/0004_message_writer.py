from django.db import migrations, models

from common.resumable import AddField


class Migration(migrations.Migration):
    dependencies = [
        ("chat", "0003_message_stop_asked"),
    ]

    operations = [
        AddField(
            model_name="message",
            name="writer",
            field=models.CharField(blank=True, db_index=True, default="", max_length=255),
        ),
    ]
