"""What begins once the server listens."""

from __future__ import annotations

import pytest

from adapters.discovery import periodic_scan
from evaluations.gates import judging, webhooks
from evaluations.runs import queue
from inference.measuring.recorder import recorder
from loraportal.management.commands import serve


def test_scans_copies_and_what_was_measured_are_tended_without_a_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(periodic_scan, "start", lambda: begun.append("scans"))
    monkeypatch.setattr(periodic_scan, "start_store", lambda: begun.append("copies"))
    monkeypatch.setattr(recorder, "start", lambda: begun.append("measured"))
    monkeypatch.setattr(queue, "start", lambda between: begun.append(f"evaluations {between is judging.turn}"))
    monkeypatch.setattr(webhooks, "start", lambda: begun.append("webhooks"))
    serve.listening()
    assert sorted(begun) == ["copies", "evaluations True", "measured", "scans", "webhooks"]
    assert "runs at" in "".join(capsys.readouterr())
