"""Stored scores as they are read for replay and comparison: many decisions at once, in tables where they are about one picture each.

A row of the record is a few hundred bytes of JSON; what costs is not deciding but reading. So Postgres hands over only the scores of
complete decisions about one picture, four bytes each, many decisions in one piece, and only what is not plain comes whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, TextClause, text

from moderation.adapters.decision_rows import classifier_of, sheet_of
from moderation.adapters.reports.statement import SLACK_AFTER, SLACK_BEFORE, in_period, uuid_floor
from moderation.audit import read_facts
from moderation.frames import Fit, InputSpec
from moderation.media import Facts, Stage, Unscreened
from moderation.replay import Circumstances, columns_of
from moderation.scores import ONE, ClassifierScores, ClassifierVersion

PORTION: Final = 20_000
"""Decisions that are read at once."""
_ID_BYTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """One decision that is not plain, with everything that it was made of. `facts` is None where nothing could be opened."""

    id: UUID
    verdict: str
    stage: Stage
    thresholds: bytes
    facts: Facts | None
    required: tuple[ClassifierVersion, ...]
    sheets: tuple[ClassifierScores, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """Complete decisions about one picture each, of one day, verdict and circumstances; `scores` is (N, columns), int64."""

    verdict: str
    which: Circumstances
    thresholds: bytes
    ids: Ids
    scores: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Silent:
    """Decisions for whose media a shadow classifier has no scores. `name` is its own, or the one under which it is configured."""

    verdict: str
    stage: Stage
    name: str
    ids: Ids


@dataclass(slots=True)
class Day:
    """What was decided on a day, as far as it has been read."""

    day: date
    plain: list[Plain] = field(default_factory=list)
    whole: list[Whole] = field(default_factory=list)


_COMPLETE: Final = """
(d.verdict IN ('allow', 'review') OR (d.verdict = 'block' AND NOT d.reasons @> '[{"verdict": "error"}]'))
AND d.media_facts @> '{"kind": "image", "frames": 1}' AND cardinality(d.classifiers) > 0
"""

_HOURS: Final = text(f"""
SELECT date_bin('1 hour', d.created_at, '2000-01-01') AS hour, count(*) AS decisions FROM facegate.decision d
WHERE {in_period("d")} GROUP BY 1 ORDER BY 1
""")  # noqa: S608  # pieces of ours

# What is not plain is a group by itself. Aggregates of one group take its rows in one order, so that scores and ids go together.
# OFFSET: what is looked into by several is taken out of a row once.
_GROUPS: Final = """
SELECT day, stage, verdict, classifiers::text AS classifiers, thresholds::text, unscreened, string_agg(uuid_send(id), ''), string_agg({scores}, ''), max(rest) AS rest
FROM (
    SELECT d.id, d.created_at::date AS day, d.stage, d.verdict, d.classifiers, d.thresholds,
           CASE WHEN plain THEN (d.media_facts->'unscreened')::text END AS unscreened, CASE WHEN NOT plain THEN d.id END AS odd, {sheets}
           CASE WHEN NOT plain THEN jsonb_build_object('facts', d.media_facts, 'sheets', d.sheets)::text END AS rest
    FROM (SELECT *, {complete} AS plain FROM facegate.decision d WHERE {period} OFFSET '0') d OFFSET '0'
) decisions GROUP BY day, stage, verdict, decisions.classifiers, decisions.thresholds, unscreened, odd
"""


def _statement(known: Mapping[str, Sequence[ClassifierVersion]]) -> tuple[TextClause, dict[str, str]]:
    """What reads a portion, and its parameters. Of plain decisions that `known` classifiers were heard in it gives the scores, in the order of columns."""
    most = max(map(len, known.values()), default=0)
    sheets = [f"CASE WHEN plain THEN d.sheets #> '{{{place},frames,0,scores}}' END AS sheet_{place}," for place in range(most)]
    cases: list[str] = []
    named: dict[str, str] = {}
    for number, (heard, versions) in enumerate(known.items()):
        named[f"heard_{number}"] = heard
        packed: list[str] = []
        for place, category in columns_of(versions):
            name = f"category_{number}_{len(packed)}"
            named[name] = category
            packed.append(f"int4send((sheet_{place} -> CAST(:{name} AS text))::int4)")
        cases.append(f"WHEN classifiers = CAST(:heard_{number} AS bytea[]) THEN {' || '.join(packed)}")
    scores = f"CASE {' '.join(cases)} END" if cases else "CAST(NULL AS bytea)"
    return text(_GROUPS.format(scores=scores, sheets=" ".join(sheets), complete=_COMPLETE, period=in_period("d"))), named


# Of several frames the highest of each category: what a classifier alone says depends on nothing else.
_SHADOWS: Final = text(f"""
SELECT stage, verdict, name, classifier::text, thresholds::text, fault IS NOT NULL, string_agg(uuid_send(id), ''), string_agg(scores, ',')
FROM (
    SELECT d.id, d.stage, d.verdict, s.name, s.classifier, s.thresholds, s.fault,
           CASE WHEN s.fault IS NOT NULL THEN NULL WHEN jsonb_array_length(s.sheet->'frames') = 1 THEN s.sheet #>> '{{frames,0,scores}}'
                ELSE (SELECT jsonb_object_agg(p.key, p.peak)::text FROM (
                          SELECT e.key, max(e.value::integer) AS peak
                          FROM jsonb_array_elements(s.sheet->'frames') AS f, jsonb_each_text(f->'scores') AS e GROUP BY e.key) p) END AS scores
    FROM facegate.decision d JOIN facegate.shadow s ON s.tenant = d.tenant AND s.decision = d.id AND s.id >= :least AND s.id < :beyond
    WHERE {in_period("d")}
) heard GROUP BY stage, verdict, name, classifier, thresholds, fault IS NOT NULL
""")  # noqa: S608  # pieces of ours

_HAS_SHADOWS: Final = text("SELECT EXISTS (SELECT FROM facegate.shadow s WHERE s.tenant = :tenant AND s.id >= :least AND s.id < :beyond)")


class StoredScores:
    """Reads a period of one tenant, day by day."""

    def __init__(self, connection: Connection, parameters: Mapping[str, Any]) -> None:
        self._connection = connection
        self._parameters = parameters
        self._versions: dict[str, ClassifierVersion] = {}
        self._known: dict[str, tuple[ClassifierVersion, ...]] = {}
        self._asked: dict[str, tuple[str, ...]] = {}

    def days(self) -> Iterator[Day]:
        """Every day in order that has decisions, in one or several pieces."""
        for since, until in self._portions():
            found: dict[date, Day] = {}
            for day, stage, verdict, classifiers, thresholds, unscreened, ids, scores, rest in self._groups(since, until):
                of_day = found.setdefault(day, Day(day))
                if rest is not None:
                    of_day.whole.append(self._whole(stage, verdict, classifiers, thresholds, bytes(ids), rest))
                    continue
                which = Circumstances(
                    stage=Stage(stage),
                    classifiers=self._classifiers(classifiers),
                    unscreened=tuple(map(Unscreened, json.loads(unscreened))),
                )
                table = _table(scores, which, len(ids) // _ID_BYTES)
                of_day.plain.append(Plain(verdict=verdict, which=which, thresholds=_bytea(thresholds), ids=Ids(bytes(ids)), scores=table))
            yield from (found[day] for day in sorted(found))

    def shadows(self) -> Iterator[Plain | Silent]:
        """What shadow classifiers gave, in pieces; scores are the highest of each category, `which` names the one that gave them."""
        if not self._connection.execute(_HAS_SHADOWS, self._parameters).scalar_one():
            return
        for since, until in self._portions():
            asked = self._between(since, until)
            for stage, verdict, name, heard, thresholds, is_silent, ids, scores in self._connection.execute(_SHADOWS, asked).all():
                if is_silent:
                    yield Silent(verdict=verdict, stage=Stage(stage), name=name, ids=Ids(bytes(ids)))
                    continue
                which = Circumstances(stage=Stage(stage), classifiers=self._classifiers(f"{{{heard}}}"))
                yield Plain(verdict=verdict, which=which, thresholds=_bytea(thresholds), ids=Ids(bytes(ids)), scores=_parsed(scores, which))

    def _groups(self, since: datetime, until: datetime) -> Sequence[Any]:
        while True:
            statement, named = _statement(self._known)
            rows = self._connection.execute(statement, {**self._between(since, until), **named}).all()
            unknown = {row.classifiers for row in rows if row.rest is None} - self._known.keys()
            if not unknown:
                return rows
            self._known |= {names: self._classifiers(names) for names in unknown}  # and again: that others are heard is seldom

    def _between(self, since: datetime, until: datetime) -> Mapping[str, Any]:
        bounds = {
            "since": since,
            "until": until,
            "least": str(uuid_floor(since - SLACK_BEFORE)),
            "beyond": str(uuid_floor(until + SLACK_AFTER)),
        }
        return {**self._parameters, **bounds}

    def _portions(self) -> Iterator[tuple[datetime, datetime]]:
        """Stretches of time of about `PORTION` decisions at most, unless one hour has more."""
        begin: datetime | None = None
        end = until = self._parameters["until"]
        many = 0
        for hour, decisions in self._connection.execute(_HOURS, self._parameters).all():
            if begin is not None and many + decisions > PORTION:
                yield begin, hour
                begin, many = None, 0
            if begin is None:
                begin = max(hour, self._parameters["since"])
            many, end = many + decisions, min(hour + timedelta(hours=1), until)
        if begin is not None:
            yield begin, end

    def _whole(self, stage: str, verdict: str, classifiers: str, thresholds: str, id: bytes, rest: str) -> Whole:
        document = json.loads(rest)
        heard = self._classifiers(classifiers)
        names = {version.name: version for version in heard}
        return Whole(
            id=UUID(bytes=id),
            verdict=verdict,
            stage=Stage(stage),
            thresholds=_bytea(thresholds),
            facts=None if document["facts"] is None else read_facts(document["facts"]),
            required=tuple(names.get(name) or _silent(name) for name in self._required(thresholds)) or heard,
            sheets=tuple(sheet_of(sheet, version) for sheet, version in zip(document["sheets"], heard, strict=True)),
        )

    def _classifiers(self, names: str) -> tuple[ClassifierVersion, ...]:
        """The versions of an array of ids, as Postgres writes one."""
        ids = [part.strip('"') for part in names.strip("{}").split(",")] if names != "{}" else []
        for id in ids:
            if id not in self._versions:
                row = self._connection.execute(_CLASSIFIER, {"id": _bytea(id)}).mappings().one()
                self._versions[id] = classifier_of(dict(row))
        return tuple(self._versions[id] for id in ids)

    def _required(self, thresholds: str) -> tuple[str, ...]:
        """Names of the classifiers that had to answer."""
        if thresholds not in self._asked:
            where = {"tenant": self._parameters["tenant"], "id": _bytea(thresholds)}
            applied = self._connection.execute(_THRESHOLDS, where).scalar_one()
            self._asked[thresholds] = tuple(dict.fromkeys(row["classifier"] for row in applied))
        return self._asked[thresholds]

    def applied(self, thresholds: bytes) -> list[dict[str, Any]]:
        """The thresholds of this name."""
        where = {"tenant": self._parameters["tenant"], "id": thresholds}
        found: list[dict[str, Any]] = self._connection.execute(_THRESHOLDS, where).scalar_one()
        return found


class Ids:
    """Ids of many decisions in one piece: most are never looked at."""

    def __init__(self, joined: bytes) -> None:
        self._joined = joined

    def __len__(self) -> int:
        return len(self._joined) // _ID_BYTES

    def __getitem__(self, place: int) -> str:
        return str(UUID(bytes=self._joined[place * _ID_BYTES : (place + 1) * _ID_BYTES]))


def _table(packed: bytes | memoryview | None, which: Circumstances, decisions: int) -> npt.NDArray[np.int64]:
    """The scores of many decisions. Raises ValueError where a complete decision's scores are not."""
    return _checked(np.frombuffer(packed or b"", ">i4").astype(np.int64), decisions, len(which.columns))


def _parsed(joined: str, which: Circumstances) -> npt.NDArray[np.int64]:
    """The same of one classifier, where they come as objects of JSON."""
    parsed = json.loads(f"[{joined}]")
    return _checked(np.array([[scores[category] for _, category in which.columns] for scores in parsed]), len(parsed), len(which.columns))


def _checked(scores: npt.NDArray[np.int64], decisions: int, columns: int) -> npt.NDArray[np.int64]:
    if scores.dtype != np.int64 or scores.size != decisions * columns or scores.min(initial=0) < 0 or scores.max(initial=0) > ONE:
        raise ValueError("a complete decision has scores that are none")
    return scores.reshape(decisions, columns)


def _bytea(text: str) -> bytes:
    """Bytes from the way Postgres writes them, inside an array too."""
    return bytes.fromhex(text.lstrip("\\").removeprefix("x"))


def _silent(name: str) -> ClassifierVersion:
    """One that had to answer and did not: nothing is known of it but its name, and it said nothing."""
    return ClassifierVersion(
        name=name, version="", digest="", mapping_digest="", categories=(), input=InputSpec(width=1, height=1, fit=Fit.STRETCH)
    )


_CLASSIFIER: Final = text("SELECT * FROM facegate.classifier WHERE id = :id")
_THRESHOLDS: Final = text("SELECT applied FROM facegate.thresholds WHERE tenant = :tenant AND id = :id")
