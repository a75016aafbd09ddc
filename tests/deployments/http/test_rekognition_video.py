from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from deployments.http.gateway import Bounds
from deployments.http.rekognition_requests import AggregateBy, Get, SortBy
from deployments.http.rekognition_video_view import moderation_document
from deployments.http.schemas import ContentModerationView, JobView
from moderation.decision import Decision, Reason, ReasonCode, Verdict
from moderation.errors import MediaRefused, RecordUnavailable, Refusal
from moderation.frames import Limits
from moderation.media import Media, MediaKind, sha256_of
from moderation.ports import QueueState
from moderation.scores import FrameScores, InputScores
from tests.aws import DictBucket, refusal, send
from tests.builders import (
    LOUD,
    OTHER_TENANT,
    QUIET,
    make_classifier_version,
    make_decision,
    make_detection,
    make_facts,
    make_id,
    make_review,
    make_sheet,
)
from tests.fakes import ScriptedClassifier, ScriptedDecoder
from tests.http_kit import KEY_ID, Service, bearer, make_key, make_service
from tests.real_http import worker_of

FILM = b"a film of five frames, half a second apart"
FACTS = make_facts(kind=MediaKind.VIDEO, type="video/mp4", frames=5, frames_declared=5, duration_us=2_500_000)
OBJECT = {"Bucket": "clips", "Name": "a/film.mp4"}
FRAMES = (QUIET, LOUD, LOUD, QUIET, LOUD)


# --- the view ----------------------------------------------------------------------------------------


def film(*frames: Mapping[str, int], facts: Any = FACTS, **changes: Any) -> Decision:
    """A decision about a video with these scores, half a second apart."""
    return make_decision(
        media=Media(sha256="ab" * 32, size=1234, facts=facts),
        sheets=changes.pop("sheets", None) or (make_sheet(*(frames or FRAMES)),),
        **changes,
    )


def asked(**changes: Any) -> Get:
    defaults = {"job": make_id(), "most": 1000, "next_token": None, "sort_by": SortBy.TIMESTAMP, "aggregate_by": AggregateBy.TIMESTAMPS}
    return Get(**{**defaults, **changes})


def told(decision: Decision, at_least: int = 500_000, **changes: Any) -> list[tuple[int, str]]:
    """(time, name) of every label in its order."""
    labels: Any = moderation_document(decision, asked(**changes), at_least)["ModerationLabels"]
    return [(label["Timestamp"], label["ModerationLabel"]["Name"]) for label in labels]


def test_each_frame_that_was_looked_at_has_its_labels_with_their_parents_at_its_time() -> None:
    document = moderation_document(film(), asked(), 500_000)
    assert told(film()) == [(at, name) for at in (500, 1000, 2000) for name in ("Explicit", "Explicit Nudity")]
    assert document["ModerationLabels"][1] == {
        "Timestamp": 500,
        "ModerationLabel": {"Confidence": 97.31, "Name": "Explicit Nudity", "ParentName": "Explicit", "TaxonomyLevel": 2},
        "ContentTypes": [],
    }
    assert document["ModerationModelVersion"] == "7.0"


def test_a_segment_is_a_run_of_frames_that_follow_each_other_up_to_the_frame_after_it() -> None:
    document = moderation_document(film(), asked(aggregate_by=AggregateBy.SEGMENTS), 500_000)
    spans = [
        (label["ModerationLabel"]["Name"], label["StartTimestampMillis"], label["EndTimestampMillis"], label["DurationMillis"])
        for label in document["ModerationLabels"]
    ]
    assert spans == [
        ("Explicit", 500, 1500, 1000),
        ("Explicit Nudity", 500, 1500, 1000),
        ("Explicit", 2000, 2500, 500),
        ("Explicit Nudity", 2000, 2500, 500),
    ]


def test_a_segment_is_as_sure_as_its_surest_frame_and_ends_where_confidence_falls_below_the_least() -> None:
    nude, worse, weak = ({"sexual.nudity_explicit": score} for score in (700_000, 900_000, 400_000))
    decision = film(nude, worse, nude, weak, nude)
    (first, second) = moderation_document(decision, asked(aggregate_by=AggregateBy.SEGMENTS), 500_000)["ModerationLabels"][::2]
    assert (first["ModerationLabel"]["Confidence"], first["StartTimestampMillis"], first["EndTimestampMillis"]) == (90.0, 0, 1500)
    assert (second["ModerationLabel"]["Confidence"], second["StartTimestampMillis"], second["EndTimestampMillis"]) == (70.0, 2000, 2500)
    document: Any = moderation_document(decision, asked(aggregate_by=AggregateBy.SEGMENTS), 400_000)
    assert len(document["ModerationLabels"]) == 2


def test_the_frames_that_stop_a_video_are_told_whatever_was_wanted_and_the_others_are_not() -> None:
    held, under = ({**QUIET, "sexual.nudity_explicit": score} for score in (200_000, 199_999))
    stopped = film(under, held, under, under, under, verdict=Verdict.REVIEW, reasons=(over(200_000),))
    assert told(stopped) == [(500, "Explicit"), (500, "Explicit Nudity")]
    assert told(film(under, held, under, under, under, verdict=Verdict.ALLOW)) == []
    document: Any = moderation_document(stopped, asked(aggregate_by=AggregateBy.SEGMENTS), 500_000)
    first, _ = document["ModerationLabels"]
    assert (first["ModerationLabel"]["Confidence"], first["StartTimestampMillis"], first["EndTimestampMillis"]) == (20.0, 500, 1000)


def over(score: int) -> Reason:
    return Reason(
        code=ReasonCode.OVER_REVIEW_THRESHOLD, verdict=Verdict.REVIEW, category="sexual.nudity_explicit", score=score, threshold=200_000
    )


def test_what_stops_a_video_and_has_no_place_in_time_stands_at_its_first_frame() -> None:
    cuts = Reason(code=ReasonCode.CUTS_LEFT_OUT, verdict=Verdict.REVIEW, detail="7")
    assert told(film(*[QUIET] * 5, verdict=Verdict.REVIEW, reasons=(cuts,))) == [(0, "Explicit")]


def test_a_persons_word_counts_for_labels_as_well() -> None:
    quiet, held = film(*[QUIET] * 5), film({**QUIET, "sexual.nudity_explicit": 300_000}, verdict=Verdict.REVIEW, reasons=(over(300_000),))
    for decision, review, names in (
        (quiet, None, []),
        (quiet, Verdict.BLOCK, ["Explicit"]),
        (held, None, ["Explicit", "Explicit Nudity"]),
        (held, Verdict.BLOCK, ["Explicit", "Explicit Nudity"]),
        (held, Verdict.ALLOW, []),
    ):
        labels: Any = moderation_document(decision, asked(), 500_000, review=review)["ModerationLabels"]
        assert [label["ModerationLabel"]["Name"] for label in labels] == names


def test_labels_by_name_are_grouped_the_surest_first() -> None:
    decision = film(QUIET, {**QUIET, "sexual.nudity_explicit": 600_000}, LOUD, QUIET, QUIET)
    assert told(decision, sort_by=SortBy.NAME) == [
        (1000, "Explicit"),
        (500, "Explicit"),
        (1000, "Explicit Nudity"),
        (500, "Explicit Nudity"),
    ]


def test_a_frame_has_the_highest_scores_of_all_classifiers_and_only_its_own_places() -> None:
    place = make_detection(detail="Exposed Female Nipple", score=973_100)
    second = make_classifier_version("second", ("violence.graphic", "ctx.animated"))
    sheets = (
        make_sheet(QUIET, LOUD, detections=((1, place),)),
        make_sheet({"violence.graphic": 800_000, "ctx.animated": 900_000}, {"violence.graphic": 0, "ctx.animated": 0}, classifier=second),
    )
    assert told(film(sheets=sheets)) == [
        (0, "Violence"),
        (0, "Graphic Violence"),
        (500, "Explicit"),
        (500, "Explicit Nudity"),
        (500, "Exposed Female Nipple"),
    ]
    document: Any = moderation_document(film(sheets=sheets), asked(), 500_000)
    assert [label["ContentTypes"] for label in document["ModerationLabels"]][::2] == [[{"Confidence": 90.0, "Name": "Animated"}], [], []]


def test_times_are_those_of_the_frames_that_were_sampled() -> None:
    frames = tuple(
        FrameScores(frame=frame, time_us=frame * 40_000, scores=scores) for frame, scores in ((3, LOUD), (40, QUIET), (71, LOUD))
    )
    facts = make_facts(kind=MediaKind.VIDEO, type="video/mp4", frames=3, frames_declared=75, duration_us=3_000_000, sampled=(3, 40, 71))
    decision = film(sheets=(make_sheet(frames=frames),), facts=facts)
    assert told(decision)[::2] == [(120, "Explicit"), (2840, "Explicit")]
    document: Any = moderation_document(decision, asked(aggregate_by=AggregateBy.SEGMENTS), 500_000)
    assert [label["EndTimestampMillis"] for label in document["ModerationLabels"]][::2] == [1600, 3000]
    assert document["VideoMetadata"] == {"Format": "MP4", "FrameWidth": 64, "FrameHeight": 48, "DurationMillis": 3000, "FrameRate": 25.0}


def test_pages_follow_each_other_without_gap_and_end() -> None:
    decision, names, token = film(), [], None
    for _ in range(3):
        page: Any = moderation_document(decision, asked(most=2, next_token=token), 500_000)
        names += [(label["Timestamp"], label["ModerationLabel"]["Name"]) for label in page["ModerationLabels"]]
        token = page.get("NextToken")
        assert page["VideoMetadata"]["DurationMillis"] == 2500
    assert token is None
    assert names == told(decision)


@pytest.mark.parametrize(
    "changes",
    [
        {"job": make_id(2)},
        {"sort_by": SortBy.NAME},
        {"aggregate_by": AggregateBy.SEGMENTS},
        {"next_token": ""},
        {"next_token": "2"},
        {"next_token": "3-" + "0" * 32},
        {"next_token": "999999999-" + "0" * 32},
    ],
    ids=str,
)
def test_the_token_of_another_list_opens_no_page(changes: dict[str, Any]) -> None:
    token: Any = moderation_document(film(), asked(most=2), 500_000)["NextToken"]
    with pytest.raises(Exception, match="bad_request") as found:
        moderation_document(film(), asked(**{"next_token": token, **changes}), 500_000)
    assert found.value.problem.aws_type == "InvalidPaginationTokenException"


# --- the operations ----------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Visit:
    """A client of the service, with the worker that does what it puts off."""

    service: Service
    client: httpx.AsyncClient

    async def start(self, **changes: Any) -> httpx.Response:
        return await self.ask("StartContentModeration", {"Video": {"S3Object": OBJECT}, **changes})

    async def get(self, job: str, **more: Any) -> httpx.Response:
        return await self.ask("GetContentModeration", {"JobId": job} | more)

    async def ask(self, operation: str, document: Any) -> httpx.Response:
        return await send(self.client, self.service, f"RekognitionService.{operation}", json.dumps(document).encode())

    async def work(self) -> None:
        while await worker_of(self.service.gateway()).run_once():
            pass


def visit(service: Service, story: Callable[[Visit], Awaitable[None]]) -> None:
    async def main(client: httpx.AsyncClient, _: FastAPI) -> None:
        await story(Visit(service=service, client=client))

    service.run(main)


def make_shop(**changes: Any) -> Service:
    """A service with a bucket, a film of five frames and a classifier that finds the second, the third and the last loud."""
    answers = ScriptedClassifier(answer=lambda item: InputScores(scores=dict(FRAMES[item.frame])))
    bucket = DictBucket(name="clips", objects={"a/film.mp4": FILM, "huge.mp4": bytes(2001)})
    more = {"buckets": bucket, "limits": Limits(video_bytes=2000), **changes.pop("changes", {})}
    return make_service(**{"decoder": ScriptedDecoder(facts=FACTS), "classifiers": (answers,), "changes": more, **changes})


def test_a_job_is_a_screening_that_a_worker_does_and_its_id_is_the_decisions() -> None:
    service = make_shop()

    async def story(here: Visit) -> None:
        started = await here.start(JobTag="order-17", MinConfidence=80)
        assert JobView.model_validate(started.json()).model_dump() == started.json()
        job = started.json()["JobId"]
        waiting = (await here.get(job)).json()
        assert waiting == {
            "JobStatus": "IN_PROGRESS",
            "ModerationLabels": [],
            "JobId": job,
            "Video": {"S3Object": {"Bucket": "clips", "Name": "a/film.mp4"}},
            "GetRequestMetadata": {"SortBy": "TIMESTAMP", "AggregateBy": "TIMESTAMPS"},
            "JobTag": "order-17",
        }
        await here.work()
        answer = await here.get(job, SortBy="NAME", AggregateBy="SEGMENTS")
        done = answer.json()
        ContentModerationView.model_validate(done)
        assert (done["JobStatus"], done["JobTag"]) == ("SUCCEEDED", "order-17")
        assert done["GetRequestMetadata"] == {"SortBy": "NAME", "AggregateBy": "SEGMENTS"}
        assert [label["ModerationLabel"]["Confidence"] for label in done["ModerationLabels"]] == [97.31] * 4
        assert answer.headers["x-facegate-decision-id"] == job
        assert answer.headers["x-facegate-verdict"] == answer.headers["x-facegate-effective-verdict"] == "block"

    visit(service, story)
    (decision,) = service.log.decisions
    assert (decision.media.sha256, decision.reference) == (sha256_of(FILM), "order-17")
    assert service.store.files == {}


def test_what_a_person_said_of_it_is_told() -> None:
    service = make_shop()

    async def story(here: Visit) -> None:
        job = (await here.start()).json()["JobId"]
        await here.work()
        await service.reviews.add(make_review(service.log.decisions[0]))
        headers = (await here.get(job)).headers
        assert (headers["x-facegate-verdict"], headers["x-facegate-effective-verdict"]) == ("block", "allow")
        await service.reviews.add(make_review(service.log.decisions[0], Verdict.BLOCK, id=make_id(2)))
        assert (await here.get(job)).headers["x-facegate-effective-verdict"] == "block"

    visit(service, story)


def test_the_jobs_own_confidence_counts_and_half_where_it_gave_none() -> None:
    service = make_shop(classifiers=(ScriptedClassifier(scores={"sexual.nudity_explicit": 0, "sexual.suggestive": 550_000}),))

    async def story(here: Visit) -> None:
        jobs = [(await here.start(**given)).json()["JobId"] for given in ({}, {"MinConfidence": 55.01}, {"MinConfidence": 55})]
        await here.work()
        assert [len((await here.get(job)).json()["ModerationLabels"]) for job in jobs] == [5, 0, 5]

    visit(service, story)


def test_the_same_token_is_the_same_job_and_is_judged_once() -> None:
    service = make_shop()

    async def story(here: Visit) -> None:
        first, second = await here.start(ClientRequestToken="t-1"), await here.start(ClientRequestToken="t-1")
        await here.work()
        third = await here.start(ClientRequestToken="t-1")
        assert first.json() == second.json() == third.json()
        assert (await here.start(ClientRequestToken="t-2")).json() != first.json()

    visit(service, story)
    assert len(service.log.decisions) == 1


@pytest.mark.parametrize("change", [{"MinConfidence": 80}, {"JobTag": "x"}, {"Video": {"S3Object": {"Bucket": "clips", "Name": "b.mp4"}}}])
def test_a_token_of_another_request_is_refused_by_its_class(change: dict[str, Any]) -> None:
    service = make_shop()
    service.changes["buckets"].objects = {"a/film.mp4": FILM, "b.mp4": FILM}

    async def story(here: Visit) -> None:
        await here.start(ClientRequestToken="t-1")
        assert refusal(await here.start(ClientRequestToken="t-1", **change)) == "IdempotentParameterMismatchException"

    visit(service, story)
    assert len(service.queue.jobs) == 1


def test_other_bytes_under_the_same_name_are_another_request() -> None:
    service = make_shop()

    async def story(here: Visit) -> None:
        await here.start(ClientRequestToken="t-1")
        service.changes["buckets"].objects = {"a/film.mp4": FILM + b"!"}
        assert refusal(await here.start(ClientRequestToken="t-1")) == "IdempotentParameterMismatchException"

    visit(service, story)


def test_a_video_without_a_verdict_is_a_job_that_failed_and_says_why() -> None:
    service = make_shop(decoder=ScriptedDecoder(fault=MediaRefused(Refusal.TOO_LONG)))

    async def story(here: Visit) -> None:
        job = (await here.start()).json()["JobId"]
        await here.work()
        answer = await here.get(job)
        assert (answer.json()["JobStatus"], answer.json()["ModerationLabels"]) == ("FAILED", [])
        assert answer.json()["StatusMessage"] == "too_long: The video is longer than allowed."
        assert answer.headers["x-facegate-verdict"] == "error"

    visit(service, story)


def test_a_job_that_was_given_up_has_failed_before_and_after_its_decision() -> None:
    service = make_shop()

    async def story(here: Visit) -> None:
        job = (await here.start()).json()["JobId"]
        service.store.fault = RecordUnavailable("x")
        await here.work()
        assert list(service.queue.states.values()) == [QueueState.PARKED]
        given_up = (await here.get(job)).json()
        service.store.fault = None
        await worker_of(service.gateway()).end_parked()
        for found in (given_up, (await here.get(job)).json()):
            assert (found["JobStatus"], found["StatusMessage"].partition(":")[0]) == ("FAILED", "could_not_judge")
        assert [decision.verdict for decision in service.log.decisions] == ["error"]

    visit(service, story)


def test_a_start_that_cannot_be_is_refused_with_its_class_and_puts_nothing_off() -> None:
    service = make_shop()
    refused: list[tuple[dict[str, Any], str]] = [
        ({"Video": None}, "InvalidParameterException"),
        ({"Video": {}}, "InvalidParameterException"),
        ({"Video": {"S3Object": {"Bucket": "clips"}}}, "InvalidParameterException"),
        ({"Video": {"S3Object": {**OBJECT, "Version": "1"}}}, "InvalidS3ObjectException"),
        ({"Video": {"S3Object": {**OBJECT, "Name": "none.mp4"}}}, "InvalidS3ObjectException"),
        ({"Video": {"S3Object": {**OBJECT, "Bucket": "other"}}}, "InvalidS3ObjectException"),
        ({"Video": {"S3Object": {**OBJECT, "Name": "huge.mp4"}}}, "VideoTooLargeException"),
        ({"MinConfidence": 100.5}, "InvalidParameterException"),
        ({"ClientRequestToken": "no spaces"}, "InvalidParameterException"),
        ({"ClientRequestToken": "t" * 65}, "InvalidParameterException"),
        ({"JobTag": ""}, "InvalidParameterException"),
        ({"JobTag": "a\n"}, "InvalidParameterException"),
        ({"NotificationChannel": {"SNSTopicArn": "a", "RoleArn": "b"}}, "InvalidParameterException"),
        ({"Colour": 1}, "InvalidParameterException"),
    ]

    async def story(here: Visit) -> None:
        for changes, kind in refused:
            answer = await here.start(**{"ClientRequestToken": "t-1", **changes})
            assert (changes, answer.status_code, refusal(answer)) == (changes, 400, kind)

    visit(service, story)
    assert (service.queue.jobs, service.store.files, service.idempotency.claims) == ({}, {}, {})


@pytest.mark.parametrize(
    ("bounds", "max_queued", "kind", "retry_after"),
    [
        (Bounds(), 0, "LimitExceededException", "10"),
        (Bounds(in_memory=100), 1000, "ProvisionedThroughputExceededException", "1"),
    ],
)
def test_where_too_much_waits_or_there_is_no_memory_clients_are_told_to_come_back(
    bounds: Bounds, max_queued: int, kind: str, retry_after: str
) -> None:
    service = make_shop(changes={"bounds": bounds})
    service.queue.max_queued = max_queued

    async def story(here: Visit) -> None:
        answer = await here.start()
        assert (answer.status_code, refusal(answer), answer.headers["retry-after"]) == (400, kind, retry_after)

    visit(service, story)
    assert (service.queue.states, service.store.files) == ({}, {})


def test_trouble_with_the_record_is_a_fault_and_gives_the_token_back() -> None:
    service = make_shop()

    async def story(here: Visit) -> None:
        service.queue.fault = RecordUnavailable("x")
        answer = await here.start(ClientRequestToken="t-1")
        assert (answer.status_code, refusal(answer)) == (503, "InternalServerError")
        service.queue.fault = None
        assert (await here.start(ClientRequestToken="t-1")).status_code == 200

    visit(service, story)


def test_a_get_that_cannot_be_is_refused_with_its_class() -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"JobId": None}, "InvalidParameterException"),
        ({"JobId": "not a job"}, "InvalidParameterException"),
        ({"JobId": "dec_" + "0" * 32}, "ResourceNotFoundException"),
        ({"JobId": "somebody-elses"}, "ResourceNotFoundException"),
        ({"MaxResults": 0}, "InvalidParameterException"),
        ({"MaxResults": True}, "InvalidParameterException"),
        ({"NextToken": "x" * 256}, "InvalidPaginationTokenException"),
        ({"NextToken": "x"}, "InvalidPaginationTokenException"),
        ({"SortBy": "CONFIDENCE"}, "InvalidParameterException"),
        ({"AggregateBy": []}, "InvalidParameterException"),
        ({"Colour": 1}, "InvalidParameterException"),
    ]

    async def story(here: Visit) -> None:
        job = (await here.start()).json()["JobId"]
        await here.work()
        for changes, kind in refused:
            answer = await here.get(**{"job": job, **changes})
            assert (changes, answer.status_code, refusal(answer)) == (changes, 400, kind)

    visit(make_shop(), story)


def test_a_job_of_another_tenant_and_a_screening_that_was_no_job_are_not_there() -> None:
    service = make_shop()

    async def story(here: Visit) -> None:
        job = (await here.start()).json()["JobId"]
        native = await here.client.post("/v1/screenings?wait=0", files={"media": ("x", FILM, "video/mp4")}, headers=bearer())
        assert native.status_code == 202
        await here.work()
        assert refusal(await here.get(native.json()["id"])) == "ResourceNotFoundException"
        assert (await here.get(job)).json()["JobStatus"] == "SUCCEEDED"
        service.keys.keys[KEY_ID] = make_key(tenant=OTHER_TENANT)
        assert refusal(await here.get(job)) == "ResourceNotFoundException"

    visit(service, story)
