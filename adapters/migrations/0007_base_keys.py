from typing import Any

from django.db import migrations


def look_again(apps: Any, schema_editor: Any) -> None:
    """Keys were made of fewer files: the next look at the folders makes them anew."""
    apps.get_model("adapters", "BaseModel").objects.update(signature="changed")


class Migration(migrations.Migration):
    dependencies = [
        ("adapters", "0006_base_judgement"),
    ]

    operations = [migrations.RunPython(look_again, migrations.RunPython.noop)]
