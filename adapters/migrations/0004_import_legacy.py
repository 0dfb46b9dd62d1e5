from django.db import migrations

from adapters.legacy import backfill


class Migration(migrations.Migration):
    """Rows of an older system's table to ours and back; does nothing on a fresh database."""

    dependencies = [("adapters", "0003_proven_digest")]

    operations = [migrations.RunPython(backfill.forward, backfill.backward)]
