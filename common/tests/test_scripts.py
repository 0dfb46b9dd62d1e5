"""What a page says of its scripts' modules before a browser knows of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.template import Context, Template

from common.scripts import modules_of

PAGES = sorted(path.name for path in Path(settings.BASE_DIR, "static", "js").glob("*.js"))


def written(folder: Path, **modules: str) -> None:
    for name, text in modules.items():
        file = folder / "js" / f"{name.replace('__', '/')}.js"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.fixture
def files(tmp_path: Path, settings: Any) -> Path:
    """A folder of static files."""
    settings.STATICFILES_DIRS = [tmp_path / "static"]
    return tmp_path / "static"


def test_each_module_once_in_the_order_in_which_it_is_come_upon(files: Path) -> None:
    several = 'import {\n  one,\n  two,\n} from "./lib/two.js";\nimport "./lib/one.js";\nexport { x } from "./x.js";\n'
    written(files, page=several, x="", lib__one='import "./two.js";\nimport { p } from "../page.js";\n')
    written(files, lib__two="import * as all from './three.js';\n", lib__three="const text = 'import';\n")
    assert modules_of("js/page.js") == ("js/lib/two.js", "js/lib/one.js", "js/x.js", "js/lib/three.js")


def test_neither_what_is_called_for_later_nor_what_is_not_there(files: Path) -> None:
    text = 'import "./missing.js";\nimport "https://example.org/x.js";\nimport "../../outside.js";\n'
    later = '// import "./late.js";\nconst late = () => import("./late.js");\nimport("./late.js").then(() => 1);\n'
    written(files, page=text + later, late="")
    assert modules_of("js/page.js") == ()
    assert modules_of("js/nothing.js") == ()


def test_a_page_names_what_the_shell_does_not() -> None:
    shell, page = (
        Template(f"{{% load ui %}}{{% page_script 'js/{name}.js' %}}").render(Context()) for name in ("app", "chat")
    )
    named = [re.findall(r'<link rel="modulepreload" href="/static/([^"]+)">', text) for text in (shell, page)]
    assert set(named[0]) == set(modules_of("js/app.js"))
    assert set(named[1]) == set(modules_of("js/chat.js")) - {"js/app.js", *named[0]}
    assert page.endswith('<script type="module" src="/static/js/chat.js"></script>')


@pytest.mark.parametrize("page", PAGES)
def test_everything_that_a_page_imports_is_known(page: str) -> None:
    known = {f"js/{page}", *modules_of(f"js/{page}")}
    for name in known:
        file = Path(settings.BASE_DIR, "static", name)
        for address in re.findall(r'(?:^|[;}\s])(?:from|import)\s*"(\.[^"]+)"', file.read_text(encoding="utf-8")):
            assert str((file.parent / address).resolve().relative_to(settings.BASE_DIR / "static")) in known, name
