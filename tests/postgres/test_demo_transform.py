"""`make demo`, its second half: through HTTP, with the worker, the record, stores and credentials; only Ray is left out."""

from __future__ import annotations

import asyncio
import io

import pytest
from PIL import Image
from rich.console import Console

from deployments import demo_transform
from deployments.client import Client
from deployments.policy_file import shipped_policy
from moderation.adapters.provenance import read_credentials
from tests.faults.marked_frames import served
from tests.gate_kit import yard

pytestmark = pytest.mark.postgres


def test_the_demonstration_shows_a_release_with_its_order_and_credentials_and_two_denials(database, tmp_path):
    out = Console(file=io.StringIO(), width=240)

    async def shown(client: Client, tenant) -> str:
        async with yard(database, tmp_path, policy=shipped_policy("marker"), tenant=tenant) as here:
            working = asyncio.create_task(here.worker().run())
            try:
                await asyncio.to_thread(demo_transform.run, client, tmp_path, out)
            finally:
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)
        return out.file.getvalue()

    with served(database, tmp_path) as (parts, server), Client(server.url, parts.made.text) as client:
        said = asyncio.run(shown(client, parts.made.key.tenant))
    order = said[said.index("in this order") :]
    places = [order.index(words) for words in ("accepted, with a statement of consent", "target ", "output ", "signed file ")]
    assert places == sorted(places)
    assert "integrity valid; signature valid" in said, "as the verifier says that shares no code with the signer"
    assert [said.count(f"{stage}: test.marker") for stage in ("source", "target")] == [1, 1]
    assert read_credentials((tmp_path / "released.jpeg").read_bytes(), "image/jpeg", anchors=None).state == "Valid"
    with Image.open(tmp_path / "swap.png") as sheet:
        assert sheet.width > 3 * demo_transform.SIDE
