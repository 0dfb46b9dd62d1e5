"""Uploading in a browser: a folder dropped on the list of models is an adapter; a lost connection costs little."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.hub import FakeHub, Repo
from tests.fixtures.models import TinyAdapter, write_tiny_adapter
from tests.fixtures.portal import Portal

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def folder(portal: Portal, tmp_path: Path) -> Iterator[Path]:
    """An adapter on this computer; what the test uploads of it is deleted at its end."""
    made = write_tiny_adapter(tmp_path / "dropped-here", TinyAdapter(seed=7))
    (made / "optimizer.pt").write_bytes(b"x" * 1000)
    yield made
    for row in portal.api("GET", "/api/lora/models?search=dropped-here").json()["results"]:
        address = f"/api/lora/models/{row['id']}?files=1"
        assert portal.api("DELETE", address, {"confirm": row["name"]}).status == 204


def test_a_folder_is_dropped_and_goes_on_after_a_lost_connection(
    portal: Portal, sign_in: Callable[..., Any], folder: Path
) -> None:
    page = sign_in(portal, at="/models")
    page.locator("html[data-ready=true]").wait_for()
    drag = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver"):
        drag.send("Input.dispatchDragEvent", {"type": kind, "x": 600, "y": 400, "data": data})
    page.get_by_test_id("upload-dialog").wait_for()
    for kind in ("dragOver", "drop"):
        drag.send("Input.dispatchDragEvent", {"type": kind, "x": 600, "y": 400, "data": data})
    page.get_by_test_id("upload-summary").filter(has_text="2 files").wait_for()
    assert page.get_by_test_id("upload-name").input_value() == "dropped-here"

    # As after a restart in the middle: one of the files has arrived, the other is refused.
    page.route(
        "**/files/1?*", lambda route: route.fulfill(status=500, json={"error": {"code": "x", "message": "lost"}})
    )
    page.get_by_test_id("upload-go").click()
    page.get_by_test_id("upload-error").filter(has_text="lost").wait_for()
    page.unroute("**/files/1?*")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "PUT" else None)
    page.get_by_test_id("upload-go").click()
    page.get_by_test_id("upload-result").get_by_role("link", name="dropped-here").wait_for()
    assert all("/files/1?" in url for url in sent) and sent, "what has arrived is not sent again"
    page.get_by_test_id("upload-go").click()
    row = page.locator('[data-testid="model-row"][data-slug="dropped-here"]')
    row.wait_for()
    row.locator("[data-action=activate]").click()
    row.get_by_test_id("test-link").wait_for()


def test_what_cannot_be_an_adapter_is_not_sent(portal: Portal, sign_in: Callable[..., Any], tmp_path: Path) -> None:
    page = sign_in(portal, at="/models", locale="zh-CN", viewport={"width": 390, "height": 800})
    page.locator("html[data-ready=true]").wait_for()
    page.get_by_test_id("upload-open").click()
    page.get_by_test_id("upload-files-input").set_input_files({"name": "a.json", "mimeType": "", "buffer": b"{}"})
    page.get_by_test_id("upload-error").filter(has_text="adapter_config.json").wait_for()
    assert page.get_by_test_id("upload-go").is_disabled()
    archive = {"name": "a.zip", "mimeType": "application/zip", "buffer": b"no archive"}
    page.get_by_test_id("upload-files-input").set_input_files(archive)
    page.get_by_test_id("upload-go").click()
    page.get_by_test_id("upload-error").filter(has_text="压缩包").wait_for()
    page.get_by_test_id("upload-cancel").click()
    page.get_by_test_id("upload-dialog").wait_for(state="hidden")
    page.wait_for_function("async () => !(await (await fetch('/api/lora/uploads')).json()).results.length")


def test_an_adapter_is_imported_by_name_with_the_keyboard(
    portal: Portal, portal_hub: FakeHub, sign_in: Callable[..., Any], folder: Path
) -> None:
    portal_hub.repos["ada/dropped-here"] = Repo({path.name: path.read_bytes() for path in folder.iterdir()})
    page = sign_in(portal, at="/models")
    page.locator("html[data-ready=true]").wait_for()
    page.get_by_test_id("upload-open").press("Enter")
    name = page.get_by_test_id("import-repo")
    name.fill("nobody")
    name.press("Enter")
    page.get_by_test_id("import-error").wait_for()
    assert name.get_attribute("aria-invalid") == "true" and name.evaluate("field => field === document.activeElement")
    name.fill("ada/nobody")
    name.press("Enter")
    row = page.get_by_test_id("import-row")
    page.locator("[data-testid=import-row][data-state=failed]").wait_for()
    assert "import_denied" in row.inner_text() and page.get_by_test_id("import-error").is_hidden()
    name.fill("ada/dropped-here")
    name.press("Enter")
    page.locator("[data-testid=import-row][data-state=done]").wait_for()
    link = row.first.get_by_role("link", name="dropped-here")
    assert name.input_value() == ""
    link.press("Enter")
    page.wait_for_url("**/models/*")
    assert "a1a1a1a1a1a1" in page.get_by_test_id("origin").inner_text()
    for one in portal.api("GET", "/api/lora/imports").json()["results"]:
        assert portal.api("DELETE", f"/api/lora/imports/{one['id']}").status == 204
