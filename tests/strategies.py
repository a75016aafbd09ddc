"""Hypothesis strategies for values of the domain: everything that can be recorded, likely or not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from moderation.decision import Decision, PolicyRef, Reason, ReasonCode, Threshold, Verdict
from moderation.frames import Fit, InputSpec, Resample
from moderation.media import Facts, Media, MediaKind, Stage, Unscreened
from moderation.scores import ClassifierScores, ClassifierVersion, Detection, FrameScores
from tests.builders import OTHER_TENANT, TENANT

# What Postgres can hold: no NUL; and the separators of a batch are refused (tested below).
words = st.text(st.characters(codec="utf-8", exclude_characters="\x00\x1d\x1e\x1f"), max_size=20)
names = (
    st.sampled_from(["sexual.nudity_explicit", "sexual", "violence.graphic", "test.marker", "frames", "detections", "thresholds"]) | words
)
scores_ = st.integers(0, 1_000_000)
boxes = st.tuples(*[st.integers(-10, 30_000)] * 4)
counts = st.integers(0, 2**53 - 1)
classifiers = st.builds(
    ClassifierVersion,
    name=words,
    version=words,
    digest=words,
    mapping_digest=words,
    categories=st.lists(names, max_size=3, unique=True).map(tuple),
    input=st.builds(
        InputSpec,
        width=st.integers(1, 5000),
        height=st.integers(1, 5000),
        fit=st.sampled_from(Fit),
        resample=st.sampled_from(Resample),
        resize_to=st.none() | st.integers(1, 5000),
    ),
    calibrated=st.booleans(),
    runtime=words,
)
sheets = st.builds(
    ClassifierScores,
    classifier=classifiers,
    frames=st.lists(
        st.builds(
            FrameScores,
            frame=st.integers(0, 300),
            time_us=st.none() | counts,
            scores=st.dictionaries(names, scores_, max_size=3),
            boxes=st.dictionaries(names, boxes, max_size=2),
        ),
        max_size=3,
    ).map(tuple),
    detections=st.lists(
        st.tuples(
            st.integers(0, 300),
            st.builds(Detection, label=words, category=names, score=scores_, box=boxes, detail=st.none() | words),
        ),
        max_size=2,
    ).map(tuple),
)
facts_ = st.builds(
    Facts,
    type=words,
    kind=st.sampled_from(MediaKind),
    width=st.integers(0, 30_000),
    height=st.integers(0, 30_000),
    frames=st.integers(0, 300),
    frames_declared=st.none() | counts,
    duration_us=st.none() | counts,
    unscreened=st.lists(st.sampled_from(Unscreened), max_size=4).map(tuple),
    renderings=st.lists(words, max_size=3).map(tuple),
)
reasons = st.builds(
    Reason,
    code=st.sampled_from(ReasonCode),
    verdict=st.sampled_from(Verdict),
    category=st.none() | names,
    score=st.none() | scores_,
    threshold=st.none() | scores_,
    classifier=st.none() | words,
    frame=st.none() | st.integers(0, 300),
    time_us=st.none() | counts,
    box=st.none() | boxes,
    detail=st.none() | words,
)


def decisions(tenants: Sequence[UUID] = (TENANT, OTHER_TENANT)) -> st.SearchStrategy[Decision]:
    """Decisions of about now, of these tenants."""
    return st.builds(
        Decision,
        id=st.builds(uuid7),
        tenant=st.sampled_from(tenants),
        actor=words,
        stage=st.sampled_from(Stage),
        media=st.builds(Media, sha256=st.binary(min_size=32, max_size=32).map(bytes.hex), size=counts, facts=st.none() | facts_),
        verdict=st.sampled_from(Verdict),
        reasons=st.lists(reasons, max_size=3).map(tuple),
        thresholds=st.lists(
            st.builds(Threshold, category=names, classifier=words, block_at=st.none() | scores_, review_at=st.none() | scores_), max_size=3
        ).map(tuple),
        sheets=st.lists(sheets, max_size=2).map(tuple),
        policy=st.builds(PolicyRef, name=words, version=st.integers(1, 2**31 - 1), digest=words),
        plan_digest=words,
        decoder=words,
        created_at=st.integers(-3600, 3600).map(lambda seconds: datetime.now(UTC) + timedelta(seconds=seconds)),
        request_id=words,
        reference=st.none() | words,
        automated=st.booleans(),
        reused_from=st.none() | st.builds(uuid7),
        transform=st.none() | st.builds(uuid7),
    )
