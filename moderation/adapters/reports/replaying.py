"""Policy replay and model comparison: what another policy, or one classifier alone, would have said of the stored scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any, Final, TypeAlias

import numpy as np
from sqlalchemy import Connection, text

from moderation.adapters.policies import policy_from_content
from moderation.adapters.reports.statement import Row, Statement
from moderation.adapters.reports.stored_scores import Day, Plain, Silent, StoredScores, Whole
from moderation.decision import Verdict
from moderation.errors import PolicyRefused
from moderation.policy import Policy
from moderation.replay import Replay
from moderation.reports import PERIOD, Asked, Key, Kind, Parameter, ParameterRefused, Report, columns, share_with_interval

_MOST_VERSION: Final = 10**9


def _replayed(connection: Connection, parameters: Mapping[str, Any]) -> Iterator[Sequence[Row]]:
    """One row for each day, stage, verdict and replayed verdict."""
    policy = _policy(connection, parameters)
    if policy is None:  # another tenant has it: see `Statement.refusal`
        return
    replay = Replay(policy)
    counts: dict[tuple[str, str, str], tuple[int, str]] = {}
    current: date | None = None
    for day in StoredScores(connection, parameters).days():
        if day.day != current and counts:
            yield _rows(current, counts)
            counts = {}
        current = day.day
        for key, count, example in _cases(replay, day):
            before, first = counts.get(key, (0, example))
            counts[key] = before + count, min(first, example)
    if counts:
        yield _rows(current, counts)


def _cases(replay: Replay, day: Day) -> Iterator[tuple[tuple[str, str, str], int, str]]:
    for plain in day.plain:
        for verdict, count, row in replay.many(plain.which, plain.scores):
            yield (str(plain.which.stage), plain.verdict, str(verdict)), count, plain.ids[row]
    for whole in day.whole:
        yield (str(whole.stage), whole.verdict, str(_again(replay, whole))), 1, str(whole.id)


def _again(replay: Replay, whole: Whole) -> Verdict:
    """What could not be opened, and what was never heard, stays without a judgement whatever the policy."""
    if whole.facts is None:
        return Verdict.ERROR
    return replay.once(stage=whole.stage, facts=whole.facts, required=whole.required, sheets=whole.sheets)


def _rows(day: date | None, counts: Mapping[tuple[str, str, str], tuple[int, str]]) -> list[Row]:
    return [
        (day, stage, was, would, was != would, count, f"dec_{example.replace('-', '')}", day, stage, was, would)
        for (stage, was, would), (count, example) in sorted(counts.items())
    ]


def _policy(connection: Connection, parameters: Mapping[str, Any]) -> Policy | None:
    """The policy that was sent, or the stored one that is asked for, if the tenant has it. Raises ParameterRefused."""
    if "content" in parameters:
        sent: Policy = parameters["content"]
        return sent
    row = connection.execute(_POLICY, parameters).one_or_none()
    if row is None:
        return None
    try:
        return policy_from_content(row.name, row.version, row.content)
    except PolicyRefused:
        raise ParameterRefused("policy", "its content cannot be read") from None


def _no_policy(connection: Connection, parameters: Mapping[str, Any]) -> ParameterRefused | None:
    if _policy(connection, parameters) is not None:
        return None
    return ParameterRefused("policy" if parameters["version"] is None else "version", "there is no such policy")


_POLICY: Final = text("""
SELECT name, version, content FROM facegate.policy
WHERE tenant = :tenant AND name = :policy AND version = coalesce(:version, version) ORDER BY version DESC LIMIT 1
""")

_REPLAY_KEYS: Final = (Key("day", "date"), Key("stage", "text"), Key("verdict", "text"), Key("replayed", "text"))

POLICY_REPLAY: Final = Statement(
    report=Report(
        name="policy_replay",
        title="What another policy would have decided on the stored scores",
        parameters=(
            *PERIOD,
            Parameter(name="policy", asked=Asked.TEXT, title="Which policy of the tenant.", required=True, most=64),
            Parameter(name="version", asked=Asked.INTEGER, title="Which version; by default the newest.", most=_MOST_VERSION),
        ),
        columns=columns(
            ("day", Kind.DAY, "Day in UTC"),
            ("stage", Kind.TEXT, "Stage"),
            ("verdict", Kind.TEXT, "What was decided"),
            ("replayed", Kind.TEXT, "What the policy would have decided; `error` where the stored scores do not tell"),
            ("differs", Kind.FLAG, "Whether the two differ"),
            ("decisions", Kind.INTEGER, "How many"),
            ("example", Kind.TEXT, "The first of them"),
        ),
        keys=_REPLAY_KEYS,
        totals={},
    ),
    fold=_replayed,
    refusal=_no_policy,
)

# --- model comparison -----------------------------------------------------------------------------

_RANK: Final = ("allow", "review", "block")
_DECIDING: Final = "deciding"
_SHADOW: Final = "shadow"
_Told: TypeAlias = tuple[str, str, str, str, str, str]
"""Stage, classifier, its version, its role, what was decided, what it alone says."""


def _compared(connection: Connection, parameters: Mapping[str, Any]) -> Iterator[Sequence[Row]]:
    """One row for each stage, classifier, verdict and what the classifier alone says; known once all is read."""
    stored = StoredScores(connection, parameters)
    judges: dict[bytes, dict[str, dict[str, tuple[int, int]]]] = {}
    counts: dict[_Told, tuple[int, str]] = {}

    def add(key: _Told, count: int, example: str) -> None:
        before, first = counts.get(key, (0, example))
        counts[key] = before + count, min(first, example)

    for day in stored.days():
        for plain in day.plain:
            for key, count, example in _alone(plain, _judges(judges, stored, plain.thresholds), _DECIDING):
                add(key, count, example)
        for whole in day.whole:
            known = _judges(judges, stored, whole.thresholds)
            for sheet in whole.sheets:
                version = sheet.classifier
                thresholds = known.get(version.name, {})
                levels = [_level(score, thresholds[category]) for category, score in sheet.peak().items() if category in thresholds]
                alone = _RANK[max(levels, default=0)] if levels else "none"
                add((str(whole.stage), version.name, version.version, _DECIDING, whole.verdict, alone), 1, str(whole.id))
    for heard in stored.shadows():
        if isinstance(heard, Silent):
            add((str(heard.stage), heard.name, "", _SHADOW, heard.verdict, Verdict.ERROR.value), len(heard.ids), heard.ids[0])
            continue
        for key, count, example in _alone(heard, _judges(judges, stored, heard.thresholds), _SHADOW):
            add(key, count, example)
    yield [_compared_row(key, counts) for key in sorted(counts)]


def _alone(plain: Plain, known: Mapping[str, Mapping[str, tuple[int, int]]], role: str) -> Iterator[tuple[_Told, int, str]]:
    place = 0
    for version in plain.which.classifiers:
        scores = plain.scores[:, place : place + len(version.categories)]
        place += len(version.categories)
        thresholds = known.get(version.name, {})
        wanted = [column for column, category in enumerate(version.categories) if category in thresholds]
        which = (str(plain.which.stage), version.name, version.version, role, plain.verdict)
        if not wanted:
            yield (*which, "none"), len(plain.ids), plain.ids[0]
            continue
        limits = np.array([thresholds[version.categories[column]] for column in wanted], np.int64)
        worst = ((scores[:, wanted] >= limits[:, 0]).astype(np.int8) + (scores[:, wanted] >= limits[:, 1])).max(axis=1)
        for level, first, count in zip(*(part.tolist() for part in np.unique(worst, return_index=True, return_counts=True)), strict=True):
            yield (*which, _RANK[level]), count, plain.ids[first]


def _judges(
    known: dict[bytes, dict[str, dict[str, tuple[int, int]]]], stored: StoredScores, name: bytes
) -> dict[str, dict[str, tuple[int, int]]]:
    """(review, block) by classifier and category, of those thresholds that could act."""
    if name not in known:
        found: dict[str, dict[str, tuple[int, int]]] = {}
        for row in stored.applied(name):
            if row["block_at"] is None and row["review_at"] is None:
                continue
            block = row["block_at"] if row["block_at"] is not None else 10**7
            found.setdefault(row["classifier"], {})[row["category"]] = (row["review_at"] if row["review_at"] is not None else block, block)
        known[name] = found
    return known[name]


def _level(score: int, limits: tuple[int, int]) -> int:
    return (score >= limits[0]) + (score >= limits[1])


def _compared_row(key: _Told, counts: Mapping[_Told, tuple[int, str]]) -> Row:
    count, example = counts[key]
    judged = sum(many for other, (many, _) in counts.items() if other[:4] == key[:4])
    share, low, high = share_with_interval(count, judged)
    return (*key, key[4] == key[5], count, share, low, high, f"dec_{example.replace('-', '')}", *key)


MODEL_COMPARISON: Final = Statement(
    report=Report(
        name="model_comparison",
        title="What each classifier alone would have said, against what was decided",
        parameters=PERIOD,
        columns=columns(
            ("stage", Kind.TEXT, "Stage"),
            ("classifier", Kind.TEXT, "Classifier"),
            ("version", Kind.TEXT, "Its version"),
            ("role", Kind.TEXT, "`deciding`, or `shadow`: it was asked and had no say"),
            ("verdict", Kind.TEXT, "What was decided"),
            (
                "alone",
                Kind.TEXT,
                "What its highest scores alone say under the thresholds that applied, or would have; `none`: there were none; `error`: no scores",
            ),
            ("agrees", Kind.FLAG, "Whether the two are the same"),
            ("decisions", Kind.INTEGER, "How many"),
            ("share", Kind.SHARE, "Of all decisions of this stage that this version was heard in"),
            ("low", Kind.SHARE, "Wilson interval, lower end"),
            ("high", Kind.SHARE, "Wilson interval, upper end"),
            ("example", Kind.TEXT, "The first of them"),
        ),
        keys=tuple(Key(name, "text") for name in ("stage", "classifier", "version", "role", "verdict", "alone")),
        totals={},
    ),
    fold=_compared,
)
