"""The result's file: what the asked format cannot hold, or nobody could judge, is an answer and no fault of ours."""

from __future__ import annotations

import asyncio

import pytest

from deployments.rendering import CREDENTIALS_BYTES, CannotTransform, PictureRenderer, format_of
from face_pipeline.classical import ClassicalSwapper
from moderation.adapters.decode import ChildDecoder
from moderation.frames import Limits
from moderation.transform import Options
from tests.gate_kit import cascade, face, jpeg


@pytest.mark.parametrize(
    ("asked", "target_type", "side_px", "written"),
    [
        ("auto", "image/jpeg", 30_000, "jpeg"),
        ("auto", "image/avif", 16_383, "webp"),
        ("auto", "image/avif", 16_384, "png"),
        ("auto", "image/tiff", 300, "png"),
        ("webp", "image/jpeg", 16_383, "webp"),
    ],
)
def test_the_format_is_the_asked_one_or_follows_the_target_as_far_as_it_can_hold_it(asked, target_type, side_px, written):
    assert format_of(Options(format=asked), target_type, side_px) == written


def test_a_format_that_cannot_hold_the_result_is_refused_for_good():
    with pytest.raises(CannotTransform) as refused:
        format_of(Options(format="webp"), "image/jpeg", 16_384)
    assert (refused.value.failure.code, refused.value.failure.retryable) == ("dimensions_too_large", False)


def test_a_result_of_more_bytes_than_can_be_judged_fails_for_good_and_says_so():
    source, target = jpeg(face("ada")), jpeg(face("bo"))
    limits = Limits(image_bytes=CREDENTIALS_BYTES + 2 * max(len(source), len(target)))

    async def main() -> None:
        decoder = ChildDecoder(1)
        await decoder.start()
        try:
            renderer = PictureRenderer(pictures=decoder, detector=cascade(), swapper=ClassicalSwapper(), limits=limits)
            assert len((await renderer.render(source, target, "image/jpeg", Options())).data) <= limits.image_bytes
            with pytest.raises(CannotTransform) as refused:
                await renderer.render(source, target, "image/jpeg", Options(format="png"))
            assert (refused.value.failure.code, refused.value.failure.retryable) == ("payload_too_large", False)
        finally:
            await decoder.close()

    asyncio.run(main())
