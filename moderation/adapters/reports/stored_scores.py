"""Stored scores as they are read for replay and comparison: many decisions at once, in tables where they are about one picture each.

A row of the record is a few hundred bytes of JSON; what costs is not deciding but reading. So Postgres hands over only the scores of
complete decisions about one picture, they are parsed as one text for thousands of decisions, and only what is not plain comes whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final
from uuid import UUID

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, text

from moderation.adapters.decision_rows import classifier_of, sheet_of
from moderation.adapters.reports.statement import in_period
from moderation.audit import read_facts
from moderation.frames import Fit, InputSpec
from moderation.media import Facts, Stage, Unscreened
from moderation.replay import Circumstances
from moderation.scores import ONE, ClassifierScores, ClassifierVersion

PORTION: Final = 20_000
"""Decisions that are read at once."""


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
    ids: Sequence[str]
    scores: npt.NDArray[np.int64]


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

_ROWS: Final = text(f"""
SELECT d.created_at::date, d.stage, d.verdict, d.classifiers::text, d.thresholds::text, d.id::text,
       CASE WHEN plain THEN (d.media_facts->'unscreened')::text END,
       CASE WHEN plain THEN CASE cardinality(d.classifiers) WHEN 1 THEN '[' || (d.sheets #>> '{{0,frames,0,scores}}') || ']'
                            ELSE jsonb_path_query_array(d.sheets, '$[*].frames[0].scores')::text END END,
       CASE WHEN NOT plain THEN jsonb_build_object('facts', d.media_facts, 'sheets', d.sheets)::text END
FROM facegate.decision d CROSS JOIN LATERAL (SELECT {_COMPLETE} AS plain OFFSET 0) kinds
WHERE {in_period("d")} ORDER BY d.created_at, d.id
""")  # noqa: S608  # pieces of ours


class StoredScores:
    """Reads a period of one tenant, day by day."""

    def __init__(self, connection: Connection, parameters: Mapping[str, Any]) -> None:
        self._connection = connection
        self._parameters = parameters
        self._versions: dict[str, ClassifierVersion] = {}
        self._asked: dict[str, tuple[str, ...]] = {}

    def days(self) -> Iterator[Day]:
        """Every day in order that has decisions, in one or several pieces."""
        options = {"stream_results": True, "yield_per": PORTION}
        rows = self._connection.execute(_ROWS, self._parameters, execution_options=options)
        for portion in rows.partitions(PORTION):
            groups: dict[date, dict[tuple[str, ...], tuple[list[str], list[str]]]] = {}
            whole: dict[date, list[Whole]] = {}
            for day, stage, verdict, classifiers, thresholds, id, unscreened, scores, rest in portion:
                if rest is not None:
                    whole.setdefault(day, []).append(self._whole(stage, verdict, classifiers, thresholds, id, rest))
                    continue
                ids, texts = groups.setdefault(day, {}).setdefault((stage, verdict, classifiers, thresholds, unscreened), ([], []))
                ids.append(id)
                texts.append(scores)
            for day in sorted(groups.keys() | whole.keys()):
                found = Day(day, whole=whole.get(day, []))
                for (stage, verdict, classifiers, thresholds, unscreened), (ids, texts) in groups.get(day, {}).items():
                    which = Circumstances(
                        stage=Stage(stage),
                        classifiers=self._classifiers(classifiers),
                        unscreened=tuple(map(Unscreened, json.loads(unscreened))),
                    )
                    table = _table(texts, which)
                    found.plain.append(Plain(verdict=verdict, which=which, thresholds=_bytea(thresholds), ids=ids, scores=table))
                yield found

    def _whole(self, stage: str, verdict: str, classifiers: str, thresholds: str, id: str, rest: str) -> Whole:
        document = json.loads(rest)
        heard = self._classifiers(classifiers)
        names = {version.name: version for version in heard}
        return Whole(
            id=UUID(id),
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


def _table(texts: Sequence[str], which: Circumstances) -> npt.NDArray[np.int64]:
    """The scores of many decisions, parsed as one text. Raises ValueError where a complete decision's scores are not."""
    columns = which.columns
    parsed = json.loads(f"[{','.join(texts)}]")
    if len(which.classifiers) == 1:
        names = [category for _, category in columns]
        flat = [sheet[name] for (sheet,) in parsed for name in names]
    else:
        flat = [sheets[place][category] for sheets in parsed for place, category in columns]
    table = np.array(flat).reshape(len(texts), len(columns))
    if table.dtype != np.int64 or table.min() < 0 or table.max() > ONE:
        raise ValueError("a complete decision has scores that are none")
    return table


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
