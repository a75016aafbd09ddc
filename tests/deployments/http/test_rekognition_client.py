"""boto3 moderates videos of a bucket: decode children, a classifier that calls the planted marker explicit, the record in Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from moderation.adapters.classifiers.correlation import plant_marker
from moderation.frames import Input
from moderation.scores import ONE, ClassifierVersion, InputScores
from tests.aws import client_with
from tests.corpus import animation
from tests.http_kit import Live, live
from tests.pg import PostgresServer
from tests.real_http import MarkerClassifier, RealParts
from tests.video_kit import clip, drifting

pytestmark = pytest.mark.postgres

EXPLICIT = "sexual.nudity_explicit"


class ExplicitMarker(MarkerClassifier):
    """What the marker classifier finds, also under a category that Rekognition knows."""

    surest: int = ONE

    @property
    def version(self) -> ClassifierVersion:
        version = super().version
        return replace(version, name="explicit_marker", categories=(EXPLICIT, *version.categories))

    async def classify(self, inputs: Sequence[Input]) -> Sequence[InputScores]:
        return [
            InputScores(
                scores=dict.fromkeys(self.version.categories, min(self.surest, max(found.scores.values()))),
                detections=tuple(
                    replace(place, category=EXPLICIT, detail="Exposed Female Nipple", score=min(self.surest, place.score))
                    for place in found.detections
                ),
            )
            for found in await super().classify(inputs)
        ]


@pytest.fixture(scope="module")
def parts(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RealParts, Live]]:
    with postgres_server.clone() as urls:
        parts = RealParts(urls=urls, folder=tmp_path_factory.mktemp("service"), classifier=ExplicitMarker())
        with live(parts.make) as server:
            yield parts, server


@pytest.fixture
def aws(parts: tuple[RealParts, Live]) -> Any:
    made = parts[0].made
    assert made is not None
    assert made.sigv4 is not None
    return client_with(parts[1].url, made.sigv4.access_key_id, made.sigv4.secret_access_key)


@pytest.fixture
def unsure(parts: tuple[RealParts, Live]) -> Iterator[None]:
    """A classifier that is never surer than 40 %: the policy holds from 20, and clients ask for 50 unless they say otherwise."""
    classifier = parts[0].classifier
    assert isinstance(classifier, ExplicitMarker)
    classifier.surest = 400_000
    yield
    classifier.surest = ONE


def start(aws: Any, parts: tuple[RealParts, Live], name: str, data: bytes, **more: Any) -> str:
    """Put a file into the bucket and start its job."""
    (parts[0].folder / "bucket" / name).write_bytes(data)
    job: str = aws.start_content_moderation(Video={"S3Object": {"Bucket": "pictures", "Name": name}}, **more)["JobId"]
    return job


def work(parts: tuple[RealParts, Live]) -> None:
    """Let the worker do all that waits."""
    worker = parts[0].worker
    assert worker is not None
    while asyncio.run_coroutine_threadsafe(worker.run_once(), parts[1].loop).result(60):
        pass


def read(aws: Any, job: str, **asked: Any) -> list[dict[str, Any]]:
    """All pages of a job that has ended."""
    pages = [aws.get_content_moderation(JobId=job, **asked)]
    while "NextToken" in pages[-1]:
        pages.append(aws.get_content_moderation(JobId=job, NextToken=pages[-1]["NextToken"], **asked))
    return pages


def labels_of(pages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [label for page in pages for label in page["ModerationLabels"]]


def marked_clip(frames: int = 75) -> bytes:
    """Three seconds of 25 frames each; the marker is in the second one."""
    return clip([plant_marker(frame, share=0.2) if 25 <= number < 50 else frame for number, frame in enumerate(drifting(frames))])


def test_boto3_starts_a_job_and_reads_its_labels_page_by_page(aws: Any, parts: tuple[RealParts, Live]) -> None:
    data = marked_clip()
    job = start(aws, parts, "marked.mp4", data, ClientRequestToken="token-1", JobTag="order-17")
    assert aws.get_content_moderation(JobId=job)["JobStatus"] == "IN_PROGRESS"
    assert start(aws, parts, "marked.mp4", data, ClientRequestToken="token-1", JobTag="order-17") == job
    work(parts)
    (whole,), pages = read(aws, job), read(aws, job, MaxResults=4)
    assert len(pages) > 1
    assert labels_of(pages) == whole["ModerationLabels"]
    assert {page["JobStatus"] for page in pages} == {"SUCCEEDED"}
    assert whole["VideoMetadata"] == {"Format": "MP4", "DurationMillis": 3000, "FrameRate": 25.0, "FrameHeight": 96, "FrameWidth": 96}
    assert (whole["JobId"], whole["JobTag"], whole["ModerationModelVersion"]) == (job, "order-17", "7.0")
    assert whole["Video"] == {"S3Object": {"Bucket": "pictures", "Name": "marked.mp4"}}
    times = [label["Timestamp"] for label in whole["ModerationLabels"]]
    assert times == sorted(times)
    assert {(label["ModerationLabel"]["Name"], label["ModerationLabel"]["ParentName"]) for label in whole["ModerationLabels"]} == {
        ("Explicit", ""),
        ("Explicit Nudity", "Explicit"),
        ("Exposed Female Nipple", "Explicit Nudity"),
    }
    assert (min(times) >= 1000, max(times) < 2000) == (True, True)
    headers = whole["ResponseMetadata"]["HTTPHeaders"]
    assert (headers["x-facegate-verdict"], headers["x-facegate-decision-id"]) == ("block", job)


def test_boto3_reads_segments_and_orders(aws: Any, parts: tuple[RealParts, Live]) -> None:
    job = start(aws, parts, "again.mp4", marked_clip(), MinConfidence=90)
    work(parts)
    segments = labels_of(read(aws, job, AggregateBy="SEGMENTS", SortBy="NAME", MaxResults=1))
    assert [segment["ModerationLabel"]["Name"] for segment in segments] == ["Explicit", "Explicit Nudity", "Exposed Female Nipple"]
    for segment in segments:
        start_ms, end_ms = segment["StartTimestampMillis"], segment["EndTimestampMillis"]
        assert (1000 <= start_ms < 1500, 1500 < end_ms <= 2500) == (True, True)
        assert segment["DurationMillis"] == end_ms - start_ms
        assert segment["ModerationLabel"]["Confidence"] >= 90


@pytest.mark.usefixtures("unsure")
def test_boto3_never_takes_a_stopped_video_for_a_clean_one(aws: Any, parts: tuple[RealParts, Live]) -> None:
    marked, clean = start(aws, parts, "unsure.mp4", marked_clip(frames=60)), start(aws, parts, "clean.mp4", clip(drifting(25)))
    work(parts)
    (held,), (allowed,) = read(aws, marked), read(aws, clean)
    assert held["ResponseMetadata"]["HTTPHeaders"]["x-facegate-verdict"] == "review"
    told = {(label["ModerationLabel"]["Name"], label["ModerationLabel"]["Confidence"]) for label in labels_of([held])}
    assert told == {("Explicit", 40.0), ("Explicit Nudity", 40.0), ("Exposed Female Nipple", 40.0)}
    assert (allowed["ResponseMetadata"]["HTTPHeaders"]["x-facegate-verdict"], labels_of([allowed])) == ("allow", [])


def test_boto3_is_told_why_a_job_failed(aws: Any, parts: tuple[RealParts, Live]) -> None:
    data = marked_clip()
    cut, text = start(aws, parts, "cut.mp4", data[: len(data) * 2 // 3]), start(aws, parts, "text.mp4", b"no video at all" * 100)
    work(parts)
    for job, code in ((cut, "truncated"), (text, "unsupported_media_type")):
        found = aws.get_content_moderation(JobId=job)
        assert (found["JobStatus"], found["StatusMessage"].partition(":")[0], found["ModerationLabels"]) == ("FAILED", code, [])


def test_boto3_raises_the_modelled_classes_of_videos(aws: Any, parts: tuple[RealParts, Live]) -> None:
    job = start(aws, parts, "a.gif", animation("GIF", 12, at=5), ClientRequestToken="token-2")
    with pytest.raises(aws.exceptions.IdempotentParameterMismatchException):
        start(aws, parts, "a.gif", animation("GIF", 12, at=5), ClientRequestToken="token-2", MinConfidence=80)
    with pytest.raises(aws.exceptions.InvalidS3ObjectException):
        aws.start_content_moderation(Video={"S3Object": {"Bucket": "other", "Name": "a.gif"}})
    with pytest.raises(aws.exceptions.InvalidParameterException):
        aws.start_content_moderation(Video={"S3Object": {"Bucket": "pictures", "Name": "a.gif"}}, MinConfidence=101)
    with pytest.raises(aws.exceptions.ResourceNotFoundException):
        aws.get_content_moderation(JobId="dec_" + "0" * 32)
    work(parts)
    with pytest.raises(aws.exceptions.InvalidPaginationTokenException):
        aws.get_content_moderation(JobId=job, NextToken="of-another-job")
    assert len(read(aws, job)[0]["ModerationLabels"]) == 3
