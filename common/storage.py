"""Static files with the content's hash in their names, so that browsers may keep them without asking again."""

from servestatic.storage import CompressedManifestStaticFilesStorage


class HashedStaticFilesStorage(CompressedManifestStaticFilesStorage):
    """Also rewrites the imports between JavaScript modules: after an upgrade no page mixes old and new ones."""

    support_js_module_import_aggregation = True
