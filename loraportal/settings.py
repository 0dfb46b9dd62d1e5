"""Settings of LoRA Portal: one file, every value from the environment or `.env`, each listed in the README's table.

A bad value raises `ImproperlyConfigured` here, in one sentence; a value that is well-formed but cannot work on this
machine (a folder that cannot be written, a missing driver) is a system check in `loraportal/checks.py`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import environ
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _

BASE_DIR = Path(__file__).resolve().parent.parent
LONGEST_SECRET = 4096  # characters
ENV_FILE = BASE_DIR / ".env"
Value = TypeVar("Value")


class FileEnv(environ.Env):
    """What `.env` says, apart from the environment."""

    ENVIRON: dict[str, str] = {}


FileEnv.read_env(ENV_FILE)
before_file = {name: os.environ.get(name) for name in FileEnv.ENVIRON}
for _name, _value in FileEnv.ENVIRON.items():
    os.environ.setdefault(_name, _value)
env = environ.Env()


@dataclass(frozen=True)
class Reading:
    """A setting as it was read: `source` is `environment`, `file` (`.env`) or `default`."""

    value: Any
    default: Any
    source: str


readings: dict[str, Reading] = {}  # each setting by its name, for the page that shows them


def source_of(name: str) -> str:
    """A value that stands in both comes from the environment only where `.env` says something else."""
    if name not in os.environ:
        return "default"
    return "file" if before_file.get(name, "") in (None, FileEnv.ENVIRON.get(name)) else "environment"


def kept(read: Callable[..., Value]) -> Callable[..., Value]:
    """Of a function that reads a setting: what it returns is noted in `readings`."""

    @wraps(read)
    def reading(name: str, default: Any, *bounds: Any) -> Value:
        value = read(name, default, *bounds)
        readings[name] = Reading(value, default, source_of(name))
        return value

    return reading


@kept
def env_str(name: str, default: str) -> str:
    return str(env.str(name, default=default)).strip()


@kept
def env_bool(name: str, default: bool) -> bool:
    value = env_str(name, "true" if default else "false").lower()
    if value not in {"1", "0", "true", "false", "yes", "no", "on", "off"}:
        raise ImproperlyConfigured(f"{name} must be true or false, not {value!r}.")
    return value in {"1", "true", "yes", "on"}


@kept
def env_int(name: str, default: int, low: int, high: int) -> int:
    value = env_str(name, str(default))
    try:
        number = int(value)
    except ValueError:
        raise ImproperlyConfigured(f"{name} must be a whole number, not {value!r}.") from None
    if not low <= number <= high:
        raise ImproperlyConfigured(f"{name} must be between {low} and {high}, not {number}.")
    return number


@kept
def env_float(name: str, default: float, low: float, high: float) -> float:
    value = env_str(name, str(default))
    try:
        number = float(value)
    except ValueError:
        raise ImproperlyConfigured(f"{name} must be a number, not {value!r}.") from None
    if not low <= number <= high:
        raise ImproperlyConfigured(f"{name} must be between {low} and {high}, not {number}.")
    return number


@kept
def env_path(name: str, default: Path) -> Path:
    """A path; relative ones count from the project folder, whatever the current folder is."""
    return (BASE_DIR / Path(env_str(name, str(default))).expanduser()).resolve()


@kept
def env_list(name: str, default: list[str]) -> list[str]:
    """Comma-separated words; empty ones are dropped."""
    raw = env_str(name, ",".join(default))
    return [item.strip() for item in raw.split(",") if item.strip()]


@kept
def env_choice(name: str, default: str, choices: tuple[str, ...]) -> str:
    value = env_str(name, default)
    if value not in choices:
        raise ImproperlyConfigured(f"{name} must be one of {', '.join(choices)}, not {value!r}.")
    return value


@kept
def env_addresses(name: str, default: list[str]) -> list[tuple[str, str]]:
    """Comma-separated http addresses, each perhaps after a name and `=`. A `/v1` at the end is left away."""
    found = []
    for item in env_list(name, default):
        label, separator, address = item.partition("=")
        if not separator or "://" in label:
            label, address = "", item
        parts = urlsplit(address.strip())
        try:
            sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            sound = False
        if not sound or "@" in parts.netloc or parts.query or parts.fragment:
            shown = address.rpartition("@")[2]  # what stands before it may be a password
            raise ImproperlyConfigured(f"{name} must hold addresses such as http://router:8080, not {shown!r}.")
        found.append((label.strip(), address.strip().rstrip("/").removesuffix("/v1")))
    if len({address for _label, address in found}) < len(found):
        raise ImproperlyConfigured(f"{name} names one address twice.")
    return found


@kept
def env_address(name: str, default: str) -> str:
    """One http address or nothing. A `/v1` at the end is left away."""
    found = env_addresses(name, [default] if default else [])
    if len(found) > 1 or any(label for label, _address in found):
        raise ImproperlyConfigured(f"{name} must be one address such as https://judge.example.org.")
    return found[0][1] if found else ""


def env_secret(given: str, name: str, file: str) -> str:
    """A secret as it was given, or from a file of one line."""
    if given and file:
        raise ImproperlyConfigured(f"Set either {name} or {name}_FILE, not both.")
    if file:
        try:
            with (BASE_DIR / Path(file).expanduser()).open(encoding="utf-8") as opened:
                given = opened.read(LONGEST_SECRET + 1).strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", "") or "no text"
            raise ImproperlyConfigured(f"{name}_FILE {file} cannot be read ({reason}).") from None
        if not given:
            raise ImproperlyConfigured(f"{name}_FILE {file} is empty.")
    if len(given) > LONGEST_SECRET or not given.isascii() or not given.isprintable() or " " in given:
        raise ImproperlyConfigured(f"{name} must be one word of at most {LONGEST_SECRET} ASCII characters.")
    return given


@kept
def env_label(name: str, default: str) -> str:
    """A word that may stand in a cookie's name."""
    value = env_str(name, default)
    if not value.isascii() or not value.replace("-", "").replace("_", "").isalnum() or len(value) > 40:
        raise ImproperlyConfigured(f"{name} must be at most 40 letters, digits, - and _, not {value!r}.")
    return value


@kept
def env_zone(name: str, default: str) -> str:
    value = env_str(name, default)
    try:
        ZoneInfo(value)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        raise ImproperlyConfigured(f"{name} must be a time zone such as Europe/Berlin, not {value!r}.") from None
    return value


# Where things are -----------------------------------------------------------------------------------------------

VAR_DIR = env_path("VAR_DIR", BASE_DIR / "var")
STORE_DIR = env_path("STORE_DIR", VAR_DIR / "store")  # portals on one database share it
LOG_DIR = VAR_DIR / "logs"
RUN_DIR = VAR_DIR / "run"
LORA_ROOTS = [
    (BASE_DIR / Path(item).expanduser()).resolve() for item in env_list("LORA_ROOTS", [str(VAR_DIR / "adapters")])
]
UPLOADS_DIR = env_path("UPLOADS_DIR", VAR_DIR / "uploads")  # searched as one more of LORA_ROOTS
LORA_ROOTS.append(UPLOADS_DIR)
EXPORTS_DIR = env_path("EXPORTS_DIR", VAR_DIR / "exports")  # merged models; portals on one database share it
BASE_MODELS_DIR = env_path("BASE_MODELS_DIR", VAR_DIR / "models")

HOST = env_str("HOST", "127.0.0.1")
PORT = env_int("PORT", 8000, 1, 65535)
SITE_NAME = env_label("SITE_NAME", str(PORT))  # ends the names of cookies; portals behind one proxy share it

# Registry -------------------------------------------------------------------------------------------------------

SCAN_INTERVAL = env_int("SCAN_INTERVAL", 60, 0, 86_400)  # seconds between automatic scans; 0: only on request
SCAN_SETTLE_SECONDS = env_float("SCAN_SETTLE_SECONDS", 3.0, 0.0, 3600.0)
STORE_CHECK_INTERVAL = env_int("STORE_CHECK_INTERVAL", 60, 0, 86_400)  # seconds between looks at the stored copies
STORE_HASH_INTERVAL = env_int("STORE_HASH_INTERVAL", 604_800, 0, 315_360_000)  # seconds until a copy is read again

UPLOAD_MAX_BYTES = env_int("UPLOAD_MAX_BYTES", 4 * 2**30, 2**20, 2**50)  # of one upload
UPLOAD_QUOTA_BYTES = env_int("UPLOAD_QUOTA_BYTES", 20 * 2**30, 0, 2**50)  # of one user's uploads in all; 0: no uploads
# Import by name from a hub that speaks Hugging Face's calls: where it is, and what else its files come from.
HUB_IMPORT = env_bool("HUB_IMPORT", False)
HF_ENDPOINT = env_address("HF_ENDPOINT", "https://huggingface.co")  # or a mirror
HUB_FILE_HOSTS = env_list("HUB_FILE_HOSTS", ["*.hf.co", "*.huggingface.co"])  # where HF_ENDPOINT may send for files
HUB_PRIVATE_HOSTS = env_bool("HUB_PRIVATE_HOSTS", False)  # these hosts may lead to private addresses
HUB_TOKEN = env_secret("", "HUB_TOKEN", env_str("HUB_TOKEN_FILE", ""))  # told to HF_ENDPOINT alone
EXPORT_QUOTA_BYTES = env_int("EXPORT_QUOTA_BYTES", 100 * 2**30, 0, 2**50)  # of all merged models; 0: no merging
EXPORT_KEEP_HOURS = env_int("EXPORT_KEEP_HOURS", 72, 0, 87_600)  # until a merged model goes; 0: when it is deleted

CHECK_BASES = env_bool("CHECK_BASES", True)  # whether the engine can serve a new base, asked in a child process

# Inference ------------------------------------------------------------------------------------------------------

INFERENCE_BACKEND = env_choice("INFERENCE_BACKEND", "local", ("local", "vllm"))
VLLM_URL = env_addresses("VLLM_URL", [])  # (name of the base or "", address) of each; a replica or a router
VLLM_API_KEY = env_secret(env_str("VLLM_API_KEY", ""), "VLLM_API_KEY", env_str("VLLM_API_KEY_FILE", ""))
VLLM_TIMEOUT = env_int("VLLM_TIMEOUT", 120, 1, 3600)  # seconds of silence after which an answer is given up
FLEET_DIR = env_path("FLEET_DIR", VAR_DIR / "fleet")  # where replicas find adapters by their digests
FLEET_MAX_RANK = env_int("FLEET_MAX_RANK", 16, 1, 512)  # --max-lora-rank of the replicas
if INFERENCE_BACKEND == "vllm" and not VLLM_URL:
    raise ImproperlyConfigured("INFERENCE_BACKEND=vllm needs VLLM_URL, the address of a vLLM replica or router.")
# Dotted path of the engine's model runner. The tests and the load harness point it at a fake that needs no torch.
ENGINE_RUNNER = env_str("ENGINE_RUNNER", "inference.engine.model.runner:Runner")
ENGINE_DEVICE = env_choice("ENGINE_DEVICE", "auto", ("auto", "cpu", "cuda"))
ENGINE_PRECISION = env_choice("ENGINE_PRECISION", "auto", ("auto", "fp32", "bf16", "nf4"))
ENGINE_THREADS = env_int("ENGINE_THREADS", 0, 0, 1024)  # 0: OMP_NUM_THREADS, or one per core
ENGINE_MAX_BATCH = env_int("ENGINE_MAX_BATCH", 32, 1, 1024)  # sequences in one step
ENGINE_MAX_CONTEXT = env_int("ENGINE_MAX_CONTEXT", 2048, 16, 1_048_576)  # tokens of one sequence
ENGINE_PREFILL_CHUNK = env_int("ENGINE_PREFILL_CHUNK", 256, 1, 65_536)  # prompt tokens in one step
ENGINE_KV_BYTES = env_int("ENGINE_KV_BYTES", 0, 0, 2**50)  # 0: sized to what is free
ENGINE_ADAPTER_BYTES = env_int("ENGINE_ADAPTER_BYTES", 512 * 2**20, 2**20, 2**50)  # LoRA bank
ENGINE_MAX_GPU_MEMORY = env_str("ENGINE_MAX_GPU_MEMORY", "")  # for example 5.5GiB; empty: by the card's size
ENGINE_QUEUE_LIMIT = env_int("ENGINE_QUEUE_LIMIT", 256, 1, 100_000)
ENGINE_USER_LIMIT = env_int("ENGINE_USER_LIMIT", 16, 1, 100_000)  # running and waiting requests of one user
ENGINE_CUDA_GRAPHS = env_bool("ENGINE_CUDA_GRAPHS", True)  # replay decoding steps on a card
ENGINE_RAW_CONTROL_TOKENS = env_bool("ENGINE_RAW_CONTROL_TOKENS", False)  # of people's messages, not as text
ENGINE_NATIVE = env_bool("ENGINE_NATIVE", True)  # by the kernels that are compiled on this machine
ENGINE_IDLE_UNLOAD = env_int("ENGINE_IDLE_UNLOAD", 0, 0, 604_800)  # seconds; 0: never
ENGINE_FORK_SERVER = env_bool("ENGINE_FORK_SERVER", True)  # engines are forked from a process that has imported torch
ENGINE_START_TIMEOUT = env_int("ENGINE_START_TIMEOUT", 120, 1, 3600)
ENGINE_HEARTBEAT_TIMEOUT = env_int("ENGINE_HEARTBEAT_TIMEOUT", 20, 2, 3600)  # silence after which it is killed
# Of one account and of one API token; 0: no limit.
USER_REQUESTS_PER_MINUTE = env_int("USER_REQUESTS_PER_MINUTE", 1200, 0, 10**9)
USER_TOKENS_PER_DAY = env_int("USER_TOKENS_PER_DAY", 0, 0, 10**15)
USER_CONCURRENT = env_int("USER_CONCURRENT", 16, 0, 1000)  # answers at once
TOKEN_REQUESTS_PER_MINUTE = env_int("TOKEN_REQUESTS_PER_MINUTE", 1200, 0, 10**9)
TOKEN_TOKENS_PER_DAY = env_int("TOKEN_TOKENS_PER_DAY", 0, 0, 10**15)
TOKEN_CONCURRENT = env_int("TOKEN_CONCURRENT", 16, 0, 1000)
MAX_TOKENS_LIMIT = env_int("MAX_TOKENS_LIMIT", 4096, 1, 1_000_000)
MAX_PROMPT_CHARS = env_int("MAX_PROMPT_CHARS", 200_000, 1, 10_000_000)

# Evaluations ----------------------------------------------------------------------------------------------------

EVALUATION_SETS = env_int("EVALUATION_SETS", 100, 1, 100_000)  # prompt sets of one account
EVALUATION_ITEMS = env_int("EVALUATION_ITEMS", 2000, 1, 100_000)  # of one set
EVALUATION_RUNS = env_int("EVALUATION_RUNS", 100, 1, 100_000)  # of one account that are kept
EVALUATION_TARGETS = env_int("EVALUATION_TARGETS", 20, 1, 1000)  # models of one run
EVALUATION_ANSWER_CHARS = env_int("EVALUATION_ANSWER_CHARS", 20_000, 1, 100_000)  # of one answer; then it is stopped
EVALUATION_CONCURRENT = env_int("EVALUATION_CONCURRENT", 4, 1, 64)  # questions at once
EVALUATION_COMPARISONS = env_int("EVALUATION_COMPARISONS", 5000, 1, 1_000_000)  # of answers, of one head to head
JUDGE_URL = env_address("JUDGE_URL", "")  # of an OpenAI-compatible server, the only one that is asked; empty: none
JUDGE_MODEL = env_str("JUDGE_MODEL", "")
JUDGE_API_KEY = env_secret("", "JUDGE_API_KEY", env_str("JUDGE_API_KEY_FILE", ""))
JUDGE_TIMEOUT = env_int("JUDGE_TIMEOUT", 60, 1, 3600)  # seconds for one verdict
JUDGE_MAX_TOKENS = env_int("JUDGE_MAX_TOKENS", 128, 1, 100_000)  # of one verdict, of whatever judge
if JUDGE_URL and not JUDGE_MODEL:
    raise ImproperlyConfigured("JUDGE_URL needs JUDGE_MODEL, the name by which the server knows the judge model.")

# Who may be told what a gate has found, and what it is signed with.
WEBHOOK_HOSTS = env_list("WEBHOOK_HOSTS", [])  # ci.example.org, ci.example.org:8443; http://ci:8080 without TLS
WEBHOOK_SECRET = env_secret(env_str("WEBHOOK_SECRET", ""), "WEBHOOK_SECRET", env_str("WEBHOOK_SECRET_FILE", ""))
WEBHOOK_PRIVATE_HOSTS = env_bool("WEBHOOK_PRIVATE_HOSTS", False)  # these hosts may lead to private addresses

# Monitoring -----------------------------------------------------------------------------------------------------

MONITORING_DAYS = env_int("MONITORING_DAYS", 30, 0, 3660)  # how long what was measured is kept; 0: nothing is
MONITORING_TEXTS = env_bool("MONITORING_TEXTS", False)  # keep what slow and failed requests asked and were answered
OTEL_TRACES = env_bool("OTEL_TRACES", False)  # of requests, by OpenTelemetry; needs requirements-otel.txt
METRICS_MODELS = env_int("METRICS_MODELS", 100, 0, 10_000)  # models with series of their own in /metrics

# Django ---------------------------------------------------------------------------------------------------------

DEBUG = env_bool("DEBUG", False)


def secret_key() -> str:
    """SECRET_KEY from the environment, else a random one that is kept in VAR_DIR (mode 600)."""
    given = env_str("SECRET_KEY", "")
    if given:
        return given
    path = VAR_DIR / "secret_key"
    try:
        if not path.exists():
            write_once(path, secrets.token_urlsafe(50))
        return path.read_text(encoding="ascii")
    except OSError as error:
        raise ImproperlyConfigured(
            f"VAR_DIR {VAR_DIR} cannot be used ({error.strerror}): set VAR_DIR to a folder that you may write."
        ) from None


def write_once(path: Path, text: str) -> None:
    """Make a private file that appears whole; where another process was first, its file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}-", encoding="ascii") as file:
        file.write(text)
        file.flush()
        try:
            path.hardlink_to(file.name)
        except FileExistsError:
            pass


SECRET_KEY = secret_key()
# What OpenAI's client for browsers sends besides, and what it reads.
OPENAI_HEADERS = ["openai-organization", "openai-project", "idempotency-key"] + [
    f"x-stainless-{name}"
    for name in (
        "arch async custom-poll-interval helper-method lang os package-version poll-helper retry-count runtime "
        "runtime-version timeout"
    ).split()
]
RATE_LIMIT_HEADERS = [
    f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset") for kind in ("requests", "tokens")
]
EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104  (addresses to listen on, not names of this portal)
ALLOWED_HOSTS = env_list("ALLOWED_HOSTS", sorted({"localhost", "127.0.0.1", "[::1]", HOST} - EVERYWHERE))
CSRF_TRUSTED_ORIGINS = env_list("CSRF_TRUSTED_ORIGINS", [])
# Programs in a browser, on pages of other origins: with a token, never with this site's cookies.
CORS_ALLOWED_ORIGINS = env_list("CORS_ALLOWED_ORIGINS", [])
CORS_ALLOW_ALL_ORIGINS = "*" in CORS_ALLOWED_ORIGINS
CORS_ALLOWED_ORIGINS = [origin for origin in CORS_ALLOWED_ORIGINS if origin != "*"]
CORS_URLS_REGEX = r"^/(v1|api)/"
CORS_ALLOW_CREDENTIALS = False
CORS_ALLOW_HEADERS = ["accept", "authorization", "content-type", "user-agent", *OPENAI_HEADERS]
CORS_EXPOSE_HEADERS = ["retry-after", "x-request-id", *RATE_LIMIT_HEADERS]
HTTPS = env_bool("HTTPS", False)  # behind a proxy that ends TLS
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = LANGUAGE_COOKIE_SECURE = HTTPS
SESSION_COOKIE_SAMESITE = "Lax"
# Two portals on one host differ only by port, which cookies ignore: their names must differ.
SESSION_COOKIE_NAME = f"loraportal_session_{SITE_NAME}"
CSRF_COOKIE_NAME = f"loraportal_csrf_{SITE_NAME}"
if HTTPS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

INSTALLED_APPS = [
    "daphne",
    "loraportal.apps.LoraPortalConfig",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "servestatic",
    "django.contrib.staticfiles",
    "channels",
    "corsheaders",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "common",
    "accounts",
    "adapters",
    "inference",
    "chat",
    "comparison",
    "prompts",
    "evaluations",
]

# Every middleware here is async-capable, so that a client that leaves cancels its async view. Those of `common.inline`
# are Django's own, without a thread for each step.
MIDDLEWARE = [
    "common.request_ids.RequestIdMiddleware",
    "corsheaders.middleware.CorsMiddleware",
    "common.inline.SecurityMiddleware",
    "common.middleware.ContentSecurityPolicyMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
    "common.middleware.CompressionMiddleware",  # below the static files, which have compressed copies
    "common.inline.SessionMiddleware",
    "common.inline.LocaleMiddleware",
    "common.inline.CommonMiddleware",
    "common.inline.CsrfViewMiddleware",
    "common.inline.AuthenticationMiddleware",
    "common.inline.MessageMiddleware",
    "common.inline.XFrameOptionsMiddleware",
]
# `check --deploy` looks for three of them by Django's names alone.
SILENCED_SYSTEM_CHECKS = ["security.W001", "security.W002", "security.W003"]

ROOT_URLCONF = "loraportal.urls"
ASGI_APPLICATION = "loraportal.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.i18n",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "common.context.site",
            ],
        },
    },
]

# Database: SQLite in WAL with immediate transactions by default (readers never block, writers wait in line).
DATABASE_URL = env_str("DATABASE_URL", f"sqlite:///{VAR_DIR / 'db.sqlite3'}")
if DATABASE_URL.partition(":")[0] not in {"sqlite", "mysql"}:
    raise ImproperlyConfigured("DATABASE_URL must begin with sqlite:/// or mysql://.")
# Threads that wait for the next call keep their connection (common/lent_threads.py); one that has died is replaced.
DATABASES = {"default": {"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True, **env.db_url_config(DATABASE_URL)}}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;",
    }
elif DATABASES["default"]["ENGINE"].endswith("mysql"):
    DATABASES["default"].setdefault("OPTIONS", {}).update(charset="utf8mb4", isolation_level="read committed")
    DATABASES["default"]["TEST"] = {"CHARSET": "utf8mb4", "COLLATION": "utf8mb4_bin"}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = env_str("REDIS_URL", "")
CHANNEL_LAYERS: dict[str, dict[str, object]] = {
    "default": (
        {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": [REDIS_URL], "prefix": f"loraportal:{SITE_NAME}"},
        }
        if REDIS_URL
        else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    )
}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
CSRF_FAILURE_VIEW = "loraportal.errors.csrf_failure"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "models"
LOGOUT_REDIRECT_URL = "login"

LANGUAGE_CODE = env_choice("LANGUAGE_CODE", "en", ("en", "zh-hans"))
LANGUAGES = [("en", _("English")), ("zh-hans", _("Simplified Chinese"))]
LOCALE_PATHS = [BASE_DIR / "locale"]
TIME_ZONE = env_zone("TIME_ZONE", "UTC")
USE_I18N = USE_TZ = True

STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = VAR_DIR / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": (
            "django.contrib.staticfiles.storage.StaticFilesStorage"
            if DEBUG
            else "common.storage.HashedStaticFilesStorage"
        )
    },
}

DATA_UPLOAD_MAX_MEMORY_SIZE = env_int("MAX_BODY_BYTES", 2 * 2**20, 1024, 2**30)

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "accounts.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["common.parsers.BoundedJSONParser"],
    "EXCEPTION_HANDLER": "common.api.exception_handler",
    "DEFAULT_PAGINATION_CLASS": "common.api.Pagination",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "UNICODE_JSON": True,
}

SPECTACULAR_SETTINGS = {
    "TITLE": "LoRA Portal",
    "DESCRIPTION": "Find, prove and serve LoRA adapters. Sign in, or send a token as `Authorization: Bearer …`.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_AUTHENTICATION": [],
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "OAS_VERSION": "3.1.1",
    "PREPROCESSING_HOOKS": ["loraportal.schema.hooks.bare_paths"],
    "POSTPROCESSING_HOOKS": ["loraportal.schema.hooks.headings"],
    "COMPONENT_SPLIT_REQUEST": True,
}

LOG_FORMAT = env_choice("LOG_FORMAT", "line", ("line", "json"))
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"()": "common.logs.LineFormatter", "format": "%(asctime)s %(levelname)s %(name)s %(message)s"},
        "json": {"()": "inference.engine.logs.JsonFormatter"},
    },
    "filters": {"request": {"()": "common.logs.RequestIdFilter"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT, "filters": ["request"]}},
    "loggers": {"httpx2": {"level": "WARNING"}},  # a line for each request to the fleet says nothing new
    "root": {"handlers": ["console"], "level": env_choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR"))},
}
