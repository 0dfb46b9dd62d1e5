"""An installation for a fleet has no library that runs models, and its web process and commands do not miss one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inference.engine.text.plain_tokenizer import PlainTokenizer, special_tokens
from inference.engine.text.prompting import Prompting
from inference.engine.text.vocabulary import Vocabulary

PROJECT = Path(__file__).resolve().parent.parent.parent
ABSENT = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "safetensors", "gguf", "llguidance")
# Finding one of them is an ImportError, as where it is not installed, also in children.
BLOCK = f"""
import importlib.abc, importlib.metadata, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Absent())
found = importlib.metadata.version
def version(name):
    if name in {ABSENT!r}:
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)
importlib.metadata.version = version
"""
EVERYTHING = """
import os, pkgutil, importlib
import django
django.setup()
from django.core.management import get_commands, load_command_class
ours = {app for app in ('loraportal', 'accounts', 'adapters', 'inference', 'chat', 'comparison', 'prompts', 'common')}
commands = [(name, app) for name, app in get_commands().items() if app.partition('.')[0] in ours]
for name, app in commands:
    load_command_class(app, name)
import loraportal.asgi, loraportal.urls
from django.urls import get_resolver
get_resolver().url_patterns
from django.core.management import call_command
call_command('check')
call_command('migrate', verbosity=0)
call_command('scan_adapters')
from inference.manager import get_manager
assert type(get_manager().backend).__name__ == 'FleetBackend'
from inference.engine.text.rendering import Renderer
print(len(commands), [name for name in sys.modules if name.partition('.')[0] in ABSENT])
"""


def test_web_process_and_commands_start(tmp_path: Path) -> None:
    program = f"{BLOCK}\nABSENT = {ABSENT!r}\n{EVERYTHING}"
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "loraportal.settings",
        "VAR_DIR": str(tmp_path / "var"),
        "DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}",
        "INFERENCE_BACKEND": "vllm",
        "VLLM_URL": "http://127.0.0.1:9",
    }
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    count, loaded = done.stdout.strip().splitlines()[-1].split(" ", 1)
    assert int(count) >= 7 and loaded == "[]"


TEMPLATES = [
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "{% for m in messages %}\n  {% if m.role == 'user' %}\nU: {{ m.content | trim }}\n  {% else %}\nA: "
    "{{ m.content }}\n  {% endif %}\n{% endfor %}",
    "{% set ns = namespace(last='') %}{% for m in messages %}{% set ns.last = m.content %}{% if loop.last %}"
    "{% break %}{% endif %}{% endfor %}{{ ns.last }}{{ messages | tojson }}{{ dict(a=1) }}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "{{ raise_exception('never') }}",
    "{{ messages.__class__ }}",
    "{{ ''.__class__.__mro__ }}",
    "{% set ns = namespace(__x=1) %}",
    "{{ tools }}|{{ documents }}|{{ unknown }}",
    "{% if %}",
]
# As models of these families have them, shortened where they speak of tools.
FAMILIES = [
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token }}{% else %}{{ raise_exception('only user and assistant') }}{% endif %}"
    "{% endfor %}",
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}"
    "{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + "
    "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    "{%- if tools %}\n    {{- tools | tojson }}\n{%- endif %}\n{%- set ns = namespace(multi=true, "
    "last=messages|length - 1) %}\n{%- for message in messages[::-1] %}\n    "
    "{%- set index = (messages|length - 1) - loop.index0 %}\n    "
    "{%- if ns.multi and message.role == 'user' and message.content is string and not "
    "message.content.startswith('<tool>') %}\n        {%- set ns.multi = false %}\n        {%- set ns.last = index %}\n"
    "    {%- endif %}\n{%- endfor %}\n{%- for message in messages %}\n    {%- set content = message.content %}\n    "
    "{%- if '</think>' in content %}\n        {%- set content = content.split('</think>')[-1].lstrip('\n') %}\n    "
    "{%- endif %}\n    {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\n' }}\n{%- endif %}",
]
THEIRS = """
from transformers.utils.chat_template_utils import render_jinja_template
def text_of(template, messages, tokens, continued):
    return render_jinja_template(
        conversations=[messages], chat_template=template, continue_final_message=continued,
        add_generation_prompt=not continued, **tokens)[0][0]
"""
OURS = """
from inference.engine.text.jinja_templates import render
def text_of(template, messages, tokens, continued):
    return render(template, messages, tokens, continued, ask=not continued)
"""
TRAINED = PROJECT / "tests" / "data" / "real_tools"
RENDER = """
import json, sys
for line in sys.stdin:
    template, messages, continued = json.loads(line)
    try:
        print(json.dumps(text_of(template, messages, {'bos_token': '<s>', 'eos_token': '</s>'}, continued)))
    except Exception as error:
        print(json.dumps({'error': type(error).__name__}))
"""


def test_templates_are_rendered_as_transformers_does() -> None:
    talk = [{"role": "user", "content": " hello <b> "}, {"role": "assistant", "content": "Well, "}]
    taught = [{"role": "system", "content": 'Be "brief".'}, *talk, {"role": "user", "content": "{{ x }} 海\n"}]
    trained = {file.read_text() for file in TRAINED.rglob("chat_template.jinja")}
    assert trained
    templates = [*TEMPLATES, *FAMILIES, *sorted(trained)]
    asked = [
        [template, messages, continued]
        for template in templates
        for messages, continued in (
            (talk[:1], False), (talk, False), (talk, True), (taught, False), (taught, True), ([], False)
        )
    ]  # fmt: skip
    said = []
    for renderer in (THEIRS, OURS):
        done = subprocess.run(
            [sys.executable, "-c", renderer + RENDER],
            input="\n".join(map(json.dumps, asked)), cwd=PROJECT, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        said.append([json.loads(line) for line in done.stdout.splitlines()])
    assert len(said[0]) == len(asked) and said[0] == said[1]
    assert any(isinstance(one, dict) for one in said[0]) and any(isinstance(one, str) for one in said[0])


def test_the_child_renders_without_transformers(tmp_path: Path) -> None:
    child = PROJECT / "inference" / "engine" / "text" / "template_child.py"
    program = f"{BLOCK}\nimport runpy\nrunpy.run_path({str(child)!r}, run_name='__main__')"
    request = {"template": TEMPLATES[0], "messages": [{"role": "user", "content": "x"}], "tokens": {"eos_token": "E"}}
    done = subprocess.run(
        [sys.executable, "-I", "-c", program],
        input=json.dumps({**request, "continue_last": False}) + "\n", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert json.loads(done.stdout) == {"text": "<|user|>xE<|assistant|>"}, done.stderr


@pytest.mark.demo
def test_a_base_is_read_as_transformers_reads_it(demo_base_model: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(demo_base_model)
    ours = PlainTokenizer(demo_base_model)
    assert ours.chat_template == theirs.chat_template
    assert {name: theirs.special_tokens_map[name] for name in ours.special_tokens_map} == ours.special_tokens_map
    assert {"bos_token", "eos_token"} <= set(ours.special_tokens_map)
    mine, its = Vocabulary(ours), Vocabulary(theirs)
    for token in [*range(0, 49152, 997), 0, 1, 2, 49151, 10**6]:
        assert mine.alone(token) == its.alone(token), token
    assert ours.convert_tokens_to_ids("<|im_end|>") == theirs.convert_tokens_to_ids("<|im_end|>")
    assert ours.convert_tokens_to_ids("no such token") is None
    ends = Prompting(end_tokens=("<|im_end|>", "no such token"), token_ids={"no such token": 7})
    assert ends.ends(ours) == ends.ends(theirs) == {7, theirs.convert_tokens_to_ids("<|im_end|>")}


def test_special_tokens() -> None:
    said = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None, "other": "x"}
    extra = {"image_token": "<image>", "bad": 5}
    assert special_tokens(said | {"extra_special_tokens": extra}) == {
        "bos_token": "<s>", "eos_token": "</s>", "image_token": "<image>"
    }  # fmt: skip


@pytest.mark.parametrize("data", [b"[]", b"{", b"[" * 100_000, b'"x"'])
def test_files_that_cannot_be_read(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "tokenizer_config.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"."):
        PlainTokenizer(tmp_path)
