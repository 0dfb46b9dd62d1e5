"""Exporting in a browser: the adapter is fetched, and merged into its base in the background."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from typing import Any

import pytest

from tests.fixtures.portal import Portal
from tests.test_pages import id_of

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_an_adapter_is_fetched_and_merged(portal: Portal, sign_in: Callable[..., Any]) -> None:
    assert portal.api("POST", "/api/lora/scan").status in (200, 409)
    pk = id_of(portal, "first")
    assert portal.api("POST", f"/api/lora/models/{pk}/activate").status == 200
    page = sign_in(portal, locale="zh-CN", viewport={"width": 390, "height": 800}, color_scheme="dark")
    page.goto(f"{portal.url}/models/{pk}")
    page.locator("html[data-ready=true]").wait_for()
    with page.expect_download() as fetched:
        page.get_by_test_id("export-link").click()
    with zipfile.ZipFile(fetched.value.path()) as archive:
        assert archive.testzip() is None and "first/adapter_model.safetensors" in archive.namelist()
    page.get_by_test_id("merge-dtype").select_option("base")
    page.get_by_test_id("merge-go").click()
    page.locator('[data-testid="merge"][data-state="done"]').wait_for(timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    with page.expect_download() as fetched:
        page.get_by_test_id("merge-download").click()
    with zipfile.ZipFile(fetched.value.path()) as archive:
        assert archive.testzip() is None and "first-merged/config.json" in archive.namelist()
    merge = page.get_by_test_id("merge")
    merge.get_by_role("button").click()
    merge.wait_for(state="detached")
    assert portal.api("GET", f"/api/lora/models/{pk}/merges").json()["count"] == 0
