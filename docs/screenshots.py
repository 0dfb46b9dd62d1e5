"""Pictures of every page: light and dark, both languages, wide and narrow. Run: `python -m docs.screenshots`.

Serves a portal of its own (folder `var/screenshots`, the demo's models and adapters), walks the main job in Chromium
and writes `screenshots/PAGE-LANGUAGE-THEME-WIDTH.png`; `--images` also renews the ones in `docs/images`.
Needs `requirements-dev.txt`, Chromium (or CHROMIUM=/path/to/it) and `make demo`.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
TARGET = PROJECT / "screenshots"
IMAGES = PROJECT / "docs" / "images"
VAR_DIR = PROJECT / "var" / "screenshots"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
]

LANGUAGES = ("en", "zh-hans")
THEMES = ("light", "dark")
WIDTHS = {1280: 860, 390: 844}
ACTIVATE = ("pirate", "haiku", "json-only")
PROMPT = {"en": "What should I pack for a day at the sea?", "zh-hans": "What should I pack for a day at the sea?"}
# name in docs/images: (page, language, theme, width)
CHOSEN = {
    "test-page": ("test-answered", "en", "light", 1280),
    "models": ("models", "en", "light", 1280),
    "model-zh-dark": ("model", "zh-hans", "dark", 1280),
    "compare": ("compare", "en", "light", 1280),
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(port: int) -> dict[str, str]:
    return {
        **os.environ,
        "VAR_DIR": str(VAR_DIR),
        "BASE_MODELS_DIR": os.environ.get("BASE_MODELS_DIR", str(PROJECT / "var" / "models")),
        "LORA_ROOTS": str(VAR_DIR / "adapters"),
        "PORT": str(port),
    }


@contextmanager
def portal() -> Iterator[tuple[str, str]]:
    """A portal on a fresh database: its address and the password of its user `admin`."""
    shutil.rmtree(VAR_DIR, ignore_errors=True)
    port, password = free_port(), secrets.token_urlsafe(12)
    env = {**environment(port), "DJANGO_SUPERUSER_PASSWORD": password}
    manage = [sys.executable, "manage.py"]
    VAR_DIR.mkdir(parents=True)
    adapters = str(VAR_DIR / "adapters")
    run([sys.executable, "-m", "demo.install", "--adapters-dir", adapters], env)
    run([*manage, "migrate", "-v0"], env)
    run([*manage, "createsuperuser", "--noinput", "--username", "admin", "--email", "admin@localhost"], env)
    with (VAR_DIR / "serve.log").open("wb") as log:
        server = subprocess.Popen([*manage, "serve", "--prepare"], cwd=PROJECT, env=env, stdout=log, stderr=log)  # noqa: S603
    try:
        wait(f"http://127.0.0.1:{port}/healthz", server)
        yield f"http://127.0.0.1:{port}", password
    finally:
        server.terminate()
        server.wait(20)


def run(command: list[str], env: dict[str, str]) -> None:
    subprocess.run(command, cwd=PROJECT, env=env, check=True, stdout=subprocess.DEVNULL)  # noqa: S603


def wait(url: str, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SystemExit(f"The portal did not start; see {VAR_DIR / 'serve.log'}.")


class Camera:
    """One browser profile: a language, a theme, a width."""

    def __init__(self, browser: Any, url: str, language: str, theme: str, width: int) -> None:
        self.name = f"{language}-{theme}-{width}"
        self.language = language
        context = browser.new_context(
            base_url=url,
            viewport={"width": width, "height": WIDTHS[width]},
            color_scheme=theme,
            reduced_motion="reduce",
        )
        context.add_cookies([{"name": "django_language", "value": language, "url": url}])
        context.set_default_timeout(120_000)
        self.page = context.new_page()

    def shoot(self, name: str, address: str = "", full: bool = False) -> None:
        if address:
            self.page.goto(address)
            self.page.wait_for_load_state("networkidle")
        self.page.screenshot(path=TARGET / f"{name}-{self.name}.png", full_page=full)

    def sign_in(self, password: str) -> None:
        self.shoot("login", "/login")
        self.page.get_by_test_id("login-username").fill("admin")
        self.page.get_by_test_id("login-password").fill(password)
        self.page.get_by_test_id("login-submit").click()
        self.page.wait_for_url("**/models")

    def set_up(self) -> None:
        """The main job's first half, once: scan, activate."""
        self.shoot("models-empty")
        self.page.get_by_test_id("scan-button").click()
        self.page.get_by_test_id("toast").first.wait_for()
        for slug in ACTIVATE:
            row = self.page.locator(f'[data-testid=model-row][data-slug="{slug}"]')
            row.get_by_test_id("activate-button").click()
            row.get_by_test_id("test-link").wait_for()
        for slug in ACTIVATE:  # load and prove them
            self.ask(slug)

    def ask(self, slug: str) -> None:
        self.page.goto(f"/test?model={slug}")
        self.page.get_by_test_id("prompt-input").fill(PROMPT[self.language])
        self.page.locator("[data-preset=precise]").dispatch_event("click")
        self.page.get_by_test_id("send-button").click()
        self.page.get_by_test_id("stats").wait_for()
        self.page.get_by_test_id("toast").get_by_role("button").click()
        self.shoot("test-answered")

    def compare(self) -> None:
        self.page.goto("/compare?models=smollm2-135m-instruct,pirate,haiku,json-only")
        self.page.get_by_test_id("prompt-input").fill(PROMPT[self.language])
        self.page.locator("[data-preset=precise]").dispatch_event("click")
        self.page.get_by_test_id("max-tokens").evaluate("field => field.value = 72")
        self.page.get_by_test_id("send-button").click()
        for vote in self.page.get_by_test_id("vote").all():
            self.page.locator(f"[data-vote={vote.get_attribute('data-vote')}]:not(:disabled)").wait_for()
        self.page.get_by_test_id("reference").select_option("smollm2-135m-instruct")
        self.page.evaluate("scrollTo(0, 0)")
        self.shoot("compare", full=True)
        self.page.get_by_test_id("vote").nth(1).click()
        self.page.locator("[data-vote-status][data-state=saved]").wait_for()
        self.shoot("votes", "/compare/votes", full=True)

    def chat(self) -> None:
        self.page.goto("/chat?model=pirate")
        self.shoot("chat-empty")
        for slug, text in (("pirate", PROMPT[self.language]), ("json-only", "And what should I eat there?")):
            self.page.get_by_test_id("chat-target").select_option(slug)
            self.page.get_by_test_id("chat-input").fill(text)
            self.page.keyboard.press("Enter")
            self.page.get_by_test_id("message-user").filter(has_text=text).wait_for()
            self.page.locator("[data-testid=chat-log] [data-state=running]").wait_for(state="detached")
        self.shoot("chat")

    def another_person(self) -> str:
        """The address of an account that is not one's own; the first camera makes it."""
        self.page.goto("/people?show=user")
        if not (link := self.page.locator("[data-testid=person-row] a")).count():
            self.page.goto("/people/new")
            self.page.get_by_test_id("person-username").fill("mei.lin")
            self.page.get_by_test_id("person-create").click()
            self.page.get_by_test_id("link").wait_for()
            self.page.goto("/people?show=user")
        return str(link.first.get_attribute("href"))

    def shoot_all(self) -> None:
        self.shoot("models", "/models", full=True)
        self.shoot("test", "/test")
        self.ask("pirate")
        row = self.page.goto("/models") and self.page.locator('[data-testid=model-row][data-slug="pirate"]')
        self.shoot("model", f"/models/{row.get_attribute('data-id')}", full=True)
        self.compare()
        self.chat()
        self.shoot("assistants", "/assistants")
        self.shoot("assistant", "/assistants/new", full=True)
        self.shoot("prompts", "/prompts")
        self.shoot("prompt", "/prompts/new", full=True)
        self.shoot("monitoring", "/monitoring", full=True)
        self.shoot("account", "/account")
        self.shoot("tokens", "/tokens")
        self.shoot("people", "/people", full=True)
        self.shoot("person-new", "/people/new")
        self.shoot("person", self.another_person(), full=True)
        self.shoot("settings", "/settings", full=True)
        self.shoot("administration", "/admin/")
        self.shoot("not-found", "/nothing-here")


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", action="store_true", help="renew docs/images as well")
    images = parser.parse_args().images
    TARGET.mkdir(exist_ok=True)
    with portal() as (url, password), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        first = True
        for language in LANGUAGES:
            for theme in THEMES:
                for width in WIDTHS:
                    camera = Camera(browser, url, language, theme, width)
                    camera.sign_in(password)
                    if first:
                        camera.set_up()
                        first = False
                    camera.shoot_all()
                    sys.stdout.write(f"{camera.name}\n")
        browser.close()
    if images:
        IMAGES.mkdir(exist_ok=True)
        for name, (page, language, theme, width) in CHOSEN.items():
            source = TARGET / f"{page}-{language}-{theme}-{width}.png"
            if source.exists():
                shutil.copyfile(source, IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
