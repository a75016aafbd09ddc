"""The gate: the only code that turns decisions into passage.

`next_step` looks at what is committed and says what may happen next. A worker loads the facts, asks, does the step,
commits its result under its fence, and asks again; restart, review, cancel and retry are therefore the same function.
The ten steps, in this order for every transform:

1. Identify: SHA-256 of the bytes as received. From here the media has a name, even if it cannot be opened.
2. Decode: bounded, in a child process that can be killed; every frame the policy asks for; a short count is a fault.
3. Score: every classifier of the policy, all scores kept.
4. Decide: `moderation.policy.decide`, pure.
5. Record: commit the decision. Only then:
6. Act: deny, hold, or go on. Source and target are screened side by side; nothing looks for a face before both allow.
7. Produce: swap, draw the visible label, encode; commit the file's name. Of a video: one segment, and at last all of them joined.
8. Screen the output: steps 1 to 5 on the encoded file itself, independently of everything before. Of a video: each segment.
9. Sign: content credentials into that file; the signed file must show exactly the frame that was screened.
10. Release: one transaction that decides the stored scores again under the policy pinned at acceptance and under the one in
    force, both of which must allow, and binds signed file, encoded file and decisions. Only then is the file put where it
    can be served.

A video is made in segments: steps 7 and 8 are done for one after the other, and each has a file, a name and a decision of its own.
What blocks in any of them ends all of it, before a frame more is made. Once the last one is judged, they are joined: the joined
file holds their coded pictures, in their order, and gets an output decision on their scores (7 and 8 of the whole). What a person has to
look at waits until then, so that it is asked about once, with all its reasons: what a person says about the whole is said about each of
its segments, of which it shows just the frames. Then it is signed
(9): the signed file, the very one that is released, is decoded once more, and must show exactly the frames that were screened, in their
order, or it is not even named. A segment may be shown to somebody before that, where the policies say so: `shown` says which.

A decision counts only for the bytes, policy, plan, decoder and classifiers it was made with. One that was made with others
is as good as none, and so is one that ended in a fault of ours: its media is screened again. A person's allow is about one
decision and lets nothing else pass, but the segments that a whole was joined of. A person's block stands for the bytes, whatever is decided about them later and in whatever work
of the tenant's, until a later review at the stage where it was said allows them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Final, TypeAlias
from uuid import UUID

from moderation.decision import Decision, Outcome, Reason, ReasonCode, Verdict
from moderation.media import MediaKind, Stage, Unscreened
from moderation.policy import Consent, Policy, decide
from moderation.scores import ClassifierVersion
from moderation.transform import FINAL, Committed, Failure, PartKind, State, Transform

INPUTS: Final = (Stage.SOURCE, Stage.TARGET)
STAGES: Final = (*INPUTS, Stage.OUTPUT)


# --- facts ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Under what a decision must have been made to count here and now."""

    policy: str
    """Digest of the policy pinned at acceptance."""
    plan: str
    decoder: str
    classifiers: tuple[str, ...]
    """`ClassifierVersion.identity` of each judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The decision about one stage that counts: of the right bytes, blocked by a person or else the latest under the right terms."""

    decision: UUID
    pinned: Verdict
    """Of the stored scores under the policy pinned at acceptance."""
    in_force: Verdict
    """Of the same scores under the policy in force now."""
    reasons: tuple[Reason, ...] = ()
    """The gravest of both policies' reasons."""
    refusal: str | None = None
    """Why the media itself could not be judged."""
    review: Verdict | None = None
    """What a person said about this very decision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One committed segment of a video, and the decision about it that counts, where there is one."""

    judged: Judged | None
    is_last: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is committed about one transform, as the gate needs it."""

    judged: Mapping[Stage, Judged]
    lacks: str | None = None
    """What the pinned policy or the one in force asks for, beside verdicts, and the transform was accepted without."""
    is_video: bool = False
    """Whether the result is made in segments."""
    segments: tuple[Segment, ...] = ()
    """Those that are committed, in their order."""
    may_stream: bool = False
    """Whether both policies let segments be shown before the release, and these carry the visible label."""
    encoded: str | None = None
    """SHA-256 of the encoded result."""
    signed_from: str | None = None
    """SHA-256 of the encoded file that the committed signed file was made of."""
    is_released: bool = False
    """The release is committed."""
    is_published: bool = False
    """The released file lies where it can be served, and the state says so."""
    is_source_gone: bool = False
    """The face was removed from the catalogue that it was taken from."""
    is_cancelled: bool = False
    """Somebody asked for its end."""
    has_ended: bool = False
    """Denied, failed or cancelled, and committed as such."""


# --- steps ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """Steps 1 to 5 for these stages, side by side."""

    stages: tuple[Stage, ...]


@dataclass(frozen=True, slots=True)
class Produce:
    """Step 7."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProduceSegment:
    """Step 7 for one segment, counted from 1."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenSegment:
    """Step 8 for one segment."""

    number: int


@dataclass(frozen=True, slots=True)
class Assemble:
    """Step 7 for the whole: join all segments, none of which blocks."""


@dataclass(frozen=True, slots=True)
class Sign:
    """Step 9."""


@dataclass(frozen=True, slots=True)
class Release:
    """Step 10: the transaction."""


@dataclass(frozen=True, slots=True)
class Publish:
    """Step 10: put the released file where it can be served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deny:
    """Step 6: the end, because of this decision."""

    stage: Stage
    decision: UUID
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Step 6: a person must look at this decision first."""

    stage: Stage
    decision: UUID
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """The end, because it cannot be done."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Cancel:
    """The end, because somebody asked for it."""


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to do."""


Step: TypeAlias = (
    Screen | Produce | ProduceSegment | ScreenSegment | Assemble | Sign | Release | Publish | Deny | Hold | Fail | Cancel | Done
)


def next_step(facts: Facts) -> Step:
    """What may happen next, and nothing else may. Pure."""
    if facts.has_ended:
        return Done()
    if facts.is_released:  # what is released is released: a later cancel comes too late, a later block withdraws
        return Done() if facts.is_published else Publish()
    if facts.is_cancelled:
        return Cancel()
    denied = _first(_judgements(facts), (Deny,))  # 6. Act: what blocks anywhere ends it, whatever else is open
    return denied or _on_request(facts) or _on_inputs(facts) or _on_output(facts) or Release()  # 10


def _on_request(facts: Facts) -> Step | None:
    """What stops a transform whatever its pictures show."""
    if facts.is_source_gone:
        return Fail(failure=Failure(code="source_removed", message="The face was removed from the catalogue.", retryable=False))
    if facts.lacks is None:
        return None
    message = f"The policy asks for {facts.lacks}, which this was accepted without; ask again with it."
    return Fail(failure=Failure(code="policy_changed", message=message, retryable=True))


def _on_inputs(facts: Facts) -> Step | None:
    """What is left to do before source and target may be worked on."""
    judged = [(stage, facts.judged[stage]) for stage in INPUTS if stage in facts.judged]
    stopped = _first(judged, (Fail,))  # 6. Act
    if stopped is not None:
        return stopped
    missing = tuple(stage for stage in INPUTS if stage not in facts.judged)
    if missing:
        return Screen(stages=missing)  # 1 to 5
    return _first(judged, (Hold,))  # 6. Act


def _on_output(facts: Facts) -> Step | None:
    """What is left to do before the result may be released."""
    open_segment = _on_segments(facts) if facts.is_video else None
    if open_segment is not None:
        return open_segment
    if facts.encoded is None:
        return Assemble() if facts.is_video else Produce()  # 7
    if Stage.OUTPUT not in facts.judged:
        return Screen(stages=(Stage.OUTPUT,))  # 8
    stopped = _act(Stage.OUTPUT, facts.judged[Stage.OUTPUT])
    if stopped is not None:
        return stopped
    held = next((act for segment in facts.segments if (act := _act_on(segment, facts)) is not None), None)
    if held is not None:  # a segment that a person must look at, and the whole is not: no scores lead here
        return held
    return Sign() if facts.signed_from != facts.encoded else None  # 9


def _on_segments(facts: Facts) -> Step | None:
    """What is left to do before the segments of a video may be joined: no frame is made while one before it is not judged, or blocks."""
    for number, segment in enumerate(facts.segments, 1):
        if segment.judged is None:
            return ScreenSegment(number=number)  # 8
        stopped = _act(Stage.OUTPUT, segment.judged)
        if isinstance(stopped, Deny | Fail):  # what a person must look at is for the whole
            return stopped
    if facts.segments and facts.segments[-1].is_last:
        return None
    return ProduceSegment(number=len(facts.segments) + 1)  # 7


def shown(facts: Facts) -> int:
    """How many segments, from the first on, may be shown to somebody now. Pure.

    The same must hold as for a release, as far as it can hold by now: both inputs pass, so does each of these segments, nothing
    blocks anywhere, and nobody asked for the end.
    """
    if not facts.may_stream or facts.is_cancelled or facts.has_ended or _on_request(facts) or _on_inputs(facts):
        return 0
    if _first(_judgements(facts), (Deny,)) is not None:
        return 0
    passed = (segment.judged is not None and _act_on(segment, facts) is None for segment in facts.segments)
    return sum(1 for _ in takewhile(bool, passed))


def _act_on(segment: Segment, facts: Facts) -> Deny | Hold | Fail | None:
    """Step 6 for a segment that is judged; a person's allow of the whole is one of each of its segments."""
    act = None if segment.judged is None else _act(Stage.OUTPUT, segment.judged)
    whole = facts.judged.get(Stage.OUTPUT)
    is_looked_at = whole is not None and whole.review is Verdict.ALLOW
    return None if isinstance(act, Hold) and is_looked_at else act


def _judgements(facts: Facts) -> list[tuple[Stage, Judged]]:
    """Everything that was judged, in the order of the work."""
    inputs = [(stage, facts.judged[stage]) for stage in INPUTS if stage in facts.judged]
    segments = [(Stage.OUTPUT, segment.judged) for segment in facts.segments if segment.judged is not None]
    whole = [(Stage.OUTPUT, facts.judged[Stage.OUTPUT])] if Stage.OUTPUT in facts.judged else []
    return inputs + segments + whole


def _first(judgements: Sequence[tuple[Stage, Judged]], kinds: tuple[type[Deny | Hold | Fail], ...]) -> Step | None:
    """What acting on these judgements says first, of these kinds."""
    acts = (_act(stage, judged) for stage, judged in judgements)
    return next((act for act in acts if isinstance(act, kinds)), None)


def _act(stage: Stage, judged: Judged) -> Deny | Hold | Fail | None:
    """Step 6 for one decision: what stops the transform here, or None. Only two plain allows, or a person's, let it pass."""
    verdicts = (judged.pinned, judged.in_force)
    if judged.review is Verdict.BLOCK or Verdict.BLOCK in verdicts:
        return Deny(stage=stage, decision=judged.decision, reasons=judged.reasons)
    if judged.refusal is not None:
        message = f"The {stage} cannot be judged because of what it is."
        return Fail(failure=Failure(code=judged.refusal, message=message, retryable=False))
    if any(verdict not in (Verdict.ALLOW, Verdict.REVIEW) for verdict in verdicts):
        message = "The policy in force now cannot judge what was screened; ask again."
        return Fail(failure=Failure(code="policy_changed", message=message, retryable=True))
    if Verdict.REVIEW in verdicts and judged.review is not Verdict.ALLOW:
        return Hold(stage=stage, decision=judged.decision, reasons=judged.reasons)
    return None


# --- from the record to facts -----------------------------------------------------------------------


def facts_of(
    committed: Committed,
    *,
    pinned: Policy,
    in_force: Policy,
    terms: Terms,
    required_now: Sequence[ClassifierVersion],
    again: Deciding | None = None,
) -> Facts:
    """What the record says, as the gate needs it.

    `terms` are those of a decision that would be made now under the pinned policy; `required_now` are the classifiers that the
    policy in force asks for. Who asks again and again while more is committed may pass one `Again` for all of it.
    """
    again = again or decide_again
    encoded, signed = committed.part(PartKind.ENCODED), committed.part(PartKind.SIGNED)
    named = {
        Stage.SOURCE: committed.transform.source.sha256,
        Stage.TARGET: committed.transform.target.sha256,
        Stage.OUTPUT: None if encoded is None else encoded.sha256,
    }

    def judge(stage: Stage, sha256: str | None) -> Judged | None:
        blocked, latest = _blocked(committed, stage, sha256), _latest(committed, stage, sha256, terms)
        files = (sha256, signed.sha256) if signed is not None and stage is Stage.OUTPUT else (sha256,)
        elsewhere = next((committed.blocks[name] for name in files if name is not None and name in committed.blocks), None)
        if blocked is not None:
            return _judged_by_person(blocked.id, committed.reviews[blocked.id].id, blocked.reasons)
        if elsewhere is not None:
            return _judged_by_person(elsewhere.decision, elsewhere.review)
        return None if latest is None else _judged(latest, _said(committed, latest), pinned, in_force, required_now, again)

    return Facts(
        judged={stage: judged for stage, sha256 in named.items() if (judged := judge(stage, sha256)) is not None},
        lacks=(
            lacking(committed.transform, pinned)
            or lacking(committed.transform, in_force)
            or _exceeded(committed, pinned, in_force)
            or _sounding(committed, pinned, in_force)
        ),
        is_video=committed.is_video,
        segments=tuple(
            Segment(judged=judge(Stage.OUTPUT, part.sha256), is_last=part.span.is_last)
            for part in committed.segments
            if part.span is not None
        ),
        may_stream=committed.is_video and committed.transform.options.label and {pinned.stream, in_force.stream} == {"labelled"},
        encoded=None if encoded is None else encoded.sha256,
        signed_from=None if signed is None else signed.made_of,
        is_released=committed.release is not None,
        is_published=committed.state is State.RELEASED,
        is_source_gone=committed.source_removed,
        is_cancelled=committed.cancel_requested,
        has_ended=committed.state in FINAL and committed.state is not State.RELEASED,
    )


def counts(decision: Decision, stage: Stage, sha256: str | None, terms: Terms) -> bool:
    """Whether a decision is about these bytes at this stage, made under these terms, and no fault of ours."""
    made = Terms(
        policy=decision.policy.digest,
        plan=decision.plan_digest,
        decoder=decision.decoder,
        classifiers=terms.classifiers if is_refusal(decision) else tuple(sheet.classifier.identity for sheet in decision.sheets),
    )
    is_fault = (decision.verdict is Verdict.ERROR or decision.media.facts is None) and not is_refusal(decision)
    return _is_about(decision, stage, sha256) and made == terms and not is_fault


def lacking(transform: Transform, policy: Policy) -> str | None:
    """The first thing that `policy` asks for, beside verdicts, and that this transform does not have; None where it has all."""
    if policy.consent is Consent.REQUIRED and transform.consent is None:
        return "a statement of consent"
    if policy.target_consent is Consent.REQUIRED and transform.target_consent is None:
        return "a statement of consent about the target"
    if policy.sources == "catalogue" and transform.catalogue_source is None:
        return "a source of the catalogue"
    if policy.label_visible and not transform.options.label:
        return "the visible label"
    return None


def _exceeded(committed: Committed, pinned: Policy, in_force: Policy) -> str | None:
    """The limits in force, where one of the pictures is beyond them. Those of the pinned policy are part of every decision's plan."""
    if in_force.digest == pinned.digest:
        return None
    own = MediaKind.VIDEO  # such a result may have more bytes than an upload
    judged = ((decision.stage, decision.media.size, decision.media.facts) for decision in committed.decisions)
    is_within = all(
        facts is None or in_force.limits.admit(0 if stage is Stage.OUTPUT and facts.kind is own else size, facts)
        for stage, size, facts in judged
    )
    return None if is_within else "pictures within its limits"


def _sounding(committed: Committed, pinned: Policy, in_force: Policy) -> str | None:
    """That no sound is kept, where a video was accepted to keep it and has any, as is known once its target or what was made of it is decided."""
    if not committed.is_video or (pinned.audio, in_force.audio) != ("keep", "drop"):
        return None
    known = (decision.media.facts for decision in committed.decisions)
    has_sound = any(facts is not None and Unscreened.AUDIO in facts.unscreened for facts in known)
    return "a video without sound" if has_sound else None


def is_refusal(decision: Decision) -> bool:
    """Whether the media itself is why it could not be judged; no classifier was asked then, or not to the end."""
    return any(reason.code is ReasonCode.MEDIA_REFUSED for reason in decision.reasons)


def decide_again(decision: Decision, policy: Policy, required: Sequence[ClassifierVersion]) -> Outcome:
    """What `policy` says about the stored scores of `required`. Pure; raises ValueError for a decision without facts.

    A classifier is known by its identity: on which runtime it gave its scores does not matter.
    """
    if decision.media.facts is None:
        raise ValueError("nothing was judged")
    runtimes = {sheet.classifier.identity: sheet.classifier.runtime for sheet in decision.sheets}
    asked = [replace(version, runtime=runtimes.get(version.identity, version.runtime)) for version in required]
    names = {version.identity for version in required}
    sheets = tuple(sheet for sheet in decision.sheets if sheet.classifier.identity in names)
    return decide(stage=decision.stage, facts=decision.media.facts, required=asked, sheets=sheets, policy=policy)


Deciding: TypeAlias = Callable[[Decision, Policy, Sequence[ClassifierVersion]], Outcome]


class Again:
    """`decide_again`, once for each decision, policy and classifiers: the same objects always come to the same.

    A decision is known by being the very object, so that one that was read once more is decided once more.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[UUID, str, tuple[str, ...]], tuple[Decision, Outcome]] = {}

    def __call__(self, decision: Decision, policy: Policy, required: Sequence[ClassifierVersion]) -> Outcome:
        """As `decide_again` says."""
        key = (decision.id, policy.digest, tuple(version.identity for version in required))
        known = self._known.get(key)
        if known is None or known[0] is not decision:
            known = self._known[key] = decision, decide_again(decision, policy, required)
        return known[1]


def _is_about(decision: Decision, stage: Stage, sha256: str | None) -> bool:
    return decision.stage is stage and decision.media.sha256 == sha256


def _latest(committed: Committed, stage: Stage, sha256: str | None, terms: Terms) -> Decision | None:
    return next((decision for decision in reversed(committed.decisions) if counts(decision, stage, sha256, terms)), None)


def _blocked(committed: Committed, stage: Stage, sha256: str | None) -> Decision | None:
    """The latest decision about these bytes that a person blocks, whether or not it counts by now."""
    about = (decision for decision in reversed(committed.decisions) if _is_about(decision, stage, sha256))
    return next((decision for decision in about if _said(committed, decision) is Verdict.BLOCK), None)


def _said(committed: Committed, decision: Decision) -> Verdict | None:
    """What a person said last about this very decision."""
    review = committed.reviews.get(decision.id)
    return None if review is None else review.verdict


def _judged_by_person(decision: UUID, review: UUID, reasons: tuple[Reason, ...] = ()) -> Judged:
    """The first reason names the review."""
    said = Reason(code=ReasonCode.BLOCKED_BY_PERSON, verdict=Verdict.BLOCK, detail=str(review))
    return Judged(decision=decision, pinned=Verdict.BLOCK, in_force=Verdict.BLOCK, reasons=(said, *reasons), review=Verdict.BLOCK)


def _judged(
    decision: Decision,
    review: Verdict | None,
    pinned: Policy,
    in_force: Policy,
    required_now: Sequence[ClassifierVersion],
    again: Deciding,
) -> Judged:
    if is_refusal(decision):
        refusal = next(reason.detail for reason in decision.reasons if reason.code is ReasonCode.MEDIA_REFUSED)
        return Judged(decision=decision.id, pinned=Verdict.ERROR, in_force=Verdict.ERROR, reasons=decision.reasons, refusal=refusal)
    then = again(decision, pinned, tuple(sheet.classifier for sheet in decision.sheets))
    now = then if in_force.digest == pinned.digest else again(decision, in_force, required_now)
    # The stored verdict and the one made again are the same unless the record was altered: then neither is believed.
    verdict = then.verdict if then.verdict is decision.verdict else Verdict.ERROR
    reasons = decision.reasons if verdict is Verdict.BLOCK or now.verdict in (Verdict.ALLOW, verdict) else now.reasons
    return Judged(decision=decision.id, pinned=verdict, in_force=now.verdict, reasons=reasons, review=review)
