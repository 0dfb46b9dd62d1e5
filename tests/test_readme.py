"""What the README promises about settings, commands and files is what the project has."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
README = (PROJECT / "README.md").read_text(encoding="utf-8")
SETTINGS = (PROJECT / "loraportal" / "settings.py").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([A-Z_]+)` \| (.*?) \| (.+?) \|$", re.MULTILINE)
READ = re.compile(r'env_\w+\(\s*"([A-Z_]+)"(?:,\s*([^\n]*?))?\)')


def table() -> dict[str, str]:
    """Setting → default as the table gives it."""
    return {name: default.strip("`") for name, default, _meaning in ROW.findall(README)}


def test_every_setting_is_in_the_table_and_none_else() -> None:
    read = [name for name, _rest in READ.findall(SETTINGS)]
    assert len(read) > 30 and len(read) == len(set(read)), "each setting is read in one place"
    assert sorted(table()) == sorted(read)
    assert len(ROW.findall(README)) == len(table()), "each setting has one row"


def written(node: ast.expr) -> str:
    """A default as the table writes it: `true`, `512 * 2**20` as a number, a string without quotes."""
    if isinstance(node, ast.BinOp):
        left, right = int(written(node.left)), int(written(node.right))
        return str(left**right if isinstance(node.op, ast.Pow) else left * right)
    value = ast.literal_eval(node)
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_defaults_agree() -> None:
    compared = 0
    for node in ast.walk(ast.parse(SETTINGS)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1:
            if node.func.id in {"env_int", "env_float", "env_choice", "env_bool"}:
                name = ast.literal_eval(node.args[0])
                assert table()[name] == written(node.args[1]), name
                compared += 1
    assert compared > 20


@pytest.mark.parametrize(
    "page", sorted(path.relative_to(PROJECT) for path in [*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")])
)
def test_links_lead_somewhere(page: Path) -> None:
    text = (PROJECT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert ((PROJECT / page).parent / target).exists(), target


def test_make_targets_exist() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"^make ([a-z ]+?)(?: ARGS.*| +#.*|)$", README, re.MULTILINE))
    targets = {target for words in named for target in words.split()}
    assert {"run", "test", "lint"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
