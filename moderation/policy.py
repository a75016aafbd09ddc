"""Policy: frozen, versioned, content-hashed rules; and `decide`, which applies them.

The order in `decide` is the product's promise: what is present and over a threshold blocks,
whatever is missing; anything missing, short or malformed is `error`; only a complete sheet can be
`allow` or `review`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from moderation.canonical import Json, digest
from moderation.decision import Outcome, Reason, ReasonCode, Threshold, Verdict
from moderation.errors import PolicyRefused
from moderation.media import Facts, MediaKind, Stage, Unscreened
from moderation.scores import ONE, ClassifierScores, ClassifierVersion, FrameScores, is_score
from moderation.taxonomy import CATEGORY_PATTERN, family_of

ALL_STAGES: Final = frozenset(Stage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Thresholds for a category (`sexual.nudity_explicit`) or a family (`sexual`).

    A family rule covers the bare family and every class without a rule of its own. A rule that names
    a `classifier` applies to that one's scores only. Thresholds are scores; reaching one counts.
    """

    category: str
    block_at: int | None = None
    review_at: int | None = None
    stages: frozenset[Stage] = ALL_STAGES
    classifier: str | None = None

    def __post_init__(self) -> None:
        if not CATEGORY_PATTERN.fullmatch(self.category):
            raise PolicyRefused(f"rule for {self.category!r}: not a category")
        given = [t for t in (self.review_at, self.block_at) if t is not None]
        if not given:
            raise PolicyRefused(f"rule for {self.category}: give block_at, review_at or both")
        if any(not 0 < t <= ONE for t in given):
            raise PolicyRefused(f"rule for {self.category}: thresholds lie in (0, 1]")
        if given != sorted(given):
            raise PolicyRefused(f"rule for {self.category}: review_at is above block_at and could never act")
        if not self.stages:
            raise PolicyRefused(f"rule for {self.category}: no stages")

    def verdict_on(self, score: int) -> Verdict:
        """What this rule alone says about one score."""
        if self.block_at is not None and score >= self.block_at:
            return Verdict.BLOCK
        if self.review_at is not None and score >= self.review_at:
            return Verdict.REVIEW
        return Verdict.ALLOW


@dataclass(frozen=True, slots=True, kw_only=True)
class KOfN:
    """At least `k` of exactly `n` classifiers, each over its own threshold, within one family."""

    k: int
    n: int

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.n:
            raise PolicyRefused(f"combine: k of n needs 1 <= k <= n, got {self.k} of {self.n}")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSampling:
    """Which instants of an uploaded animation or video are looked at, and what a lone hit means."""

    interval_ms: int = 500
    min_frames: int = 8
    first_and_last: bool = True
    scene_cuts: bool = True
    isolated_at_block: Verdict = Verdict.REVIEW
    run: KOfN = field(default_factory=lambda: KOfN(k=2, n=3))

    def __post_init__(self) -> None:
        if self.isolated_at_block not in (Verdict.REVIEW, Verdict.BLOCK):
            raise PolicyRefused("video.input.isolated_at_block: review or block")
        if self.interval_ms <= 0 or self.min_frames < 1:
            raise PolicyRefused("video.input: interval_s and min_frames must be positive")


class Consent(StrEnum):
    """Whether a transform must carry a statement about the source face."""

    REQUIRED = "required"
    OPTIONAL = "optional"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLimits:
    """What one tenant may send; never more than the service's own limits."""

    image_bytes: int = 20_000_000
    image_pixels: int = 64_000_000
    frames: int = 300
    video_bytes: int = 200_000_000
    video_seconds: int = 120


_UNSCREENED_DEFAULT: Final[Mapping[Unscreened, Verdict]] = {
    Unscreened.AUDIO: Verdict.ALLOW,
    Unscreened.TRAILING_DATA: Verdict.REVIEW,
    Unscreened.GAIN_MAP: Verdict.REVIEW,
    Unscreened.THUMBNAIL: Verdict.ALLOW,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One version of one policy. `digest` names its content; `name` and `version` name its place.

    Raises PolicyRefused if empty or self-contradictory. Whether it fits the configured classifiers is a
    separate question, answered by `check_coverage`.
    """

    name: str
    version: int
    rules: tuple[Rule, ...]
    ignore: tuple[str, ...] = ()
    combine: KOfN | None = None
    """None means `max`: the highest score, over calibrated scores or a single classifier."""
    sampling: InputSampling = field(default_factory=InputSampling)
    unscreened: Mapping[Unscreened, Verdict] = field(default_factory=lambda: dict(_UNSCREENED_DEFAULT))
    unscreened_by_stage: Mapping[Stage, Mapping[Unscreened, Verdict]] = field(default_factory=dict)
    consent: Consent = Consent.REQUIRED
    label_visible: bool = True
    stream: str = "off"
    audio: str = "keep"
    limits: PolicyLimits = field(default_factory=PolicyLimits)

    def __post_init__(self) -> None:
        if not self.rules:
            raise PolicyRefused("a policy without rules would allow everything")
        for pattern in self.ignore:
            if not CATEGORY_PATTERN.fullmatch(pattern.removesuffix(".*")):
                raise PolicyRefused(f"ignore {pattern!r}: a category, or a family with .*")
        seen: set[tuple[str, str | None, Stage]] = set()
        for rule in self.rules:
            if any(_is_ignored(rule.category, pattern) for pattern in self.ignore):
                raise PolicyRefused(f"{rule.category} has a rule and is ignored")
            for stage in rule.stages:
                key = (rule.category, rule.classifier, stage)
                if key in seen:
                    raise PolicyRefused(f"two rules for {rule.category} at stage {stage}")
                seen.add(key)
        for verdicts in (self.unscreened, *self.unscreened_by_stage.values()):
            if Verdict.ERROR in verdicts.values():
                raise PolicyRefused("unscreened: allow, review or block")

    def is_ignored(self, category: str) -> bool:
        """Whether the policy explicitly leaves this category alone."""
        return any(_is_ignored(category, pattern) for pattern in self.ignore)

    def rule_for(self, category: str, stage: Stage, classifier: str) -> Rule | None:
        """The most particular rule: class before family, named classifier before any."""
        for wanted in dict.fromkeys((category, family_of(category))):
            for name in (classifier, None):
                for rule in self.rules:
                    if rule.category == wanted and rule.classifier == name and stage in rule.stages:
                        return rule
        return None

    def verdict_on_unscreened(self, what: Unscreened, stage: Stage) -> Verdict:
        """What it means that something was present and not judged; unknown kinds are held."""
        by_stage = self.unscreened_by_stage.get(stage, {})
        return by_stage.get(what, self.unscreened.get(what, Verdict.REVIEW))

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of the content, without name and version."""
        return digest(self.content())

    def content(self) -> dict[str, Json]:
        """The rules as canonical JSON; scores as integers. This is what is hashed and stored."""
        return {
            "combine": "max" if self.combine is None else {"k": self.combine.k, "n": self.combine.n},
            "rules": [
                {
                    "category": r.category,
                    "block_at": r.block_at,
                    "review_at": r.review_at,
                    "stages": sorted(r.stages),
                    "classifier": r.classifier,
                }
                for r in self.rules
            ],
            "ignore": sorted(self.ignore),
            "video": {
                "input": {
                    "interval_ms": self.sampling.interval_ms,
                    "min_frames": self.sampling.min_frames,
                    "first_and_last": self.sampling.first_and_last,
                    "scene_cuts": self.sampling.scene_cuts,
                    "isolated_at_block": self.sampling.isolated_at_block,
                    "run": {"k": self.sampling.run.k, "n": self.sampling.run.n},
                },
                "output": {"frames": "every", "any_frame_at_block": "block"},
            },
            "unscreened": {str(k): str(v) for k, v in sorted(self.unscreened.items())},
            "unscreened_by_stage": {
                str(stage): {str(k): str(v) for k, v in sorted(verdicts.items())}
                for stage, verdicts in sorted(self.unscreened_by_stage.items())
            },
            "consent": str(self.consent),
            "label": {"visible": self.label_visible},
            "stream": self.stream,
            "audio": self.audio,
            "limits": {
                "image_bytes": self.limits.image_bytes,
                "image_pixels": self.limits.image_pixels,
                "frames": self.limits.frames,
                "video_bytes": self.limits.video_bytes,
                "video_seconds": self.limits.video_seconds,
            },
        }


def _is_ignored(category: str, pattern: str) -> bool:
    if pattern.endswith(".*"):
        return family_of(category) == pattern.removesuffix(".*")
    return category == pattern


def check_coverage(policy: Policy, classifiers: Sequence[ClassifierVersion]) -> None:
    """Refuse a policy that leaves open what a configured classifier can say.

    Every category that can be emitted must have a rule or an explicit ignore at every stage; scores of
    different classifiers may be compared only if all are calibrated, or the rules name their classifier;
    `k of n` must count the classifiers that are there. Raises PolicyRefused.
    """
    if not classifiers:
        raise PolicyRefused(f"policy {policy.name}: no classifier is configured")
    names = [c.name for c in classifiers]
    if len(set(names)) != len(names):
        raise PolicyRefused(f"two classifiers share a name: {sorted(names)}")
    for rule in policy.rules:
        if rule.classifier is not None and rule.classifier not in names:
            raise PolicyRefused(f"policy {policy.name}: rule for {rule.category} names unknown classifier {rule.classifier}")
    for classifier in classifiers:
        for category in classifier.categories:
            if policy.is_ignored(category):
                continue
            for stage in Stage:
                if policy.rule_for(category, stage, classifier.name) is None:
                    raise PolicyRefused(
                        f"policy {policy.name}: {category} from {classifier.name} has no rule at stage {stage};"
                        " add one, a rule for its family, or an explicit ignore"
                    )
    _check_combination(policy, classifiers)


def _check_combination(policy: Policy, classifiers: Sequence[ClassifierVersion]) -> None:
    by_family: dict[str, list[ClassifierVersion]] = {}
    for classifier in classifiers:
        for family in {family_of(c) for c in classifier.categories if not policy.is_ignored(c)}:
            by_family.setdefault(family, []).append(classifier)
    for family, members in by_family.items():
        if policy.combine is not None:
            if len(members) != policy.combine.n:
                raise PolicyRefused(f"policy {policy.name}: {policy.combine.k} of {policy.combine.n}, but {len(members)} judge {family}")
            continue
        if len(members) == 1 or all(m.calibrated for m in members):
            continue
        for member in members:
            for category in (c for c in member.categories if family_of(c) == family and not policy.is_ignored(c)):
                for stage in Stage:
                    rule = policy.rule_for(category, stage, member.name)
                    if rule is None or rule.classifier is None:
                        raise PolicyRefused(
                            f"policy {policy.name}: {category} comes from uncalibrated classifiers"
                            f" {sorted(m.name for m in members)}; a rule must name its classifier, or use k of n"
                        )


# --- decide -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hit:
    """One score over one threshold."""

    verdict: Verdict
    reason: Reason
    classifier: str
    frame: int


def decide(
    *,
    stage: Stage,
    facts: Facts,
    required: Sequence[ClassifierVersion],
    sheets: Sequence[ClassifierScores],
    policy: Policy,
) -> Outcome:
    """Turn scores into a verdict with reasons. Pure: the same arguments give the same answer for ever.

    `required` are the classifiers that had to answer, each for every one of `facts.frames` frames.
    """
    hits = list(_hits(stage, sheets, policy))
    reasons = _combine(hits, stage, facts, policy)
    unscreened = [_unscreened_reason(what, stage, policy) for what in facts.unscreened]
    reasons += [reason for reason in unscreened if reason.verdict is not Verdict.ALLOW]
    missing = list(_missing(facts, required, sheets))

    verdict = max((reason.verdict for reason in reasons), key=_RANK.__getitem__, default=Verdict.ALLOW)
    if verdict is not Verdict.BLOCK and missing:
        verdict = Verdict.ERROR
    ordered = sorted([*reasons, *missing], key=lambda r: (-_RANK[r.verdict], -(r.score or 0), r.category or "", r.frame or 0))
    return Outcome(verdict=verdict, reasons=tuple(ordered), thresholds=tuple(_thresholds(stage, required, policy)))


_RANK: Final = {Verdict.ALLOW: 0, Verdict.REVIEW: 1, Verdict.ERROR: 2, Verdict.BLOCK: 3}


def _hits(stage: Stage, sheets: Iterable[ClassifierScores], policy: Policy) -> Iterator[_Hit]:
    """Every valid score that reaches a threshold of its rule; malformed ones are `_missing`'s business."""
    for sheet in sheets:
        name = sheet.classifier.name
        rules = {c: policy.rule_for(c, stage, name) for frame in sheet.frames for c in frame.scores if not policy.is_ignored(c)}
        for frame in sheet.frames:
            for category, score in frame.scores.items():
                if policy.is_ignored(category) or not is_score(score):
                    continue
                rule = rules[category]
                if rule is None:
                    yield _Hit(
                        verdict=Verdict.ERROR,
                        reason=Reason(code=ReasonCode.UNCOVERED_CATEGORY, verdict=Verdict.ERROR, category=category, classifier=name),
                        classifier=name,
                        frame=frame.frame,
                    )
                    continue
                verdict = rule.verdict_on(score)
                if verdict is not Verdict.ALLOW:
                    yield _Hit(verdict=verdict, reason=_reason(rule, verdict, category, score, name, frame), classifier=name, frame=frame.frame)


def _reason(rule: Rule, verdict: Verdict, category: str, score: int, classifier: str, frame: FrameScores) -> Reason:
    blocks = verdict is Verdict.BLOCK
    return Reason(
        code=ReasonCode.OVER_BLOCK_THRESHOLD if blocks else ReasonCode.OVER_REVIEW_THRESHOLD,
        verdict=verdict,
        category=category,
        score=score,
        threshold=rule.block_at if blocks else rule.review_at,
        classifier=classifier,
        frame=frame.frame,
        time_us=frame.time_us,
        box=frame.boxes.get(category),
    )


def _combine(hits: Sequence[_Hit], stage: Stage, facts: Facts, policy: Policy) -> list[Reason]:
    """From single hits to reasons: across classifiers, then across time. One reason per category and verdict."""
    per_frame: dict[int, list[_Hit]] = {}
    for hit in hits:
        per_frame.setdefault(hit.frame, []).append(hit)
    counted = [hit for frame_hits in per_frame.values() for hit in _across_classifiers(frame_hits, policy)]
    if facts.kind is not MediaKind.IMAGE and stage is not Stage.OUTPUT:
        counted = _across_time(counted, policy.sampling)
    worst: dict[tuple[Verdict, str | None, str], Reason] = {}
    for hit in counted:
        key = (hit.verdict, hit.reason.category, hit.classifier)
        if key not in worst or (hit.reason.score or 0) > (worst[key].score or 0):
            worst[key] = hit.reason
    return list(worst.values())


def _across_classifiers(hits: Sequence[_Hit], policy: Policy) -> list[_Hit]:
    """`max`: every hit counts. `k of n`: a family's hits count once k classifiers agree; fewer than k
    that would block still hold the media for a person, since a disagreement is not an all-clear."""
    if policy.combine is None:
        return list(hits)
    counted: list[_Hit] = []
    for family in dict.fromkeys(family_of(hit.reason.category or "") for hit in hits):
        members = [hit for hit in hits if family_of(hit.reason.category or "") == family]
        blocking = {hit.classifier for hit in members if hit.verdict is Verdict.BLOCK}
        voting = {hit.classifier for hit in members if hit.verdict in (Verdict.BLOCK, Verdict.REVIEW)}
        for hit in members:
            if hit.verdict is Verdict.ERROR or (hit.verdict is Verdict.BLOCK and len(blocking) >= policy.combine.k):
                counted.append(hit)
            elif blocking or len(voting) >= policy.combine.k:
                counted.append(_as_review(hit, ReasonCode.TOO_FEW_AGREE if hit.verdict is Verdict.BLOCK else hit.reason.code))
    return counted


def _across_time(hits: Sequence[_Hit], sampling: InputSampling) -> list[_Hit]:
    """A frame over `block_at` blocks as part of a run of k within n consecutive samples; alone it is what
    `isolated_at_block` says. A run only ever raises."""
    by_category: dict[str | None, set[int]] = {}
    for hit in hits:
        if hit.verdict is Verdict.BLOCK:
            by_category.setdefault(hit.reason.category, set()).add(hit.frame)

    def in_run(hit: _Hit) -> bool:
        frames = by_category[hit.reason.category]
        return any(
            sum(start <= frame < start + sampling.run.n for frame in frames) >= sampling.run.k
            for start in range(hit.frame - sampling.run.n + 1, hit.frame + 1)
        )

    return [
        hit
        if hit.verdict is not Verdict.BLOCK or sampling.isolated_at_block is Verdict.BLOCK or in_run(hit)
        else _as_review(hit, ReasonCode.ISOLATED_FRAME)
        for hit in hits
    ]


def _as_review(hit: _Hit, code: ReasonCode) -> _Hit:
    reason = Reason(
        code=code,
        verdict=Verdict.REVIEW,
        category=hit.reason.category,
        score=hit.reason.score,
        threshold=hit.reason.threshold,
        classifier=hit.reason.classifier,
        frame=hit.reason.frame,
        time_us=hit.reason.time_us,
        box=hit.reason.box,
    )
    return _Hit(verdict=Verdict.REVIEW, reason=reason, classifier=hit.classifier, frame=hit.frame)


def _unscreened_reason(what: Unscreened, stage: Stage, policy: Policy) -> Reason:
    return Reason(code=ReasonCode.UNSCREENED_CONTENT, verdict=policy.verdict_on_unscreened(what, stage), detail=str(what))


def _missing(facts: Facts, required: Sequence[ClassifierVersion], sheets: Sequence[ClassifierScores]) -> Iterator[Reason]:
    """What keeps the sheet from being complete. At most one reason per classifier and kind of hole."""
    if facts.frames < 1:
        yield Reason(code=ReasonCode.NO_FRAMES, verdict=Verdict.ERROR)
    if not required:
        yield Reason(code=ReasonCode.NO_CLASSIFIER, verdict=Verdict.ERROR)
    for classifier in required:
        given = [sheet for sheet in sheets if sheet.classifier == classifier]
        if len(given) != 1:
            yield _hole(ReasonCode.SCORE_MISSING, classifier)
            continue
        frames = given[0].frames
        if [frame.frame for frame in frames] != list(range(facts.frames)):
            yield _hole(ReasonCode.FRAMES_SHORT, classifier)
        if any(not frame.scores.keys() >= set(classifier.categories) for frame in frames) or not classifier.categories:
            yield _hole(ReasonCode.SCORE_MISSING, classifier)
        if any(not is_score(score) for frame in frames for score in frame.scores.values()):
            yield _hole(ReasonCode.SCORE_INVALID, classifier)


def _hole(code: ReasonCode, classifier: ClassifierVersion) -> Reason:
    return Reason(code=code, verdict=Verdict.ERROR, classifier=classifier.name)


def _thresholds(stage: Stage, required: Iterable[ClassifierVersion], policy: Policy) -> Iterator[Threshold]:
    """Which thresholds applied to what, for the record."""
    for classifier in required:
        for category in classifier.categories:
            rule = None if policy.is_ignored(category) else policy.rule_for(category, stage, classifier.name)
            yield Threshold(
                category=category,
                classifier=classifier.name,
                block_at=rule.block_at if rule else None,
                review_at=rule.review_at if rule else None,
            )


