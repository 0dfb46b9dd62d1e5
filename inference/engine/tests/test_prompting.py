"""Template, end tokens and defaults of generation that an adapter brings are its own, and cost nobody else anything."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from adapters.training.prompting import FILE, digest_of, read_prompting
from inference.engine.config import EngineConfig
from inference.engine.model.base_probe import probe
from inference.engine.model.runner import Runner
from inference.engine.text import rendering
from inference.engine.text.rendering import ENDLESS, Renderer, Renderers, TemplateError, template_fault

from . import tiny
from .conftest import Family
from .driver import Driver, adapter, base

MESSAGES = [{"role": "user", "content": "Tell me of the sea"}]
ENDLESS_TEMPLATE = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
COUNT = 20


def own_adapter(folder: Path, made_on: Path, seed: int, template: str, eos: str, **generation: Any) -> dict[str, Any]:
    """An adapter with the tokenizer files that a trainer leaves beside it, as the registry stores it."""
    tiny.write_adapter(folder, made_on, tiny.AdapterRecipe(seed=seed))
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    tokenizer.eos_token = eos
    tokenizer.save_pretrained(folder)
    if generation:
        (folder / "generation_config.json").write_text("{}")
        tiny.edit_json(folder / "generation_config.json", **generation)
    said = read_prompting((os.path.realpath(folder),), str(folder), os.listdir(folder))
    (folder / FILE).write_bytes(said)
    return adapter(folder.name, folder, prompting=digest_of(said))


def peft_answer(made_on: Path, folder: Path, messages: list[dict[str, str]], ends: list[int]) -> tuple[list[int], str]:
    """Greedy text by PEFT, of the prompt that the tokenizer in the adapter's own folder makes."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    with torch.no_grad():
        out = tiny.peft_model(made_on, folder).generate(
            input_ids=torch.tensor([tokens]), max_new_tokens=COUNT, do_sample=False, eos_token_id=ends
        )
    return tokens, tokenizer.decode(out[0, len(tokens) :], skip_special_tokens=True)


def driver() -> Driver:
    return Driver(Runner(EngineConfig(device="cpu", max_context=128)), EngineConfig(user_limit=99))


@pytest.fixture
def bare(llama: Family, tmp_path: Path) -> Path:
    """A base without a chat template."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for file in llama.base.iterdir():
        if file.name != "chat_template.jinja":
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


TEMPLATES = {
    "plain": "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}>",
    "shouting": "{% for m in messages %}{{ m.content | upper }}!{% endfor %}{% if add_generation_prompt %}?{% endif %}",
}


def test_two_adapters_of_one_base_are_answered_by_their_own_templates(bare: Path, tmp_path: Path) -> None:
    """In one batch, with the same messages, beside the base itself, which has no template."""
    specs = {
        name: own_adapter(tmp_path / name, bare, seed, template, "<|end|>")
        for seed, (name, template) in enumerate(TEMPLATES.items())
    }
    d = driver()
    for turn in range(2):
        for name, spec in [*specs.items(), ("base", None)]:
            d.generate(f"{name}-{turn}", base("t", bare), spec, messages=MESSAGES, prompt=None, max_tokens=COUNT)
    names = [f"{name}-{turn}" for turn in range(2) for name in (*specs, "base")]
    d.finish(*names)
    assert not d.of("error")
    for name in specs:
        tokens, text = peft_answer(bare, tmp_path / name, MESSAGES, [257])
        for turn in range(2):
            assert d.texts()[f"{name}-{turn}"] == text
            ended = d.ended(f"{name}-{turn}")
            assert ended is not None and ended["usage"]["prompt_tokens"] == len(tokens)
        d.send("count", id=f"count {name}", base=base("t", bare), messages=MESSAGES, adapter=specs[name])
        assert d.ended(f"count {name}")["data"]["tokens"] == len(tokens)  # type: ignore[index]
    plain = len(tiny.tokenizer()("User: Tell me of the sea\nAssistant:")["input_ids"])
    assert d.ended("base-0")["usage"]["prompt_tokens"] == plain  # type: ignore[index]


@pytest.mark.parametrize("where", ["tokenizer", "generation"])
def test_an_adapter_ends_at_its_own_end_token(llama: Family, tmp_path: Path, where: str) -> None:
    """The base would go on: the token is none of its own."""
    first = own_adapter(tmp_path / "a", llama.base, 5, tiny.TEMPLATE, "<|end|>")
    d = driver()
    d.generate("free", base("t", llama.base), first, messages=MESSAGES, prompt=None, max_tokens=COUNT, ignore_eos=True)
    taken: list[int] = []
    finish = d.engine.requests.finish
    d.engine.requests.finish = lambda s, reason: (taken.extend(s.tokens[s.prompt_length :]), finish(s, reason))  # type: ignore
    d.finish("free")
    stop = taken[7]
    assert stop not in taken[:7]
    extra: dict[str, Any] = {"eos_token_id": [stop, 99999]} if where == "generation" else {}
    name = str(tiny.tokenizer().convert_ids_to_tokens(stop)) if where == "tokenizer" else "<|end|>"
    ending = own_adapter(tmp_path / "b", llama.base, 5, tiny.TEMPLATE, name, **extra)
    asked: dict[str, dict[str, Any]] = {"ends": {}, "ignores": {"ignore_eos": True}, "later": {"min_tokens": 12}}
    for request, options in asked.items():
        d.generate(request, base("t", llama.base), ending, messages=MESSAGES, prompt=None, max_tokens=COUNT,
                   **options)  # fmt: skip
    d.generate("other", base("t", llama.base), first, messages=MESSAGES, prompt=None, max_tokens=COUNT)
    d.finish("ends", "ignores", "later", "other")
    done = {name: d.ended(name) for name in ("ends", "ignores", "later", "other")}
    assert done["ends"]["finish_reason"] == "stop" and done["ends"]["usage"]["completion_tokens"] == 8  # type: ignore
    assert done["ignores"]["usage"]["completion_tokens"] == COUNT  # type: ignore[index]
    assert done["later"]["usage"]["completion_tokens"] >= 12  # type: ignore[index]
    assert done["other"]["usage"]["completion_tokens"] > 8  # type: ignore[index]


def test_defaults_of_generation_hold_where_a_request_names_none(llama: Family, tmp_path: Path) -> None:
    spec = own_adapter(
        tmp_path / "a", llama.base, 5, tiny.TEMPLATE, "<|end|>", do_sample=True, temperature=0.25, top_k=7, top_p=0.5,
        repetition_penalty=1.5, max_new_tokens=3,
    )  # fmt: skip
    d = driver()
    for name, params in {"silent": {}, "says": {"temperature": 0.0, "top_k": 3}}.items():
        command = {"type": "generate", "id": name, "user": "u", "base": base("t", llama.base), "adapter": spec,
                   "messages": MESSAGES, "params": {"max_tokens": 2, **params}}  # fmt: skip
        d.intake.take(command)
    d.until(lambda: len(d.engine.requests.arrivals) == 2)
    silent, says = (d.engine.requests.arrivals[name].sequence.params for name in ("silent", "says"))
    assert (silent.temperature, silent.top_k, silent.top_p, silent.repetition_penalty) == (0.25, 7, 0.5, 1.5)
    assert (says.temperature, says.top_k, says.top_p) == (0.0, 3, 0.5)
    d.finish("silent", "says")


def test_a_changed_file_in_the_stored_copy_answers_nobody(llama: Family, tmp_path: Path) -> None:
    spec = own_adapter(tmp_path / "a", llama.base, 5, tiny.TEMPLATE, "<|end|>")
    data = (tmp_path / "a" / FILE).read_bytes()
    for request, change in {"changed": data + b" ", "gone": None}.items():
        (tmp_path / "a" / FILE).unlink(missing_ok=True)
        if change is not None:
            (tmp_path / "a" / FILE).write_bytes(change)
        d = driver()
        d.generate(request, base("t", llama.base), spec, messages=MESSAGES, prompt=None)
        d.generate(
            "raw", base("t", llama.base), spec, prompt="raw", user="v"
        )  # says nothing of templates, is bad as well
        d.finish(request, "raw")
        assert {d.ended(name)["code"] for name in (request, "raw")} == {"store_damaged"}  # type: ignore[index]


def test_a_template_without_an_end_costs_its_own_request_alone(
    llama: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an adapter, or of a base that nobody has looked at: its load ends, raw text is answered, chats hear why."""
    spec = own_adapter(tmp_path / "a", llama.base, 5, ENDLESS_TEMPLATE, "<|end|>")
    d = driver()
    d.generate("steady", base("t", llama.base), max_tokens=30, ignore_eos=True)
    d.until(lambda: d.of("token", "steady"))
    d.generate("endless", base("t", llama.base), spec, messages=MESSAGES, prompt=None, user="v")
    d.generate("raw", base("t", llama.base), spec, prompt="raw", max_tokens=3, user="w", ignore_eos=True)
    d.finish("steady", "endless", "raw")
    error = d.ended("endless")
    assert error is not None and (error["code"], error["detail"]["reason"]) == ("template_failed", ENDLESS)
    assert d.ended("steady")["usage"]["completion_tokens"] == 30  # type: ignore[index]
    folder = tmp_path / "base"
    folder.mkdir()
    for file in llama.base.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "chat_template.jinja").write_text(ENDLESS_TEMPLATE)
    assert probe(folder)["supported"] is False and ENDLESS in probe(folder)["reason"]
    d = driver()
    d.generate("chat", base("e", folder), messages=MESSAGES, prompt=None)
    d.generate("text", base("e", folder), prompt="raw", max_tokens=3, ignore_eos=True)
    d.finish("chat", "text")
    assert d.ended("chat")["detail"]["reason"] == ENDLESS  # type: ignore[index]
    assert d.ended("text")["usage"]["completion_tokens"] == 3  # type: ignore[index]


BOUNDED = {
    ENDLESS_TEMPLATE: ENDLESS,
    "{{ 'x' * (10 ** 10) }}": "memory",
    "{{ 'x' * (2 ** 25) }}": "characters",
    "{{ 10 ** (10 ** 9) }}": "",
    "{{ ''.__class__.__mro__ }}": "unsafe",
}


@pytest.mark.parametrize(("template", "reason"), BOUNDED.items(), ids=["time", "memory", "output", "number", "escape"])
def test_a_template_is_bounded(template: str, reason: str) -> None:
    renderer = Renderer()
    with pytest.raises(TemplateError) as caught:
        renderer.render(template, MESSAGES, {})
    assert reason in caught.value.reason
    assert renderer.render("{{ messages[0].content }}", MESSAGES, {}) == "Tell me of the sea"
    renderer.close()


def test_a_template_that_did_not_end_is_not_tried_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = Renderer()
    asked: list[bytes] = []
    monkeypatch.setattr(renderer, "_ask", lambda line: asked.append(line))
    for _ in range(3):
        with pytest.raises(TemplateError, match=ENDLESS):
            renderer.render(ENDLESS_TEMPLATE, MESSAGES, {})
    assert len(asked) == 1
    monkeypatch.setattr(rendering.time, "monotonic", lambda: 1e12)
    with pytest.raises(TemplateError, match=ENDLESS):
        renderer.render(ENDLESS_TEMPLATE, MESSAGES, {})
    assert len(asked) == 2


def test_an_answer_that_was_not_read_is_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = Renderer()
    renderer.start()

    def fail(*_: object) -> bytes:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(rendering.os, "read", fail)
        with pytest.raises(MemoryError):
            renderer.render("of the first", MESSAGES, {})
    assert renderer.render("of the second", MESSAGES, {}) == "of the second"
    renderer.close()


@pytest.mark.parametrize("continue_last", [False, True])
def test_a_rendered_prompt_is_that_of_transformers(continue_last: bool) -> None:
    from inference.engine.text.prompts import encode

    tokenizer = tiny.tokenizer()
    for template in (
        tiny.TEMPLATE,
        *TEMPLATES.values(),
        "{{ messages | tojson }}{% for m in messages %}{{ m.content }}{% endfor %}",
    ):
        tokenizer.chat_template = template
        chat = [*MESSAGES, {"role": "assistant", "content": "Grüße 你好 "}]
        if continue_last and "upper" in template:
            continue  # it deletes what is to be continued
        wanted = tokenizer.apply_chat_template(
            chat, add_generation_prompt=not continue_last, continue_final_message=continue_last, return_dict=False
        )
        assert encode(tokenizer, chat, None, continue_last) == wanted
        whole = tokenizer.apply_chat_template(chat, add_generation_prompt=False, tokenize=False)
        assert rendering.RENDERER.render(template, chat, tokenizer.special_tokens_map, whole=True) == whole


@pytest.mark.parametrize(
    ("template", "unusable"),
    [("{% for %}", True), (ENDLESS_TEMPLATE, True), ("{{ 1 / 0 }}", False), ("{{ x }}", False)],
)
def test_what_is_no_template_at_all(template: str, unusable: bool) -> None:
    assert bool(template_fault(template, {"eos_token": "</s>"})) is unusable


def test_nobody_waits_for_another_ones_template(monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=10)
    monkeypatch.setattr(Renderer, "render", lambda self, template, *rest: f"{template} {both.wait() >= 0}")
    renderers = Renderers(2)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda template: renderers.render(template, [], {}), ["a", "b"]))
    assert found == ["a True", "b True"]


def test_one_child_does_what_nobody_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[Renderer] = []
    monkeypatch.setattr(Renderer, "render", lambda self, *words: used.append(self))
    renderers = Renderers(3)
    for _again in range(3):
        renderers.render("x", [], {})
    assert len(set(map(id, used))) == 1, "a child takes memory"
