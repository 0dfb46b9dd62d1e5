"""What begins once the server listens."""

from __future__ import annotations

import pytest

from adapters.discovery import periodic_scan
from inference.measuring.recorder import recorder
from loraportal.management.commands import serve


def test_scans_copies_and_what_was_measured_are_tended_without_a_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(periodic_scan, "start", lambda: begun.append("scans"))
    monkeypatch.setattr(periodic_scan, "start_store", lambda: begun.append("copies"))
    monkeypatch.setattr(recorder, "start", lambda: begun.append("measured"))
    serve.listening()
    assert sorted(begun) == ["copies", "measured", "scans"]
    assert "runs at" in "".join(capsys.readouterr())
