from django.db import migrations, models

from common.resumable import AddField


class Migration(migrations.Migration):
    dependencies = [
        ("adapters", "0008_base_layers"),
    ]

    operations = [
        AddField(
            model_name="loraadapter",
            name="prompting",
            field=models.JSONField(blank=True, default=dict, editable=False),
        ),
    ]
