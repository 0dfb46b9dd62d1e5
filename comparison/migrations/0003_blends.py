from django.db import migrations, models

from common.resumable import AddField


class Migration(migrations.Migration):
    dependencies = [
        ("votes", "0002_own_parameters"),
    ]

    operations = [
        AddField(
            model_name="candidate",
            name="adapters",
            field=models.JSONField(blank=True, default=list, verbose_name="adapters of the blend"),
        ),
    ]
