"""The few settings that are needed before Django is there, read as `loraportal/settings.py` reads them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from .console import SetupError

PROJECT = Path(__file__).resolve().parent.parent.parent
LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)")


@dataclass(frozen=True)
class Environment:
    var_dir: Path
    host: str
    port: int
    models_dir: Path
    adapters_dir: Path
    own_adapters: bool  # LORA_ROOTS names other folders: the demo adapters stay away from them
    mysql: bool
    venv: Path
    fleet: bool = False  # models run on other machines

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def log(self) -> Path:
        return self.var_dir / "logs" / "setup.log"


def read_env_file(path: Path) -> dict[str, str]:
    """KEY=value lines of a `.env` file; quotes around a value are dropped, other lines are left to Django."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{path} cannot be read ({error}): mend it or take it away.") from None
    found: dict[str, str] = {}
    for line in lines:
        match = LINE.fullmatch(line)
        if match and not line.lstrip().startswith("#"):
            value = match.group(2).strip()
            quoted = re.fullmatch(r"'([^']*)'|\"([^\"]*)\"", value)
            found[match.group(1)] = (quoted.group(1) or quoted.group(2) or "") if quoted else value
    return found


def read_environment(project: Path = PROJECT) -> Environment:
    """Environment variables, then `.env`, then the defaults. Raises SetupError for a port that is none."""
    values = {**read_env_file(project / ".env"), **os.environ}

    def path(name: str, default: Path) -> Path:
        return (project / Path(values.get(name, "").strip() or default).expanduser()).resolve()

    port = values.get("PORT", "").strip() or "8000"
    if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise SetupError(f"PORT must be a whole number from 1 to 65535, not {port!r}.")
    var_dir = path("VAR_DIR", project / "var")
    default_root = var_dir / "adapters"
    roots = [(project / Path(item.strip()).expanduser()).resolve() for item in _words(values.get("LORA_ROOTS", ""))]
    return Environment(
        var_dir=var_dir,
        host=values.get("HOST", "").strip() or "127.0.0.1",
        port=int(port),
        models_dir=path("BASE_MODELS_DIR", var_dir / "models"),
        adapters_dir=default_root,
        own_adapters=bool(roots) and default_root not in roots,
        mysql=values.get("DATABASE_URL", "").startswith("mysql"),
        venv=path("VENV", project / ".venv"),
        fleet=values.get("INFERENCE_BACKEND", "").strip() == "vllm",
    )


def _words(text: str) -> list[str]:
    return [item for item in text.split(",") if item.strip()]
