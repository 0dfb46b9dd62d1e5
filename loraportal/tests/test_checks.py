from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks

from loraportal import checks


def ids(deploy: bool = False) -> set[str]:
    found = run_checks(tags=["loraportal"], include_deployment_checks=deploy)
    assert all(message.hint for message in found), "every check says what to do"
    return {str(message.id) for message in found}


@pytest.fixture(autouse=True)
def collected(settings: Any) -> None:
    """Everything is in order unless a test breaks it."""
    settings.STATIC_ROOT = settings.VAR_DIR / "static"
    settings.STATIC_ROOT.mkdir()
    (settings.STATIC_ROOT / "staticfiles.json").write_text("{}")


def test_nothing_to_say() -> None:
    assert ids(deploy=True) == set()


@pytest.fixture
def fleet(settings: Any, tmp_path: Path) -> Any:
    settings.INFERENCE_BACKEND, settings.FLEET_DIR = "vllm", tmp_path / "fleet"
    return settings


def test_fleet(fleet: Any, nobody_may: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> None:
    assert ids() == set()
    fleet.FLEET_DIR = fleet.STORE_DIR / "fleet"
    assert ids() == {"loraportal.E015"}
    fleet.FLEET_DIR = fleet.VAR_DIR.parent / "elsewhere" / "fleet"
    nobody_may(checks.nearest_existing(fleet.FLEET_DIR))
    assert "loraportal.E014" in ids()
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    assert "loraportal.E013" in ids()


@pytest.fixture
def nobody_may(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Take a folder's rights away, also for root, to whom the file system refuses nothing."""
    refused: list[Path] = []
    real = checks.os.access
    monkeypatch.setattr(checks.os, "access", lambda path, mode: Path(path) not in refused and real(path, mode))
    return refused.append


def test_var_dir_cannot_be_written(settings: Any, nobody_may: Callable[[Path], None]) -> None:
    nobody_may(settings.VAR_DIR)
    assert "loraportal.E001" in ids()


def test_var_dir_is_a_file(settings: Any, tmp_path: Path) -> None:
    settings.VAR_DIR = tmp_path / "file"
    settings.VAR_DIR.touch()
    assert "loraportal.E001" in ids()


def test_var_dir_is_not_made_yet(settings: Any, tmp_path: Path) -> None:
    settings.VAR_DIR = tmp_path / "new" / "var"
    assert "loraportal.E001" not in ids()


def test_little_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LITTLE_SPACE", 2**70)
    assert ids() == {"loraportal.W002"}


def test_root_cannot_be_read(settings: Any, nobody_may: Callable[[Path], None], tmp_path: Path) -> None:
    nobody_may(settings.LORA_ROOTS[0])
    assert ids() == {"loraportal.E002"}


def test_root_is_a_file(settings: Any, tmp_path: Path) -> None:
    settings.LORA_ROOTS = [tmp_path / "file"]
    settings.LORA_ROOTS[0].touch()
    assert ids() == {"loraportal.E002"}


def test_root_is_not_mounted(settings: Any, tmp_path: Path) -> None:
    settings.LORA_ROOTS = [tmp_path / "nowhere"]
    assert ids() == {"loraportal.W003"}


@pytest.mark.parametrize("below", ["", "store", "store/deeper"])
def test_root_and_store_overlap(settings: Any, below: str) -> None:
    settings.LORA_ROOTS = [settings.VAR_DIR / below]
    settings.LORA_ROOTS[0].mkdir(exist_ok=True)
    assert ids() == {"loraportal.E003"}


def test_traces_without_their_package(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.OTEL_TRACES = True
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    assert ids() == {"loraportal.E012"}
    monkeypatch.setattr(checks, "find_spec", lambda name: object())
    assert ids() == set()


def test_mysql_without_driver(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "DATABASES", {"default": {"ENGINE": "django.db.backends.mysql"}})
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    assert ids() == {"loraportal.E004"}
    monkeypatch.setattr(checks, "find_spec", lambda name: object())
    assert ids() == set()


def test_models_dir(settings: Any, nobody_may: Callable[[Path], None]) -> None:
    nobody_may(settings.BASE_MODELS_DIR)
    assert ids() == {"loraportal.E005"}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("REDIS_URL", "localhost:6379", "loraportal.E006"),
        ("REDIS_URL", "redis://localhost:6379/0", None),
        ("ENGINE_RUNNER", "inference.engine.model.runner", "loraportal.E007"),
        ("ENGINE_RUNNER", "a b:Runner", "loraportal.E007"),
        ("ENGINE_MAX_GPU_MEMORY", "lots", "loraportal.E008"),
        ("ENGINE_MAX_GPU_MEMORY", "5.5", "loraportal.E008"),
        ("ENGINE_MAX_GPU_MEMORY", "5.5GiB", None),
        ("ENGINE_PREFILL_CHUNK", 10_000, "loraportal.W004"),
        ("ENGINE_USER_LIMIT", 1000, "loraportal.W005"),
        ("STORE_CHECK_INTERVAL", 0, "loraportal.W008"),
        ("STORE_HASH_INTERVAL", 30, "loraportal.W009"),
        ("STORE_HASH_INTERVAL", 0, None),
        ("HOST", "192.0.2.1", "loraportal.W006"),
        ("HOST", "::1", None),
        ("CSRF_TRUSTED_ORIGINS", ["portal.example.org"], "loraportal.E011"),
        ("CSRF_TRUSTED_ORIGINS", ["https://portal.example.org/path"], "loraportal.E011"),
        ("CSRF_TRUSTED_ORIGINS", ["https://*.example.org", "http://localhost:8001"], None),
    ],
)
def test_values(settings: Any, name: str, value: object, expected: str | None) -> None:
    settings.ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
    setattr(settings, name, value)
    assert ids() == ({expected} if expected else set())


def test_cuda_without_driver(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.ENGINE_DEVICE = "cuda"
    monkeypatch.setattr(checks, "has_cuda_driver", lambda: False)
    assert ids() == {"loraportal.E009"}
    monkeypatch.setattr(checks, "has_cuda_driver", lambda: True)
    assert ids() == set()


def test_debug_on_the_network(settings: Any) -> None:
    settings.HOST, settings.DEBUG, settings.ALLOWED_HOSTS = "192.0.2.1", True, ["192.0.2.1"]
    assert ids() == {"loraportal.E010"}


def test_static_files_are_missing(settings: Any) -> None:
    manifest = {"staticfiles": {"BACKEND": "servestatic.storage.CompressedManifestStaticFilesStorage"}}
    settings.STORAGES = {**settings.STORAGES, **manifest}
    assert ids() == set()
    (settings.STATIC_ROOT / "staticfiles.json").unlink()
    assert ids() == {"loraportal.W007"}


def test_every_host(settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    assert ids() == set() and ids(deploy=True) == {"loraportal.W001"}


def test_ids_are_used_once() -> None:
    from collections import Counter

    text = Path(checks.__file__).read_text()
    counted = Counter(line.strip() for line in text.splitlines() if line.strip().startswith('id="loraportal.'))
    assert counted and max(counted.values()) == 1
