from django.db import migrations, models

from common.resumable import AddField


class Migration(migrations.Migration):
    dependencies = [
        ("chat", "0002_assistants"),
    ]

    operations = [
        AddField(
            model_name="message",
            name="stop_asked",
            field=models.BooleanField(default=False),
        ),
    ]
