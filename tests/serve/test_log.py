"""The log of the whole service, through its front door, before the verifier that outsiders have."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from moderation.adapters import verify_log

pytestmark = [pytest.mark.serve, pytest.mark.slow]


def test_the_whole_log_comes_through_the_front_door_and_holds_with_its_receipts(client: httpx.Client, fresh_jpeg, tmp_path: Path):
    kept = client.get("/v1/audit/checkpoint")
    answers = [client.post("/v1/screenings", content=fresh_jpeg(), headers={"content-type": "image/jpeg"}) for _ in range(3)]
    until = time.monotonic() + 30
    while client.get(f"/v1/decisions/{answers[-1].json()['id']}/proof").status_code != 200:
        assert time.monotonic() < until
        time.sleep(0.1)
    (tmp_path / "kept.json").write_bytes(kept.content)
    (tmp_path / "receipts.ndjson").write_bytes(b"\n".join(answer.content for answer in answers))
    with client.stream("GET", "/v1/audit/export") as export, (tmp_path / "log.ndjson").open("wb") as file:
        assert export.headers["content-type"] == "application/x-ndjson"
        for piece in export.iter_raw():
            file.write(piece)
    asked = [str(tmp_path / "log.ndjson"), "--checkpoint", str(tmp_path / "kept.json"), "--receipts", str(tmp_path / "receipts.ndjson")]
    assert verify_log.main([*asked, *[f"--key={key}" for key in kept.json()["keys"]]]) == 0
