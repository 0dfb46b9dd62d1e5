"""What each setting means: the sentences of the README's table, in both languages, and how its value may be shown.

`loraportal/settings.py` reads the settings and notes where each came from; the page *Settings* joins both. A test
compares the three: what is read, what is described here, what the README lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from django.conf import settings
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from loraportal.settings import Reading, readings


class Shown(Enum):
    """How much of a value a page shows."""

    PLAIN = "all of it"
    ADDRESS = "without what may be a password: the part before @, the query"
    SECRET = "only whether it is set"  # noqa: S105


@dataclass(frozen=True)
class Described:
    """`meaning` is one sentence with code in backticks."""

    name: str
    meaning: Promise
    shown: Shown = Shown.PLAIN


GROUPS: list[tuple[Promise, list[Described]]] = [
    (
        _("Folders"),
        [
            Described("VAR_DIR", _("all state: database, store, models, logs")),
            Described("STORE_DIR", _("the copies that are served; portals on one database share it")),
            Described("LORA_ROOTS", _("folders that are searched for adapters, separated by commas; only read")),
            Described(
                "UPLOADS_DIR",
                _("adapters that operators upload, a folder for each of them; searched like `LORA_ROOTS`"),
            ),
            Described("EXPORTS_DIR", _("models that adapters were merged into; portals on one database share it")),
            Described("BASE_MODELS_DIR", _("folder of base model folders")),
        ],
    ),
    (
        _("Address and network"),
        [
            Described("HOST", _("address to listen on; `0.0.0.0` for all (then set `ALLOWED_HOSTS`)")),
            Described("PORT", _("port to listen on")),
            Described(
                "SITE_NAME",
                _(
                    "ends the names of the cookies, so that portals on one host keep theirs; the same for portals "
                    "behind one proxy"
                ),
            ),
            Described("ALLOWED_HOSTS", _("host names that the portal answers for, separated by commas")),
            Described(
                "CSRF_TRUSTED_ORIGINS", _("other origins whose pages may send forms, as `https://portal.example.org`")
            ),
            Described(
                "CORS_ALLOWED_ORIGINS",
                _("origins whose pages may call `/v1` and `/api` with a token, as `http://localhost:3000`; `*`: all"),
            ),
            Described(
                "HTTPS", _("behind a proxy that ends TLS: secure cookies, and its `X-Forwarded-*` headers are believed")
            ),
        ],
    ),
    (
        _("Scans and stored copies"),
        [
            Described(
                "SCAN_INTERVAL", _("seconds between automatic scans, the first one at the start; 0: only on request")
            ),
            Described("SCAN_SETTLE_SECONDS", _("a folder that changed within this time counts as still being written")),
            Described(
                "STORE_CHECK_INTERVAL",
                _(
                    "seconds between looks at the files of the stored copies (sizes and times, nothing is read); 0: "
                    "never"
                ),
            ),
            Described(
                "STORE_HASH_INTERVAL",
                _("seconds after which a stored copy is read and hashed again, one in each look at most; 0: never"),
            ),
            Described("UPLOAD_MAX_BYTES", _("the most that one upload may have, an archive also when it is unpacked")),
            Described(
                "UPLOAD_QUOTA_BYTES",
                _("the most that the uploads of one account may take in all; 0: no uploads"),
            ),
            Described("HUB_IMPORT", _("operators may import adapters by name from the hub that `HF_ENDPOINT` names")),
            Described("HF_ENDPOINT", _("the hub, or a mirror of it; only it is told the token"), Shown.ADDRESS),
            Described(
                "HUB_FILE_HOSTS",
                _(
                    "hosts that the hub may send to for files, separated by commas: `cdn.example.org`, "
                    "`*.example.org`, `http://files:9000` without TLS"
                ),
            ),
            Described("HUB_PRIVATE_HOSTS", _("the hub and these hosts may lead to private addresses")),
            Described("HUB_TOKEN_FILE", _("a file that holds the token for private and gated repositories")),
            Described("EXPORT_QUOTA_BYTES", _("the most that all merged models may take; 0: no merging")),
            Described("EXPORT_KEEP_HOURS", _("hours until a merged model is removed; 0: only when it is deleted")),
            Described(
                "CHECK_BASES", _("after a scan, ask in a child process whether the engine can serve new base models")
            ),
        ],
    ),
    (
        _("Where answers come from"),
        [
            Described(
                "INFERENCE_BACKEND", _("where answers come from: `local`, the engine on this machine; `vllm`, a fleet")
            ),
            Described(
                "VLLM_URL",
                _(
                    "addresses of vLLM replicas or routers, separated by commas, one for each base model: "
                    "`http://router:8080`, or `NAME=http://…` where the base model has another name there"
                ),
            ),
            Described("VLLM_API_KEY", _("the key that the replicas were started with (`--api-key`)"), Shown.SECRET),
            Described("VLLM_API_KEY_FILE", _("a file that holds this key, instead")),
            Described("VLLM_TIMEOUT", _("seconds of silence after which an answer of the fleet is given up")),
            Described(
                "FLEET_DIR", _("where adapters are published for the replicas, which have to see the same folder")
            ),
            Described("FLEET_MAX_RANK", _("the highest rank that the replicas take (`--max-lora-rank`)")),
        ],
    ),
    (
        _("Engine"),
        [
            Described("ENGINE_RUNNER", _("the class that runs the model; for tests")),
            Described("ENGINE_DEVICE", _("where models run: `auto` (on a GPU where there is one), `cpu` or `cuda`")),
            Described(
                "ENGINE_PRECISION",
                _("number format of a base model's weights: `auto` (by device and size), `fp32`, `bf16` or `nf4`"),
            ),
            Described(
                "ENGINE_THREADS",
                _("processor threads of the engine; 0: `OMP_NUM_THREADS` where it is set, else one for each core"),
            ),
            Described("ENGINE_CUDA_GRAPHS", _("on a card, replay decoding steps as CUDA graphs")),
            Described(
                "ENGINE_RAW_CONTROL_TOKENS",
                _(
                    "take control tokens that somebody types into a message (`<|im_end|>`) as control tokens; by "
                    "default they are text"
                ),
            ),
            Described(
                "ENGINE_NATIVE",
                _(
                    "serve on a processor by kernels that are compiled on this machine; needs a C compiler, else "
                    "tensor operations serve, which is slower"
                ),
            ),
            Described("ENGINE_MAX_BATCH", _("answers that are written at the same time")),
            Described("ENGINE_MAX_CONTEXT", _("tokens of one conversation, prompt and answer together")),
            Described("ENGINE_PREFILL_CHUNK", _("prompt tokens that are read in one step")),
            Described("ENGINE_KV_BYTES", _("memory for the attention cache in bytes; 0: sized to what is free")),
            Described("ENGINE_ADAPTER_BYTES", _("memory for resident adapters in bytes")),
            Described("ENGINE_MAX_GPU_MEMORY", _("limit on the card, for example `5.5GiB`; empty: by the card's size")),
            Described("ENGINE_QUEUE_LIMIT", _("requests that may wait")),
            Described("ENGINE_USER_LIMIT", _("requests of one user, running and waiting")),
            Described("ENGINE_IDLE_UNLOAD", _("seconds without a request after which the model is unloaded; 0: never")),
            Described(
                "ENGINE_FORK_SERVER",
                _(
                    "fork the engine and the checks of base models from a process that has imported torch already, "
                    "which is faster; it ends after ten idle minutes"
                ),
            ),
            Described("ENGINE_START_TIMEOUT", _("seconds that the engine's process may take to start")),
            Described(
                "ENGINE_HEARTBEAT_TIMEOUT", _("seconds of silence after which the engine's process is restarted")
            ),
        ],
    ),
    (
        _("Limits"),
        [
            Described("USER_REQUESTS_PER_MINUTE", _("requests of one user; 0: no limit")),
            Described("USER_TOKENS_PER_DAY", _("tokens of one user, prompts and answers; 0: no limit")),
            Described("USER_CONCURRENT", _("answers of one user at once; 0: no limit")),
            Described("TOKEN_REQUESTS_PER_MINUTE", _("requests with one API token; 0: no limit")),
            Described("TOKEN_TOKENS_PER_DAY", _("tokens with one API token; 0: no limit")),
            Described("TOKEN_CONCURRENT", _("answers with one API token at once; 0: no limit")),
            Described("MAX_TOKENS_LIMIT", _("the largest `max_tokens` that may be asked for")),
            Described("MAX_PROMPT_CHARS", _("characters of a prompt, all messages together")),
            Described("MAX_BODY_BYTES", _("bytes of a request's body or a websocket message")),
        ],
    ),
    (
        _("Evaluations"),
        [
            Described("EVALUATION_SETS", _("prompt sets of one account")),
            Described("EVALUATION_ITEMS", _("items of one prompt set")),
            Described("EVALUATION_RUNS", _("evaluations of one account that are kept")),
            Described("EVALUATION_TARGETS", _("models of one evaluation")),
            Described(
                "EVALUATION_ANSWER_CHARS",
                _("characters of an answer of an evaluation; a longer one is stopped there"),
            ),
            Described("EVALUATION_CONCURRENT", _("questions of an evaluation that are asked at once")),
            Described(
                "WEBHOOK_HOSTS",
                _(
                    "hosts that gates may tell of their verdicts, separated by commas; by HTTPS, unless one begins "
                    "with `http://`"
                ),
            ),
            Described("WEBHOOK_SECRET", _("the key that these messages are signed with"), Shown.SECRET),
            Described("WEBHOOK_SECRET_FILE", _("a file that holds this key, instead")),
            Described("WEBHOOK_PRIVATE_HOSTS", _("whether these hosts may have private addresses")),
            Described("EVALUATION_COMPARISONS", _("comparisons of two answers in one head to head")),
            Described(
                "JUDGE_URL",
                _(
                    "address of an OpenAI-compatible server with a judge model for head to head, which is sent "
                    "questions and answers; empty: none"
                ),
                Shown.ADDRESS,
            ),
            Described("JUDGE_MODEL", _("name of the judge model there")),
            Described("JUDGE_API_KEY_FILE", _("a file that holds the API key for it")),
            Described("JUDGE_TIMEOUT", _("seconds after which a verdict of the judge model is given up")),
            Described("JUDGE_MAX_TOKENS", _("tokens of one verdict, whichever model judges")),
        ],
    ),
    (
        _("Monitoring and logs"),
        [
            Described("MONITORING_DAYS", _("how many days what was measured is kept; 0: nothing is measured")),
            Described(
                "MONITORING_TEXTS",
                _("keep parts of what slow and failed requests asked and were answered, for operators to read"),
            ),
            Described("OTEL_TRACES", _("traces of requests by OpenTelemetry; needs `requirements-otel.txt`")),
            Described("METRICS_MODELS", _("models with series of their own in `/metrics`: the first that were asked")),
            Described("LOG_LEVEL", _("how much is logged: `DEBUG`, `INFO`, `WARNING` or `ERROR`")),
            Described("LOG_FORMAT", _("how it is logged: `line`, or `json`: one object a line, with the request's id")),
        ],
    ),
    (
        _("Database and Redis"),
        [
            Described(
                "DATABASE_URL",
                _("the database: SQLite, or `mysql://user:password@host:3306/name` for MySQL and MariaDB"),
                Shown.ADDRESS,
            ),
            Described(
                "REDIS_URL",
                _("a Redis for the channel layer, for example `redis://127.0.0.1:6379/0`; empty: in memory"),
                Shown.ADDRESS,
            ),
        ],
    ),
    (
        _("Site"),
        [
            Described("SECRET_KEY", _("signs sessions"), Shown.SECRET),
            Described("DEBUG", _("error pages with details; never on a network")),
            Described("LANGUAGE_CODE", _("language where the browser asks for none of ours: `en` or `zh-hans`")),
            Described("TIME_ZONE", _("time zone of the times on pages, for example `Europe/Berlin`")),
        ],
    ),
]


@dataclass(frozen=True)
class Row:
    """A setting as the page shows it. `value` and `default` are None where they are secret."""

    name: str
    meaning: str
    source: str
    value: str | None
    default: str | None
    is_set: bool


def row_of(described: Described) -> Row:
    reading: Reading = readings[described.name]
    meaning = str(described.meaning)
    if described.shown is Shown.SECRET:
        # Where nothing is given there may be a value nevertheless: from a file.
        return Row(described.name, meaning, reading.source, None, None, bool(getattr(settings, described.name)))
    clean = without_password if described.shown is Shown.ADDRESS else str
    value, default = clean(written(reading.value)), clean(written(reading.default))
    return Row(described.name, meaning, reading.source, value, default, bool(value))


def written(value: Any) -> str:
    """As one would set it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join("=".join(filter(None, item)) if isinstance(item, tuple) else str(item) for item in value)
    return str(value)


def without_password(address: str) -> str:
    """What cannot be read is not shown at all."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "…"
    place = parts.netloc
    if "@" in place:
        place = f"…@{place.rpartition('@')[2]}"
    return urlunsplit((parts.scheme, place, parts.path, "…" if parts.query else "", ""))


def found(search: str, only_changed: bool) -> list[tuple[str, list[Row]]]:
    """The groups with those settings whose name or meaning has every word of `search`; empty groups are left out."""
    words = search.casefold().split()
    groups = []
    for title, described in GROUPS:
        rows = [row_of(one) for one in described]
        fitting = [
            row
            for row in rows
            if not (only_changed and row.source == "default")
            and all(word in f"{row.name} {row.meaning} {title}".casefold() for word in words)
        ]
        if fitting:
            groups.append((str(title), fitting))
    return groups
