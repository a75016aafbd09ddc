"""Metrics: bounded in number whatever clients send, and rid of processes that are gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from deployments import telemetry


def test_a_method_of_a_clients_own_does_not_become_a_series() -> None:
    telemetry.answered("BREW-7f3a", "/healthz", 405, 0.001)
    text = telemetry.render()
    assert "BREW" not in text
    assert 'method="other",route="/healthz",status="405"' in text


def test_what_waits_at_a_replica_that_is_gone_waits_no_more(tmp_path: Path) -> None:
    """In processes of their own, since the folder is read when the library is imported."""
    environment = os.environ | {telemetry.FOLDER: str(tmp_path)}

    def run(script: str) -> str:
        return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True).stdout

    run("from deployments import telemetry as t; t.forward_pass('gone', 4, 0.1, 7)")
    shown = run("from deployments import telemetry as t; t.forward_pass('here', 4, 0.1, 3); print(t.render())")
    assert 'facegate_classifier_waiting_rows{classifier="here"} 3.0' in shown
    assert 'waiting_rows{classifier="gone"}' not in shown
    assert 'facegate_classifier_batch_rows_count{classifier="gone"} 1.0' in shown
