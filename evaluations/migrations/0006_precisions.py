from django.db import migrations, models

from common.resumable import AddField


class Migration(migrations.Migration):
    dependencies = [
        ("evaluations", "0005_head_to_head"),
    ]

    operations = [
        AddField("parity", "wanted", models.JSONField(blank=True, default=list, verbose_name="further precisions")),
        AddField("parity", "others", models.JSONField(blank=True, default=dict)),
        AddField("sample", "asked", models.JSONField(blank=True, default=dict)),
        AddField("sample", "elsewhere", models.JSONField(blank=True, default=dict)),
    ]
