"""Policy: frozen, versioned, content-hashed rules; and `decide`, which applies them.

The order in `decide` is the product's promise: what is present and over a threshold blocks,
whatever is missing; anything missing, short or malformed is `error`; only a complete sheet can be
`allow` or `review`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from itertools import pairwise
from typing import Final, NamedTuple

from moderation.canonical import Json, digest
from moderation.decision import Outcome, Reason, ReasonCode, Threshold, Verdict
from moderation.errors import PolicyRefused
from moderation.media import Facts, MediaKind, Stage, Unscreened
from moderation.scores import ClassifierScores, ClassifierVersion, FrameScores, is_score
from moderation.taxonomy import family_of, is_context, is_known

ALL_STAGES: Final = frozenset(Stage)
PER_CENT: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Thresholds for a category (`sexual.nudity_explicit`) or a family (`sexual`).

    A family rule covers the bare family and every class without a rule of its own. A rule that names
    a `classifier` applies to that one's scores only. Thresholds are scores; reaching one counts.
    Raises PolicyRefused on an unknown category and on thresholds that could never act.
    """

    category: str
    block_at: int | None = None
    review_at: int | None = None
    stages: frozenset[Stage] = ALL_STAGES
    classifier: str | None = None

    def __post_init__(self) -> None:
        if not is_known(self.category):
            raise PolicyRefused(f"rule for {self.category!r}: not a category")
        given = [t for t in (self.review_at, self.block_at) if t is not None]
        if not given:
            raise PolicyRefused(f"rule for {self.category}: give block_at, review_at or both")
        if not all(is_score(t) and t > 0 for t in given):
            raise PolicyRefused(f"rule for {self.category}: thresholds lie in (0, 1], as integers of 1e-6")
        if given != sorted(given):
            raise PolicyRefused(f"rule for {self.category}: review_at is above block_at and could never act")
        if not self.stages:
            raise PolicyRefused(f"rule for {self.category}: no stages")
        if self.block_at is not None and is_context(self.category):
            raise PolicyRefused(f"rule for {self.category}: context describes and never blocks")


@dataclass(frozen=True, slots=True, kw_only=True)
class KOfN:
    """At least `k` of exactly `n`: classifiers that agree on a family, or consecutive samples in time."""

    k: int
    n: int

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.n:
            raise PolicyRefused(f"k of n needs 1 <= k <= n, got {self.k} of {self.n}")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSampling:
    """Which instants of an uploaded video are looked at, and what a lone hit in it or in an animation means.

    Where a score reaches `near_percent` of the lowest threshold of its rule, the frames up to the next instants on both sides are
    looked at too. `cuts_left_out` is what it means that a video has more scene cuts than are looked at.
    """

    interval_ms: int = 500
    min_frames: int = 8
    first_and_last: bool = True
    scene_cuts: bool = True
    isolated_at_block: Verdict = Verdict.REVIEW
    run: KOfN = field(default_factory=lambda: KOfN(k=2, n=3))
    near_percent: int = 50
    cuts_left_out: Verdict = Verdict.REVIEW

    def __post_init__(self) -> None:
        if not 1 <= self.near_percent <= PER_CENT:
            raise PolicyRefused("video.input.near: above 0 and at most 1")
        if self.isolated_at_block not in (Verdict.REVIEW, Verdict.BLOCK):
            raise PolicyRefused("video.input.isolated_at_block: review or block")
        if self.cuts_left_out is Verdict.ERROR:
            raise PolicyRefused("video.input.cuts_left_out: allow, review or block")
        if self.interval_ms <= 0 or self.min_frames < 1:
            raise PolicyRefused("video.input: interval_s and min_frames must be positive")


class Consent(StrEnum):
    """Whether a transform must carry a statement about a face: the source's (`consent`), the target's (`target_consent`)."""

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

    def __post_init__(self) -> None:
        for limit in fields(self):
            if getattr(self, limit.name) < 1:
                raise PolicyRefused(f"limits.{limit.name} must be positive")

    def admit(self, size: int, facts: Facts) -> bool:
        """Whether a decoded media of `size` bytes lies within them."""
        if facts.width * facts.height > self.image_pixels:
            return False
        if facts.kind is MediaKind.VIDEO:
            return size <= self.video_bytes and (facts.duration_us or 0) <= self.video_seconds * 1_000_000
        return size <= self.image_bytes and facts.frames <= self.frames


NEAR_PERCENT: Final = InputSampling().near_percent
CUTS_LEFT_OUT: Final = InputSampling().cuts_left_out
_SOURCES: Final = ("any", "catalogue")
_STREAMS: Final = ("off", "labelled")
_AUDIO: Final = ("keep", "drop")
_UNSCREENED_DEFAULT: Final[Mapping[Unscreened, Verdict]] = {
    Unscreened.AUDIO: Verdict.ALLOW,
    Unscreened.TRAILING_DATA: Verdict.REVIEW,
    Unscreened.GAIN_MAP: Verdict.REVIEW,
    Unscreened.THUMBNAIL: Verdict.ALLOW,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One version of one policy. `digest` names its content; `name` and `version` name its place.

    `combine` None means `max`: every score counts against its rule, which is sound over calibrated
    scores or a single classifier. `k of n` counts, frame by frame and within one family, the
    classifiers whose score reaches their own threshold: k over `block_at` block; k over any threshold
    are held; fewer count for nothing, except that one alone over `block_at` is held as well, since a
    disagreement about that is no all-clear.

    Raises PolicyRefused if empty or self-contradictory. Whether it fits the configured classifiers is a
    separate question, answered by `check_coverage`.
    """

    name: str
    version: int
    rules: tuple[Rule, ...]
    ignore: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    """Categories, or families, without a score of which nothing is allowed: a rule that no classifier serves stops nothing."""
    combine: KOfN | None = None
    sampling: InputSampling = field(default_factory=InputSampling)
    unscreened: Mapping[Unscreened, Verdict] = field(default_factory=lambda: dict(_UNSCREENED_DEFAULT))
    unscreened_by_stage: Mapping[Stage, Mapping[Unscreened, Verdict]] = field(default_factory=dict)
    consent: Consent = Consent.REQUIRED
    target_consent: Consent = Consent.OPTIONAL
    sources: str = "any"
    """`catalogue`: only faces of the tenant's catalogue of approved ones."""
    label_visible: bool = True
    stream: str = "off"
    audio: str = "keep"
    limits: PolicyLimits = field(default_factory=PolicyLimits)
    digest: str = field(init=False, compare=False)
    """`sha256:<hex>` of the content, without name and version."""
    _index: Mapping[tuple[str, str | None, Stage], Rule] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.rules:
            raise PolicyRefused("a policy without rules would allow everything")
        self._check_categories()
        for verdicts in (self.unscreened, *self.unscreened_by_stage.values()):
            if Verdict.ERROR in verdicts.values():
                raise PolicyRefused("unscreened: allow, review or block")
        if self.stream not in _STREAMS or self.audio not in _AUDIO or self.sources not in _SOURCES:
            raise PolicyRefused(f"stream is one of {_STREAMS}, audio one of {_AUDIO}, sources one of {_SOURCES}")
        # Worked out once, since both are asked for on every decision; `content` reads neither.
        object.__setattr__(self, "_index", _index_of(self.rules))
        object.__setattr__(self, "digest", digest(self.content()))

    def _check_categories(self) -> None:
        for pattern in self.ignore:
            category = pattern.removesuffix(".*")
            if not is_known(category) or (pattern != category and category != family_of(category)):
                raise PolicyRefused(f"ignore {pattern!r}: a category, or a family with .*")
        for rule in self.rules:
            if self.is_ignored(rule.category):
                raise PolicyRefused(f"{rule.category} has a rule and is ignored")
        for category in self.requires:
            if not is_known(category):
                raise PolicyRefused(f"requires {category!r}: not a category")
            if self.is_ignored(category):
                raise PolicyRefused(f"{category} is required and ignored")

    def is_ignored(self, category: str) -> bool:
        """Whether the policy explicitly leaves this category alone. `ctx.*` covers `ctx` and every `ctx.…`."""
        return category in self.ignore or f"{family_of(category)}.*" in self.ignore

    def rule_for(self, category: str, stage: Stage, classifier: str) -> Rule | None:
        """The most particular rule: class before family, named classifier before any."""
        for wanted in (category, family_of(category)):
            for name in (classifier, None):
                rule = self._index.get((wanted, name, stage))
                if rule is not None:
                    return rule
        return None

    def verdict_on_unscreened(self, what: Unscreened, stage: Stage) -> Verdict:
        """What it means that something was present and not judged; unknown kinds are held."""
        by_stage = self.unscreened_by_stage.get(stage, {})
        return by_stage.get(what, self.unscreened.get(what, Verdict.REVIEW))

    def content(self) -> dict[str, Json]:
        """The rules as canonical JSON; scores as integers. This is what is hashed and stored.

        What came later than the first policies is left out where it says nothing new, so that their digests stay.
        """
        later: dict[str, Json] = {}
        if self.target_consent is not Consent.OPTIONAL:
            later["target_consent"] = str(self.target_consent)
        if self.sources != "any":
            later["sources"] = self.sources
        if self.requires:
            later["requires"] = sorted(self.requires)
        return {
            **later,
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
                    **({"near_percent": self.sampling.near_percent} if self.sampling.near_percent != NEAR_PERCENT else {}),
                    **({"cuts_left_out": str(self.sampling.cuts_left_out)} if self.sampling.cuts_left_out != CUTS_LEFT_OUT else {}),
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


def _index_of(rules: Iterable[Rule]) -> dict[tuple[str, str | None, Stage], Rule]:
    """Rules by what they are looked up with."""
    index: dict[tuple[str, str | None, Stage], Rule] = {}
    for rule in rules:
        for stage in rule.stages:
            key = (rule.category, rule.classifier, stage)
            if key in index:
                raise PolicyRefused(f"two rules for {rule.category} at stage {stage}")
            index[key] = rule
    return index


def check_coverage(policy: Policy, classifiers: Sequence[ClassifierVersion]) -> None:
    """Refuse a policy that leaves open what a configured classifier can say, or that no classifier serves.

    Every category that can be emitted must have a rule or an explicit ignore at every stage; scores of
    different classifiers may be compared only if all are calibrated, or the rules name their classifier;
    `k of n` must count the classifiers that are there, and what is required must be among what they can say. Raises PolicyRefused.
    """
    names = [c.name for c in classifiers]
    if not any(_judged(policy, c) for c in classifiers):
        raise PolicyRefused(f"policy {policy.name}: no configured classifier judges anything under it")
    if len(set(names)) != len(names):
        raise PolicyRefused(f"two classifiers share a name: {sorted(names)}")
    for named, category in ((rule.classifier, rule.category) for rule in policy.rules):
        if named is not None and named not in names:
            raise PolicyRefused(f"policy {policy.name}: rule for {category} names unknown classifier {named}")
    unmet = _unmet(policy, classifiers)
    if unmet:
        raise PolicyRefused(f"policy {policy.name} requires {', '.join(unmet)}, and no configured classifier says anything about it")
    for classifier in classifiers:
        _check_rules(policy, classifier)
    by_family: dict[str, list[ClassifierVersion]] = {}
    for classifier in classifiers:
        for family in dict.fromkeys(map(family_of, _judged(policy, classifier))):
            by_family.setdefault(family, []).append(classifier)
    for family, members in by_family.items():
        _check_combination(policy, family, members)


def _check_rules(policy: Policy, classifier: ClassifierVersion) -> None:
    """Whether everything that one classifier can say is ruled on or ignored."""
    if not classifier.categories:
        raise PolicyRefused(f"classifier {classifier.name} declares no categories")
    for category, stage, rule in _rules_on(policy, classifier):
        if rule is None:
            raise PolicyRefused(
                f"policy {policy.name}: {category} from {classifier.name} has no rule at stage {stage};"
                " add one, a rule for its family, or an explicit ignore"
            )


def _check_combination(policy: Policy, family: str, members: Sequence[ClassifierVersion]) -> None:
    """Whether the scores of all classifiers that judge one family may be combined as the policy says."""
    if policy.combine is not None:
        if len(members) != policy.combine.n:
            raise PolicyRefused(f"policy {policy.name}: {policy.combine.k} of {policy.combine.n}, but {len(members)} judge {family}")
        return
    if len(members) == 1 or all(m.calibrated for m in members):
        return
    for member in members:
        for category, _, rule in _rules_on(policy, member):
            if family_of(category) == family and (rule is None or rule.classifier is None):
                raise PolicyRefused(
                    f"policy {policy.name}: {category} comes from uncalibrated classifiers"
                    f" {sorted(m.name for m in members)}; a rule must name its classifier, or use k of n"
                )


def _judged(policy: Policy, classifier: ClassifierVersion) -> list[str]:
    """The classifier's categories that the policy does not ignore."""
    return [category for category in classifier.categories if not policy.is_ignored(category)]


def _unmet(policy: Policy, classifiers: Iterable[ClassifierVersion]) -> list[str]:
    """What the policy requires and none of these judges."""
    heard = {name for classifier in classifiers for category in _judged(policy, classifier) for name in (category, family_of(category))}
    return sorted(set(policy.requires) - heard)


def _rules_on(policy: Policy, classifier: ClassifierVersion) -> Iterator[tuple[str, Stage, Rule | None]]:
    for category in _judged(policy, classifier):
        for stage in Stage:
            yield category, stage, policy.rule_for(category, stage, classifier.name)


# --- decide -------------------------------------------------------------------------------------


class _Hit(NamedTuple):
    """One score over one threshold, or without a rule."""

    verdict: Verdict
    code: ReasonCode
    category: str
    score: int
    threshold: int | None
    classifier: str
    frame: FrameScores


def decide(
    *,
    stage: Stage,
    facts: Facts,
    required: Sequence[ClassifierVersion],
    sheets: Sequence[ClassifierScores],
    policy: Policy,
) -> Outcome:
    """Turn scores into a verdict with reasons. Pure: the same arguments give the same answer for ever.

    `required` are the classifiers that had to answer, each for every one of `facts.frames` frames. The
    order of sheets and of frames within them does not matter. Never raises on malformed scores: they
    make the verdict `error`, unless what is well-formed blocks; so does a classifier that the policy counts on
    and that is not among the required, and a category that it requires and nobody gave scores for, since a policy
    outlives the classifiers it was checked against.
    """
    hits = _across_classifiers(list(_hits(stage, sheets, policy)), policy.combine)
    if facts.kind is not MediaKind.IMAGE and stage is not Stage.OUTPUT:
        hits = _across_time(hits, facts, policy.sampling)
    reasons = [*_strongest(hits), *_unscreened(facts, stage, policy), *_cuts_left_out(facts, policy)]
    missing = [*_missing(facts, stage, required, sheets), *_unheard(stage, required, sheets, policy)]

    verdict = max((reason.verdict for reason in reasons), key=_RANK.__getitem__, default=Verdict.ALLOW)
    if missing and verdict is not Verdict.BLOCK:
        verdict = Verdict.ERROR
    return Outcome(
        verdict=verdict,
        reasons=tuple(sorted([*reasons, *missing], key=_order)),
        thresholds=tuple(thresholds_under(stage, required, policy)),
    )


_RANK: Final = {Verdict.ALLOW: 0, Verdict.REVIEW: 1, Verdict.ERROR: 2, Verdict.BLOCK: 3}


def _order(reason: Reason) -> tuple[int, int, str, str, str, str]:
    """Gravest first, then by score; the rest only makes the order the same every time."""
    return (
        -_RANK[reason.verdict],
        -(reason.score or 0),
        reason.category or "",
        reason.classifier or "",
        reason.code,
        reason.detail or "",
    )


def _hits(stage: Stage, sheets: Iterable[ClassifierScores], policy: Policy) -> Iterator[_Hit]:
    """Every score that reaches a threshold of its rule, or has no rule; malformed ones are for `_missing`."""
    for sheet in sheets:
        name = sheet.classifier.name
        present = {category for frame in sheet.frames for category in frame.scores}
        rules = {category: policy.rule_for(category, stage, name) for category in present if not policy.is_ignored(category)}
        for frame in sheet.frames:
            for category, score in frame.scores.items():
                if category not in rules or not is_score(score):
                    continue
                rule = rules[category]
                if rule is None:
                    yield _Hit(Verdict.ERROR, ReasonCode.UNCOVERED_CATEGORY, category, score, None, name, frame)
                elif rule.block_at is not None and score >= rule.block_at:
                    yield _Hit(Verdict.BLOCK, ReasonCode.OVER_BLOCK_THRESHOLD, category, score, rule.block_at, name, frame)
                elif rule.review_at is not None and score >= rule.review_at:
                    yield _Hit(Verdict.REVIEW, ReasonCode.OVER_REVIEW_THRESHOLD, category, score, rule.review_at, name, frame)


def _across_classifiers(hits: list[_Hit], combine: KOfN | None) -> list[_Hit]:
    """What counts once classifiers are heard together; see `Policy` for what k of n means."""
    if combine is None:
        return hits
    voters: dict[tuple[int, str, Verdict], set[str]] = {}
    for hit in hits:
        voters.setdefault((hit.frame.frame, family_of(hit.category), hit.verdict), set()).add(hit.classifier)
    counted = []
    for hit in hits:
        place = (hit.frame.frame, family_of(hit.category))
        blocking = voters.get((*place, Verdict.BLOCK), set())
        holding = voters.get((*place, Verdict.REVIEW), set())
        if hit.verdict is Verdict.BLOCK and len(blocking) < combine.k:
            counted.append(hit._replace(verdict=Verdict.REVIEW, code=ReasonCode.TOO_FEW_AGREE))
        elif hit.verdict is not Verdict.REVIEW or blocking or len(holding) >= combine.k:
            counted.append(hit)
    return counted


def _across_time(hits: list[_Hit], facts: Facts, sampling: InputSampling) -> list[_Hit]:
    """What counts once frames are seen in sequence.

    A frame over `block_at` blocks as part of a run, k hits of one family within n consecutive frames of those that were looked
    at; alone it is what `isolated_at_block` says. Where there are fewer than k frames, all of them are a run,
    so that a picture does not weigh less for being wrapped as an animation. Frames that were looked at only because of a near hit
    can make a run and never break one: a run is looked for with them and without them.
    """
    if sampling.isolated_at_block is Verdict.BLOCK:
        return hits
    needed = max(1, min(sampling.run.k, facts.frames))
    blocking: dict[str, set[int]] = {}
    for hit in hits:
        if hit.verdict is Verdict.BLOCK:
            blocking.setdefault(family_of(hit.category), set()).add(hit.frame.frame)
    dense = frozenset(facts.dense)
    sequences = [facts.frame_numbers()]
    if dense:
        sequences.append(tuple(number for number in sequences[0] if number not in dense))
    in_run = {
        family: set().union(*(_in_run(_places(frames, seen), needed, sampling.run.n) for seen in sequences))
        for family, frames in blocking.items()
    }
    return [
        hit._replace(verdict=Verdict.REVIEW, code=ReasonCode.ISOLATED_FRAME)
        if hit.verdict is Verdict.BLOCK and hit.frame.frame not in in_run[family_of(hit.category)]
        else hit
        for hit in hits
    ]


def _places(frames: Collection[int], seen: Sequence[int]) -> list[tuple[int, int]]:
    """(place among those `seen`, number) of `frames`, ascending."""
    return [(place, number) for place, number in enumerate(seen) if number in frames]


def _in_run(hits: Sequence[tuple[int, int]], k: int, n: int) -> set[int]:
    """The numbers of those `hits` whose places lie with k - 1 others' within n consecutive places."""
    members: set[int] = set()
    for first in range(len(hits) - k + 1):
        run = hits[first : first + k]
        if run[-1][0] - run[0][0] < n:
            members.update(number for _, number in run)
    return members


MOST_DENSE: Final = 240
"""Frames that one video is looked at more closely for. More would let a caller make every video cost as much as all of its frames."""


def closer(*, stage: Stage, facts: Facts, sheets: Sequence[ClassifierScores], policy: Policy) -> tuple[int, ...]:
    """The numbers of the frames that a second look is for, ascending: those between each near hit and the samples next to it.

    Places with higher scores come first where that would be more than `MOST_DENSE`. Pure.
    """
    if stage is Stage.OUTPUT or not facts.sampled:
        return ()
    gaps: dict[tuple[int, int], int] = {}
    places = {number: place for place, number in enumerate(facts.sampled)}
    for number, score in _near(stage, sheets, policy).items():
        place = places.get(number)
        if place is None:
            continue
        around = facts.sampled[max(place - 1, 0) : place + 2]
        for gap in pairwise(around):
            gaps[gap] = max(score, gaps.get(gap, 0))
    wanted: list[int] = []
    for first, last in sorted(gaps, key=lambda gap: (-gaps[gap], gap)):
        between, room = range(first + 1, last), MOST_DENSE - len(wanted)
        wanted += between if len(between) <= room else between[:: -(-len(between) // room)] if room else ()
    return tuple(sorted(wanted))


def _near(stage: Stage, sheets: Iterable[ClassifierScores], policy: Policy) -> dict[int, int]:
    """Frames with a score not far below a threshold, or above it, and the highest such score of each in per mille of its threshold."""
    found: dict[int, int] = {}
    for sheet in sheets:
        for category in sheet.classifier.categories:
            rule = None if policy.is_ignored(category) else policy.rule_for(category, stage, sheet.classifier.name)
            if rule is None:
                continue
            lowest = min(threshold for threshold in (rule.review_at, rule.block_at) if threshold is not None)
            for frame in sheet.frames:
                score = frame.scores.get(category, 0)
                if score * PER_CENT >= lowest * policy.sampling.near_percent:
                    found[frame.frame] = max(found.get(frame.frame, 0), score * 1000 // lowest)
    return found


def _strongest(hits: Iterable[_Hit]) -> Iterator[Reason]:
    """One reason per verdict, category and classifier: the highest score, in the earliest frame that has it."""
    strongest: dict[tuple[Verdict, str, str], _Hit] = {}
    for hit in hits:
        key = (hit.verdict, hit.category, hit.classifier)
        known = strongest.get(key)
        if known is None or (hit.score, -hit.frame.frame) > (known.score, -known.frame.frame):
            strongest[key] = hit
    for hit in strongest.values():
        yield Reason(
            code=hit.code,
            verdict=hit.verdict,
            category=hit.category,
            score=hit.score,
            threshold=hit.threshold,
            classifier=hit.classifier,
            frame=hit.frame.frame,
            time_us=hit.frame.time_us,
            box=hit.frame.boxes.get(hit.category),
        )


def _unscreened(facts: Facts, stage: Stage, policy: Policy) -> Iterator[Reason]:
    for what in facts.unscreened:
        verdict = policy.verdict_on_unscreened(what, stage)
        if verdict is not Verdict.ALLOW:
            yield Reason(code=ReasonCode.UNSCREENED_CONTENT, verdict=verdict, detail=str(what))


def _cuts_left_out(facts: Facts, policy: Policy) -> Iterator[Reason]:
    verdict = policy.sampling.cuts_left_out
    if facts.cuts_left_out and verdict is not Verdict.ALLOW:
        yield Reason(code=ReasonCode.CUTS_LEFT_OUT, verdict=verdict, detail=str(facts.cuts_left_out))


def _missing(facts: Facts, stage: Stage, required: Sequence[ClassifierVersion], sheets: Sequence[ClassifierScores]) -> Iterator[Reason]:
    """What keeps the sheets from being exactly what was asked for. At most one reason per classifier and kind of hole."""
    if facts.sampled and stage is Stage.OUTPUT:  # of what we made ourselves every frame is judged
        yield Reason(code=ReasonCode.FRAMES_SHORT, verdict=Verdict.ERROR)
    if facts.frames < 1:
        yield Reason(code=ReasonCode.NO_FRAMES, verdict=Verdict.ERROR)
    if not required:
        yield Reason(code=ReasonCode.NO_CLASSIFIER, verdict=Verdict.ERROR)
    for classifier in required:
        given = [sheet for sheet in sheets if sheet.classifier == classifier]
        if not given or not classifier.categories:
            yield _hole(ReasonCode.SCORE_MISSING, classifier)
        elif len(given) > 1:
            yield _hole(ReasonCode.UNEXPECTED_SCORES, classifier)
        else:
            yield from _holes(given[0], facts)
    for sheet in sheets:
        if sheet.classifier not in required:
            yield _hole(ReasonCode.UNEXPECTED_SCORES, sheet.classifier)


def _unheard(stage: Stage, required: Sequence[ClassifierVersion], sheets: Sequence[ClassifierScores], policy: Policy) -> Iterator[Reason]:
    """Classifiers that the policy counts on and nobody asked, and categories that it requires and nobody scored.

    Without them less would have to agree on an allow.
    """
    named = {rule.classifier for rule in policy.rules if rule.classifier is not None and stage in rule.stages}
    for name in sorted(named - {classifier.name for classifier in required}):
        yield Reason(code=ReasonCode.SCORE_MISSING, verdict=Verdict.ERROR, classifier=name)
    unheard = {*_unmet(policy, (sheet.classifier for sheet in sheets)), *_short(required, policy)}
    for category in sorted(unheard):
        yield Reason(code=ReasonCode.SCORE_MISSING, verdict=Verdict.ERROR, category=category)


def _short(required: Sequence[ClassifierVersion], policy: Policy) -> Iterator[str]:
    """Families with fewer voices than the policy's n."""
    if policy.combine is None:
        return
    voices = Counter(family for classifier in required for family in {*map(family_of, _judged(policy, classifier))})
    unknown = sum(not classifier.categories for classifier in required)  # in an entry, those that gave no sheet; missing all the same
    yield from (family for family, count in voices.items() if count + unknown < policy.combine.n)


def _holes(sheet: ClassifierScores, facts: Facts) -> Iterator[Reason]:
    """What is wrong with the one sheet of a classifier."""
    classifier, declared = sheet.classifier, frozenset(sheet.classifier.categories)
    if len(sheet.frames) != facts.frames or sorted(row.frame for row in sheet.frames) != list(facts.frame_numbers()):
        yield _hole(ReasonCode.FRAMES_SHORT, classifier)
    missing: set[str] = set()
    undeclared: set[str] = set()
    invalid: set[str] = set()
    for row in sheet.frames:
        if row.scores.keys() != declared:
            missing |= declared - row.scores.keys()
            undeclared |= row.scores.keys() - declared
        if not all(map(is_score, row.scores.values())):
            invalid |= {category for category, score in row.scores.items() if not is_score(score)}
    for code, categories in (
        (ReasonCode.SCORE_MISSING, missing),
        (ReasonCode.UNEXPECTED_SCORES, undeclared),
        (ReasonCode.SCORE_INVALID, invalid),
    ):
        if categories:
            yield _hole(code, classifier, min(categories))


def _hole(code: ReasonCode, classifier: ClassifierVersion, category: str | None = None) -> Reason:
    return Reason(code=code, verdict=Verdict.ERROR, classifier=classifier.name, category=category)


def thresholds_under(stage: Stage, required: Iterable[ClassifierVersion], policy: Policy) -> Iterator[Threshold]:
    """Which thresholds apply to what, for the record."""
    for classifier in required:
        for category in classifier.categories:
            rule = None if policy.is_ignored(category) else policy.rule_for(category, stage, classifier.name)
            yield Threshold(
                category=category,
                classifier=classifier.name,
                block_at=rule.block_at if rule else None,
                review_at=rule.review_at if rule else None,
            )
