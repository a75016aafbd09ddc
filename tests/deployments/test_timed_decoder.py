"""What the decoder does is timed under its own name, and its faults are counted."""

from __future__ import annotations

import asyncio

import pytest

from deployments import telemetry
from deployments.wiring import TimedDecoder
from moderation.adapters.decode import ChildDecoder
from moderation.errors import DecoderUnavailable, MediaRefused
from moderation.frames import DecodePlan, Picture
from tests import corpus
from tests.builders import make_spec

PLAN = DecodePlan(specs=(make_spec(),))


def counted(sample: str, **labels: str) -> float:
    return telemetry._REGISTRY.get_sample_value(sample, labels) or 0.0


async def ignore(_):
    pass


def test_every_use_is_passed_through_and_timed_under_its_own_name():
    steps = ("decode", "picture", "probe", "frame_digest")
    before = [counted("facegate_step_seconds_count", step=step) for step in steps]

    async def story():
        decoder = ChildDecoder(1)
        await decoder.start()
        try:
            timed = TimedDecoder(decoder)
            kept: list[Picture] = []
            facts = await timed.decode(corpus.plain("PNG"), PLAN, ignore, keep=kept.append)
            picture = await timed.picture(corpus.plain("PNG"), PLAN)
            probe = await timed.probe(corpus.plain("PNG"), PLAN)
            assert picture.pixels.shape[:2] == (facts.height, facts.width) == (probe.height, probe.width)
            assert (kept[0].pixels == picture.pixels).all()
            assert (await timed.frame_digest(corpus.plain("PNG"), PLAN)).startswith("sha256:")
            for question in (timed.picture, timed.probe):
                with pytest.raises(MediaRefused):
                    await question(b"no picture at all", PLAN)
        finally:
            await decoder.close()

    asyncio.run(story())
    assert [counted("facegate_step_seconds_count", step=step) for step in steps] == [
        past + more for past, more in zip(before, (1, 2, 2, 1), strict=True)
    ]


def test_a_fault_of_ours_is_counted_and_raised():
    before = counted("facegate_faults_total", code="decoder_unavailable")

    async def story():
        timed = TimedDecoder(ChildDecoder(1))  # never started
        for question in (timed.picture, timed.probe):
            with pytest.raises(DecoderUnavailable):
                await question(corpus.plain("PNG"), PLAN)

    asyncio.run(story())
    assert counted("facegate_faults_total", code="decoder_unavailable") == before + 2
