"""What `facegate serve` tells a new user, tried as it is told. Starting and stopping for real: `tests/serve`."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from deployments.cluster import RunFolder
from deployments.serve_command import NUDENET_NOTE, _Runner
from deployments.settings import Settings
from tests.builders import jpeg_bytes
from tests.http_kit import KEY, live_fakes, make_service


def announced(settings: Settings, run: Path) -> list[str]:
    out = io.StringIO()
    _Runner(settings=settings, run=RunFolder(path=run), out=out, began=time.monotonic() - 12).announce(KEY)
    return out.getvalue().splitlines()


def test_url_and_key_are_told_and_the_evaluation_classifier_is_called_one(tmp_path: Path) -> None:
    lines = announced(Settings(home=tmp_path, port=8123), tmp_path)
    assert lines[0].startswith("facegate is ready after 12.")
    assert any(line.startswith("  URL   http://127.0.0.1:8123 ") for line in lines)
    assert f"  key   {KEY}    kept in {tmp_path / 'local.key'}" in lines
    assert NUDENET_NOTE in "\n".join(lines)
    assert "38 %" in NUDENET_NOTE
    assert NUDENET_NOTE not in "\n".join(announced(Settings(home=tmp_path, classifiers=("correlation",)), tmp_path))


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
@pytest.mark.parametrize("folder", ["data", "a folder"])
def test_the_line_to_try_answers_with_a_decision(tmp_path: Path, folder: str) -> None:
    service, home = make_service(), tmp_path / folder
    home.mkdir()
    (home / "local.key").write_text(f"{KEY}\n")
    (tmp_path / "picture.jpg").write_bytes(jpeg_bytes())
    with live_fakes(service) as server:
        (line,) = (line for line in announced(Settings(home=home, port=server.port), tmp_path) if "curl" in line)
        tried = line.strip().removeprefix("try").strip()
        answer = subprocess.run(["sh", "-c", tried], cwd=tmp_path, capture_output=True, text=True, check=True)
    decision = json.loads(answer.stdout)
    assert (decision["object"], decision["verdict"]) == ("decision", "allow")
    assert decision["id"] == f"dec_{service.log.decisions[0].id.hex}"
