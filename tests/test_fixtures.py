"""What other tests stand on: transformers and PEFT load the tiny model and it says something; an emptied database is
as Django leaves it, an emptied browser context as it was made."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Permission, User
from django.core.management import call_command

from tests.fixtures.browser import emptied, fresh
from tests.fixtures.clock import Clock

PROGRAM = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, healthy, empty = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(base)
ids = tokenizer.apply_chat_template([{"role": "user", "content": "Grüße 你好 🙂"}], add_generation_prompt=True,
                                    return_tensors="pt", return_dict=True)["input_ids"]
assert "Grüße 你好 🙂" in tokenizer.decode(ids[0]), tokenizer.decode(ids[0])
model, info = AutoModelForCausalLM.from_pretrained(base, output_loading_info=True)
assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
def answer(model):
    with torch.no_grad():
        return model.generate(ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1]:].tolist()
plain = answer(model)
assert len(set(plain)) > 5, plain
assert answer(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), healthy)) != plain
assert answer(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), empty)) == plain
"""


def test_tiny_model_and_adapters(tiny_base_model: Path, tiny_adapter: Callable[..., Path], tmp_path: Path) -> None:
    healthy = tiny_adapter(tmp_path / "healthy", rank=8, targets=("q_proj", "o_proj", "down_proj"))
    empty = tiny_adapter(tmp_path / "empty", zero_b=True)
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:peft", "-c", PROGRAM, tiny_base_model, healthy, empty],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert sum(path.stat().st_size for path in tiny_base_model.iterdir()) < 400_000


@pytest.mark.django_db(transaction=True)
def test_an_emptied_database_has_its_permissions_again() -> None:
    wanted = {
        (model._meta.app_label, model._meta.model_name, f"{action}_{model._meta.model_name}")
        for model in apps.get_models()
        for action in model._meta.default_permissions
    }
    for _time in range(2):
        User.objects.create_user("somebody")
        call_command("flush", verbosity=0, interactive=False)
        names = ("content_type__app_label", "content_type__model", "codename")
        assert set(Permission.objects.values_list(*names)) == wanted
        assert not User.objects.exists()


LEAVE = """async () => {
    document.cookie = "a=b";
    localStorage.setItem("c", "d");
    await new Promise((done) => (indexedDB.open("e").onsuccess = done));
}"""
LEFT = "async () => [document.cookie, localStorage.length, (await indexedDB.databases()).length]"


@pytest.mark.browser
@pytest.mark.xdist_group("portal")  # whose tests have a browser too
def test_a_browser_context_is_emptied(browser: Any) -> None:
    def opened(context: Any) -> Any:
        context.route("http://pages.invalid/", lambda route: route.fulfill(body="<p>", content_type="text/html"))
        page = context.new_page()
        page.goto("http://pages.invalid/")
        return page

    context = fresh(browser)
    page = opened(context)
    page.evaluate(LEAVE)
    assert page.evaluate(LEFT) == ["a=b", 1, 1]
    assert emptied(context) and len(context.pages) == 1 and page.is_closed()
    page = opened(context)
    assert page.evaluate(LEFT) == ["", 0, 0]
    page.clock.install()
    assert not emptied(context)  # every later page would have that clock
    context.close()


WAITING = """
import asyncio, queue, subprocess, sys, threading, time

def kept(call, *words, **named):
    try:
        call(*words, **named)
    except (TimeoutError, queue.Empty, subprocess.TimeoutExpired):
        pass

child = subprocess.Popen([sys.executable, "-c", "import time; began = time.monotonic(); time.sleep(0.01); "
    "print(time.monotonic() > began); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
print(child.stdout.readline().decode(), end="", flush=True)
endless = threading.Thread(target=threading.Event().wait, daemon=True)
endless.start()
for wait in (
    lambda: time.sleep(1), lambda: asyncio.run(asyncio.sleep(1)), lambda: threading.Event().wait(1),
    lambda: queue.Queue().get(timeout=1), lambda: child.wait(1),
    lambda: endless.join(1),
):
    began, day = time.monotonic(), time.time()
    kept(wait)
    print(round(time.monotonic() - began, 3), round(time.time() - day, 3), flush=True)
child.communicate(b"\\n")
"""


def test_a_program_waits_by_the_clock_of_its_test(tmp_path: Path) -> None:
    """Each wait of a second ends when the clock is moved by some, and no other time has passed for it."""
    clock = Clock(tmp_path)
    with clock.standing():
        program = subprocess.Popen(
            [sys.executable, "-c", WAITING], stdout=subprocess.PIPE, env={**os.environ, **clock.environment}
        )
        assert program.stdout is not None
        assert program.stdout.readline() == b"True\n", "what it starts has the machine's clock"
        for _kind in range(6):
            while not select.select([program.stdout], [], [], 0.1)[0]:
                clock.advance(5)
            passed, days = map(float, program.stdout.readline().split())
            assert passed >= 5 and passed % 5 == 0 and days == passed
        assert program.wait(60) == 0
