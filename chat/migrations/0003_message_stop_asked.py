from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("chat", "0002_assistants"),
    ]

    operations = [
        migrations.AddField(
            model_name="message",
            name="stop_asked",
            field=models.BooleanField(default=False),
        ),
    ]
