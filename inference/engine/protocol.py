"""What the web side and the engine's worker process say to each other.

The two ends share a socket pair; each message is one line of JSON with a `type`. The worker never reads the database
and the web side never holds weights, so this file is the whole of what they agree on. Unknown keys are ignored.
Sizes: a line is at most `MAX_LINE` bytes; the web side checks lengths before it sends.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # typing's does for pydantic from Python 3.12 on

MAX_LINE = 16 * 2**20


class BaseSpec(TypedDict):
    """A base model as the registry knows it. `key` identifies its content; `path` is a verified absolute folder."""

    key: str
    path: str
    name: str
    signature: NotRequired[str]  # of the folder when `key` was made (`content.folder_signature`); missing: unchecked
    precision: NotRequired[str]  # auto, fp32, bf16, int8 or nf4; missing: the engine's setting


class Member(TypedDict):
    """An adapter of a blend, as `AdapterSpec` has it, with its weight."""

    digest: str
    path: str
    name: str
    prompting: NotRequired[str]
    weight: float


class AdapterSpec(TypedDict):
    """An adapter's stored copy. `digest` is the content hash and the only identity that the engine knows.

    With `members` it is a blend of these: `digest` is `recipes.recipe_digest` of them, and it has no folder. Prompts
    are written as the first member wants them."""

    digest: str
    path: str  # folder with adapter_config.json, adapter_model.safetensors and perhaps prompting.json
    name: str
    prompting: NotRequired[str]  # sha256 of its prompting.json; missing or "": it has none
    proven: NotRequired[bool]  # its effect was measured before on this base; skips the proof
    members: NotRequired[list[Member]]


# Web side -> worker ---------------------------------------------------------------------------------------------


class Prompt(TypedDict, total=False):
    """Exactly one of the three is given."""

    messages: list[dict[str, str]]  # {role: system|user|assistant, content}; the chat template is applied
    prompt: str  # raw text
    tokens: list[int]  # ids of the base's tokenizer, taken as they are


class Reading(TypedDict):
    """What is wanted of the prompt itself, told by `prompt` events."""

    logprobs: int | None  # probabilities of its tokens, with so many alternatives; None: none
    continuation: str | None  # written on after the prompt; its tokens alone are told of
    echo: bool  # the prompt's text
    answer: bool  # false: the prompt is only read, whatever `max_tokens` says


class GenerateCommand(Prompt):
    """Ask for an answer."""

    type: Literal["generate"]
    id: str  # chosen by the web side, unique while in flight
    user: str  # fairness key
    base: BaseSpec
    adapter: AdapterSpec | None  # None: the base itself
    continue_last: NotRequired[bool]  # the last assistant message is to be continued, not answered
    reading: NotRequired[Reading | None]
    background: NotRequired[bool]  # nobody waits for it: whoever somebody waits for comes first
    params: dict[str, Any]  # what was given of `params.SamplingParams`


class CancelCommand(TypedDict):
    type: Literal["cancel"]
    id: str


class LoadCommand(TypedDict):
    """Make a base (and adapters) resident now. Answered by `loading` events and then `reply` or `error`."""

    type: Literal["load"]
    id: str
    base: BaseSpec
    adapters: NotRequired[list[AdapterSpec]]
    pin: NotRequired[bool | None]  # None: as it is


class UnloadCommand(TypedDict):
    """Free the base after what runs has ended. Answered by `reply {freed_bytes}`."""

    type: Literal["unload"]
    id: str


class EvictCommand(TypedDict):
    """Drop one adapter from the bank once no sequence uses it. Answered by `reply {freed_bytes}`."""

    type: Literal["evict"]
    id: str
    digest: str


class CountCommand(Prompt):
    """How many tokens a prompt has. Answered by `reply {tokens, context_length}`; loads the tokenizer alone."""

    type: Literal["count"]
    id: str
    base: BaseSpec
    adapter: NotRequired[AdapterSpec | None]  # whose chat template counts


class StatusCommand(TypedDict):
    type: Literal["status"]
    id: str


class ShutdownCommand(TypedDict):
    """End in order: requests in flight get `error shutting_down`, then the process exits with 0."""

    type: Literal["shutdown"]


# What is answered, by events of the same id
Asked = GenerateCommand | LoadCommand | UnloadCommand | EvictCommand | CountCommand | StatusCommand
Command = Asked | CancelCommand | ShutdownCommand


# Worker -> web side ---------------------------------------------------------------------------------------------


class Ready(TypedDict):
    """The first line of a worker: imports are done, nothing is loaded."""

    type: Literal["ready"]
    pid: int
    device: str  # "cpu" or "cuda:0"


class Queued(TypedDict):
    """Sent when a request starts to wait and whenever its position or reason changes."""

    type: Literal["queued"]
    id: str
    position: int  # 0: next
    reason: str  # code: "batch_full", "memory", "loading_base", "other_base", "loading_adapter"
    detail: dict[str, Any]  # for the sentence, for example {"base": "Qwen2.5-1.5B"}


Stage = Literal["starting", "weights", "packing", "adapter", "unloading"]


class Loading(TypedDict):
    type: Literal["loading"]
    id: str
    stage: Stage
    progress: float  # 0..1 within the stage, from bytes or shards done
    name: str  # of the base or adapter


class Logprob(TypedDict):
    """`bytes` is None for a token that stands for no text; `token` then is its name."""

    token: str  # with U+FFFD where it is a part of a character
    token_id: int
    logprob: float
    bytes: list[int] | None
    offset: int  # of its first character in the answer
    top: list[tuple[str, int, float, list[int] | None]]  # alternatives (token, id, logprob, bytes), most likely first


class PromptLogprob(TypedDict):
    """As `Logprob`, of a token that was given. `logprob` is None of a prompt's first, which nothing precedes."""

    token: str
    token_id: int
    logprob: float | None
    bytes: list[int] | None
    offset: int  # in the text that is echoed; of a continuation, from its first token on
    top: list[tuple[str, int, float, list[int] | None]]


class PromptPart(TypedDict):
    """What `Reading` asked for, in order and before any of the answer. Those of a request joined are all of it."""

    type: Literal["prompt"]
    id: str
    text: str  # echoed, whole in the first of them
    logprobs: list[PromptLogprob]


class Token(TypedDict):
    """A piece of the answer: whole characters only. The pieces of a request joined are its answer."""

    type: Literal["token"]
    id: str
    index: int  # 0, 1, 2 ... number of this piece
    text: str
    tokens: int  # tokens generated so far
    logprobs: NotRequired[list[Logprob]]  # of the tokens since the last piece


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: Annotated[int, Field(description="Of the prompt, reused from an earlier turn.")]


class Timings(TypedDict):
    """Seconds, from the moment when the worker received the request."""

    queue: float
    load: float  # part of queue that a base or adapter was being loaded for
    ttft: Annotated[float, Field(description="To the first token.")]
    total: float
    tokens_per_second: float  # of decoding


class Done(TypedDict):
    type: Literal["done"]
    id: str
    finish_reason: Literal["stop", "length", "cancelled"]
    stop: NotRequired[str]  # the stop string that ended it
    usage: Usage
    timings: Timings
    digest: str  # content hash of the adapter that answered, or the base's key
    logprobs: NotRequired[list[Logprob]]  # of tokens that no piece carried


class Failed(TypedDict):
    """A request ended without an answer. Codes are listed in `inference/errors.py` with their HTTP status."""

    type: Literal["error"]
    id: str
    code: str
    message: str
    param: str | None
    detail: dict[str, Any]


class Reply(TypedDict):
    type: Literal["reply"]
    id: str
    data: dict[str, Any]


class AdapterProof(TypedDict):
    """Outcome of the first load of an adapter: not tied to a request. An adapter that the engine refuses before any
    measurement has one too."""

    type: Literal["proof"]
    digest: str
    base: NotRequired[str]  # key of the base that it was loaded on
    ok: bool
    code: str  # "" or the registry's failure code (no_effect, weights_nonfinite, adapter_incompatible ...)
    message: str
    kl: float  # mean KL divergence base || adapter over the probe prompts, nats
    changed: float  # share of greedy tokens that differ, 0..1
    seconds: float


class Heartbeat(TypedDict):
    """About once a second, also while a model loads (it comes from its own thread)."""

    type: Literal["heartbeat"]
    status: dict[str, Any]  # what `status` replies


class BaseRefusal(TypedDict):
    """A base that turned out at its load, or when its tokenizer was read, not to be servable exactly."""

    type: Literal["refusal"]
    key: str
    reason: str


class BaseLoad(TypedDict):
    """A base's load begins or ends, so that whoever finds the process gone knows what it was doing."""

    type: Literal["base_load"]
    key: str
    state: Literal["begun", "loaded", "failed"]


class CopyDamage(TypedDict):
    """A stored copy that is not what its digest names. Those who waited for it hear `error store_damaged`."""

    type: Literal["damage"]
    digest: str
    reason: str


class BaseChange(TypedDict):
    """A base whose folder is not as the registry saw it. Those who waited for it hear `error base_changed`."""

    type: Literal["change"]
    key: str
    path: str


class Happened(TypedDict):
    """What changed in the engine's memory, tied to no request: for the time line of an operator.

    `reason` of what leaves: "room" (for another adapter), "asked", "idle", "other_base".
    """

    type: Literal["happened"]
    kind: Literal["base_loaded", "base_unloaded", "adapter_loaded", "adapter_evicted"]
    key: str  # the base's, or the adapter's digest
    name: str
    seconds: float  # that a load took from the first request for it; 0 of what leaves
    reason: str


Event = (
    Ready | Queued | Loading | PromptPart | Token | Done | Failed | Reply | AdapterProof | BaseRefusal | BaseLoad
    | CopyDamage | BaseChange | Heartbeat | Happened
)  # fmt: skip

# `status` data: {"state": "empty|loading|ready", "base": name or None, "base_key", "precision", "device",
#  "pinned", "adapters": [{"digest", "name", "rank", "bytes", "in_use"}], "running": n, "waiting": n,
#  "slots": n, "memory": {"base": bytes, "adapters": bytes, "adapter_budget": bytes, "kv": bytes, "rss": bytes,
#  "rss_peak": bytes, "rss_limit": bytes that the machine or its control group allows, "device_used": bytes,
#  "device_peak": bytes that torch reserved at most, "device_total": bytes}, "steps": n, "tokens": n,
#  "step_seconds": s in all steps, "step_rows": rows in all steps, "kv_used": tokens that running sequences hold,
#  "kv_tokens": tokens that all slots hold, "errors": unforeseen exceptions so far,
#  "loading": null or {stage, progress, name}}
