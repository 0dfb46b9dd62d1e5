"""What people read in Chinese is Chinese: every failure and error in whole sentences, with the field's own terms."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from django.utils import translation

from adapters import failures
from common.numbers import grouped
from common.shapes import SENTENCES
from inference import errors
from inference.quota.limits import REFUSALS

from .test_translations import CATALOGUES, PLACEHOLDER, entries

# Names and code words. A word with "_", ".", "/" or "=" names a file, a setting or a field, and needs no entry.
NAMES = set(
    "API ID JSON JSONL Markdown JavaScript English Python Hugging Face Hub PEFT LoRA LORA DoRA PiSSA DeepSpeed ZeRO "
    "MLX LLaMA-Factory UTF-8 GPU KV KL NaN Infinity NF4 F32 F16 BF16 fp32 bf16 p p50 p95 p99 k alpha nat safetensors "
    "CSV RE2 Alpaca token User Assistant Ctrl K Shift Enter Tab Esc OpenAI ShareGPT Open WebUI max-lora-rank "
    "C CPU CUDA HTTP HTTPS NVIDIA MiB GiB TLS Cookie Redis SQLite MySQL MariaDB OpenTelemetry vLLM websocket "
    "FSDP Megatron NeMo torchtune mistral-finetune Q A B max-loras echo scale rank lora dora "
    "Wilson Bradley-Terry SVD bitsandbytes".split()
)
CODE_WORDS = set(
    "true false type messages prompt operate infer confirm generate stop ack logprobs stream schema user me all days "
    "best done cuda vllm svd httpx2 mysqlclient host Class make run redis http https env DEBUG instruction "
    "conversations main".split()
)
WORD = re.compile(r"[A-Za-z][\w.=/'-]*", re.ASCII)
HAN = "[\u3400-\u9fff]"
BADLY_SET = re.compile(
    rf"{HAN}[A-Za-z0-9]|[A-Za-z0-9]{HAN}"  # a space belongs between Chinese and Latin
    rf"|{HAN} ?[,;:?!()]"  # half-width punctuation
    "|[。，；：？！（）] [^A-Za-z0-9]|。 "
    "|您|基础模型|门户"
)


class Details(defaultdict[str, Any]):
    """A value for every placeholder; `given` are those that matter."""

    def __init__(self, **given: Any) -> None:
        super().__init__(str, given)

    def __missing__(self, key: str) -> str:
        return "x_1"


def faults(text: str) -> list[str]:
    text = re.sub("`[^`]+`", "x_1", text)  # code
    words = [word for word in WORD.findall(text) if not re.search(r"[_./=]", word.rstrip("."))]
    return [word for word in words if word not in NAMES | CODE_WORDS] + BADLY_SET.findall(text)


def refusals() -> Iterator[tuple[str, str]]:
    reasons = ["%(tensor)s has an invalid shape", "line %(line)s, column %(column)s", *failures.SYSTEM_REASONS]
    for code in failures.FAILURES:
        for reason in reasons:
            advice = "Train a LORA adapter on the same data; soft prompts cannot be converted to LORA."
            yield code, failures.render(code, dict.fromkeys(_named(code), "x_1") | {"reason": reason, "advice": advice})
    yield "a code of another version", failures.render("code_of_tomorrow", {})
    for code, kind in errors.KINDS.items():
        yield code, errors.sentence(code)
        if kind.detailed is not None:
            yield code, errors.sentence(code, dict.fromkeys(_places(str(kind.detailed)), "x_1"))
    yield "out_of_memory", str(errors.FITS_OTHERWISE) % Details()
    for key, (_code, sentence) in SENTENCES.items():
        yield key, str(sentence) % Details()
    for code, sentence in REFUSALS.items():
        yield code, str(sentence) % Details()


def _places(text: str) -> set[str]:
    return set(re.findall(r"%\((\w+)\)", text))


def _named(code: str) -> set[str]:
    return _places(str(failures.FAILURES[code].sentence)) | {"tensor", "line", "column"}


def test_every_failure_and_error_is_chinese() -> None:
    with translation.override("zh-hans"):
        found = list(refusals())
    assert len(found) > 500
    wrong = {text: faults(text) for _code, text in found if faults(text) or not re.search(HAN, text)}
    assert not wrong


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
def test_every_text_of_a_catalogue_is_chinese(path: Any) -> None:
    texts = [value for entry in entries(path) for key, value in entry.items() if key.startswith("msgstr")]
    plain = [PLACEHOLDER.sub("x_1", text).replace("%%", "%").replace('\\"', '"') for text in texts]
    wrong = {text: faults(text) for text in plain if faults(text)}
    assert not wrong


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
def test_chinese_has_one_plural_form(path: Any) -> None:
    assert not [entry["msgid"] for entry in entries(path) if "msgstr[1]" in entry]


def test_the_checks_see_what_is_wrong() -> None:
    assert faults("适配器 adapter 不可用") == ["adapter"]
    assert faults("已停止。 请重试") and faults("共3个") and faults("共 3 个, 失败")
    assert faults("请使用`auto`") and not faults("使用 `auto`（有 GPU 时）")
    assert not faults("请将 adapter_config.json 复制到目录，然后重试。")


@pytest.mark.parametrize(
    ("language", "told"),
    [
        ("en", "The prompt has 5,031 tokens; the limit is 2,048 including the answer."),
        ("zh-hans", "提示词有 5,031 个 token；上限为 2,048 个（包括回答）。"),
    ],
)
def test_numbers_are_grouped(language: str, told: str) -> None:
    with translation.override(language):
        assert errors.sentence("context_length_exceeded", {"tokens": 5031, "context": 2048}) == told
        assert "3,000" in failures.sentence("header_too_large", {"size": 3000, "limit": 10})
    assert grouped("5031") == "5031" and grouped(True) is True and grouped(0.5) == 0.5


def test_reasons_are_translated_and_filled_in() -> None:
    with translation.override("zh-hans"):
        details = {"file": "a.json", "reason": "line %(line)s, column %(column)s", "line": 3, "column": 7}
        assert "（第 3 行第 7 列）" in failures.render("config_malformed", details)
    with translation.override("en"):
        assert failures.sentence("unreadable", {"file": "a", "reason": "%(other)s"}) == "a cannot be read (?)."
