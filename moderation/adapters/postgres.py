"""The record in Postgres: decisions are appended by group commit, and read back as they were.

`PostgresRecord` implements DecisionLog, ScoreMemory and DecisionReader of `moderation.ports`. It connects as the run-time
role, on first use, and recovers by itself when Postgres comes back. Nothing waits much longer than `answer_s`.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import Connection, Engine, Integer, Select, Text, cast, func, literal_column, select, text
from sqlalchemy.dialects.postgresql import ARRAY

from moderation.adapters import tables
from moderation.adapters.database import Context, Database, Question, answer, array_of, faults_translated, make_engine
from moderation.adapters.decision_rows import REFERENCE, classifier_of, from_row, reuse_key, reuse_key_of, thresholds_of, to_row
from moderation.adapters.line import Line
from moderation.adapters.recorder import AlreadyRecorded, Recorder, RecorderStatus
from moderation.decision import Decision, Threshold
from moderation.errors import ModerationError, RecordUnavailable
from moderation.ports import DecisionFilter, Job, Recalled, ReuseKey
from moderation.scores import ClassifierVersion

_T = TypeVar("_T")

ANSWER_S: Final = 2.0
REUSE_DAYS: Final = 90
"""How long scores are used again. Looking further back would mean looking into every partition there is."""

_SLACK_BEFORE: Final = timedelta(days=31)
_SLACK_AFTER: Final = timedelta(days=1)
"""How far `created_at` may lie from the time in the id; a constraint of the table holds it."""

_PORTION: Final = 3000
"""Frames, each counted once for every classifier, that a list reads at once: well under a tenth of `ANSWER_S`."""
_ROW: Final = 4
"""What a decision weighs beside its frames, in frames."""

_REMEMBERED: Final = 4096
_REMEMBERED_FRAMES: Final = 16


class UnsafeRole(ModerationError):  # a fact about the role
    """The service was given a database role that could change the record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordStatus:
    """For readiness and metrics. `remembered` is how many media have their scores in memory."""

    writing: RecorderStatus
    remembered: int


class PostgresRecord:
    """The record as one process sees it.

    `answer_s` bounds every call; `capacity` is how many decisions may wait to be written; `readers` how many reads run at once.
    `observe` is told how many decisions each commit had, in the thread that writes.
    """

    def __init__(
        self,
        url: str,
        *,
        answer_s: float = ANSWER_S,
        capacity: int = 10_000,
        readers: int = 4,
        observe: Callable[[int], None] = lambda _decisions: None,
    ) -> None:
        statement_s = 0.75 * answer_s
        self._answer_s = answer_s
        self._reads = Database(url, connections=readers, statement_s=statement_s)
        self._line = Line(url, statement_s=statement_s)
        self._writes = make_engine(url, connections=1, statement_s=statement_s)
        self._named = Named()
        self._memory = _Memory()
        self._leaves: OrderedDict[tuple[UUID, UUID], bytes] = OrderedDict()
        self._recorder = Recorder(self._writes, capacity=capacity, answer_s=answer_s, observe=observe)

    # --- DecisionLog --------------------------------------------------------------------------

    async def append(self, decision: Decision, *, job: Job | None = None, keep_job: bool = False) -> None:
        """Return once the decision and its entry are committed, and `job` done with them unless `keep_job`.

        Appending the very same decision again is no error. Raises RecordUnavailable if the commit is not certain,
        Overloaded if too many wait, StaleLease if the job has ended or gone to another worker, whether it is kept or not. A caller that is cancelled meanwhile loses nothing: what was
        handed over is written.
        """
        try:
            row = to_row(decision)
        except (TypeError, ValueError) as fault:
            raise RecordUnavailable(f"the decision has no record form: {fault}") from fault
        try:
            await self._recorder.write(row, job, keep_job=keep_job)
        except AlreadyRecorded:
            if await self.get(decision.tenant, decision.id) != decision:
                raise
        else:
            self._keep_leaf(decision, row.leaf)
        if row.reuse is not None:
            self._memory.keep(decision, row.reuse)

    # --- ScoreMemory --------------------------------------------------------------------------

    async def recall(self, key: ReuseKey) -> Recalled | None:
        """Complete scores given under exactly this key by a decision of the last 90 days, or None. Raises RecordUnavailable."""
        name = reuse_key(key)
        remembered = self._memory.recall(key.tenant, name)
        if remembered is not None:
            return remembered
        now = datetime.now(UTC)
        oldest, newest = _floor(now - timedelta(days=REUSE_DAYS)), _floor(now + _SLACK_AFTER)
        asked = (str(key.tenant), name, str(oldest), str(newest))
        for (found,) in await self._bounded(self._line.ask(key.tenant, _RECALL, asked)):
            earlier = await self.get(key.tenant, UUID(str(found)))
            if earlier is not None and reuse_key_of(earlier) == name:  # what the row says itself, not only what it is filed under
                self._memory.keep(earlier, name)
                return _recalled(earlier)
        return None

    # --- DecisionReader -----------------------------------------------------------------------

    async def get(self, tenant: UUID, decision: UUID) -> Decision | None:
        """The decision exactly as it was appended, or None; its reference is None once that is erased. Raises RecordUnavailable."""
        columns = tables.decision.c
        found = await self._load(tenant, select(tables.decision).where(columns.tenant == tenant, columns.id == decision))
        return found[0] if found else None

    async def find(self, tenant: UUID, wanted: DecisionFilter) -> Sequence[Decision]:
        """Newest id first, at most `wanted.limit` + 1. `category` means one that a reason names. Raises RecordUnavailable.

        Long animations are read in portions, each within the time of one answer: decisions never change in between.
        """
        columns = tables.decision.c
        found: list[Decision] = []
        for ids in portions(await self._weighed(tenant, wanted)):
            these = select(tables.decision).where(columns.tenant == tenant, columns.id.in_(ids), columns.id.between(ids[-1], ids[0]))
            found += await self._load(tenant, these.order_by(columns.id.desc()))
        return found

    async def _weighed(self, tenant: UUID, wanted: DecisionFilter) -> list[tuple[UUID, int]]:
        """The ids that `find` is to read, with what each weighs."""
        if (
            wanted == DecisionFilter(media_sha256=wanted.media_sha256, before=wanted.before, limit=wanted.limit)
            and wanted.media_sha256 is not None
        ):
            asked = (str(tenant), bytes.fromhex(wanted.media_sha256), str(wanted.before or _BEYOND_ALL), wanted.limit + 1)
            history = await self._bounded(self._reads.ask(tenant, _HISTORY, asked))
            return [(UUID(str(id)), weight) for id, weight in history]
        columns = tables.decision.c
        newest = _matching(tenant, wanted).order_by(columns.id.desc()).limit(wanted.limit + 1).with_only_columns(columns.id, _WEIGHT)
        rows = await self._bounded(self._reads.run(Context(tenant=tenant), lambda connection: connection.execute(newest).all()))
        return [(row.id, row.weight) for row in rows]

    async def leaves(self, tenant: UUID, entries: Sequence[UUID]) -> Mapping[UUID, bytes]:
        """The leaf hashes (32 bytes) of those entries that there are; what was committed here last need not be read. Raises RecordUnavailable."""
        found = {entry: self._leaves[tenant, entry] for entry in entries if (tenant, entry) in self._leaves}
        missing = [entry for entry in entries if entry not in found]
        if missing:
            columns = tables.entry.c
            these = select(columns.id, columns.leaf).where(
                columns.tenant == tenant,
                columns.id.in_(missing),
                columns.id.between(min(missing), max(missing)),  # which months to look into
            )
            rows = await self._bounded(self._reads.run(Context(tenant=tenant), lambda connection: connection.execute(these).all()))
            found |= {row.id: bytes(row.leaf) for row in rows}
        return found

    # --- operation ----------------------------------------------------------------------------

    async def ping(self) -> None:
        """Return if the database answers. Raises RecordUnavailable."""
        await self._bounded(self._reads.ping())

    def status(self) -> RecordStatus:
        """How it stands just now."""
        return RecordStatus(writing=self._recorder.status(), remembered=len(self._memory))

    def close(self) -> None:
        """Write what waits, then end threads and connections."""
        self._recorder.close()
        self._writes.dispose()
        self._line.close()
        self._reads.close()

    def _keep_leaf(self, decision: Decision, leaf: bytes) -> None:
        self._leaves[decision.tenant, decision.id] = leaf
        while len(self._leaves) > _REMEMBERED:
            self._leaves.popitem(last=False)

    async def _load(self, tenant: UUID, wanted: Select[Any]) -> list[Decision]:
        def load(connection: Connection) -> list[Decision]:
            return self._named.load(connection, tenant, wanted)

        return await self._bounded(self._reads.run(Context(tenant=tenant), load))

    async def _bounded(self, reading: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout(self._answer_s):
                return await reading
        except TimeoutError:
            raise RecordUnavailable("the database did not answer in time") from None


def refuse_unsafe_role(engine: Engine) -> None:
    """Refuse to run as a role that could change the record: superuser, BYPASSRLS, owner of the tables, or member of such a role.

    Raises UnsafeRole; RecordUnavailable if the database cannot be asked or has no schema yet.
    """
    with faults_translated(), engine.connect() as connection:
        if not connection.execute(text("SELECT to_regclass('facegate.entry') IS NOT NULL")).scalar_one():
            raise RecordUnavailable("the database has no tables yet: run facegate db upgrade")
        role, *held = connection.execute(_POWERS).one()
    powers = [power for power, there in zip(_POWER_NAMES, held, strict=True) if there]
    if powers:
        raise UnsafeRole(f"the run-time role {role} {', '.join(powers)}; give the service a role of its own")


_POWER_NAMES: Final = (
    "is a superuser",
    "bypasses row-level security",
    "owns the tables",
    "may create in the schema",
    "may change append-only tables",
)
_POWERS: Final = text("""
WITH mine AS (SELECT * FROM pg_roles WHERE pg_has_role(current_user, oid, 'MEMBER'))
SELECT current_user,
       (SELECT bool_or(rolsuper) FROM mine),
       (SELECT bool_or(rolbypassrls) FROM mine),
       EXISTS (SELECT FROM pg_class WHERE relnamespace = 'facegate'::regnamespace AND relowner IN (SELECT oid FROM mine))
           OR EXISTS (SELECT FROM pg_namespace WHERE nspname = 'facegate' AND nspowner IN (SELECT oid FROM mine)),
       has_schema_privilege('facegate', 'CREATE'),
       EXISTS (
           SELECT FROM pg_class c JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgname = 'append_only'
           WHERE has_table_privilege(c.oid, 'UPDATE, DELETE, TRUNCATE, TRIGGER')
       )
""")


_RECALL: Final = Question(
    name="recall",  # every picture asks this, and of nearly all the answer is that there is nothing
    types=("uuid", "bytea", "uuid", "uuid"),
    statement="SELECT id FROM facegate.decision WHERE tenant = $1 AND reuse_key = $2 AND id >= $3 AND id < $4 ORDER BY id LIMIT 1",
)


# --- what decisions name ----------------------------------------------------------------------


class Named:
    """Classifiers and thresholds by their names; both never change, so they are read once."""

    def __init__(self) -> None:
        self._classifiers: dict[bytes, ClassifierVersion] = {}
        self._thresholds: dict[tuple[UUID, bytes], tuple[Threshold, ...]] = {}

    def load(self, connection: Connection, tenant: UUID, wanted: Select[Any]) -> list[Decision]:
        """The decisions that `wanted` selects, within the transaction of `connection`."""
        rows = connection.execute(wanted).mappings().all()
        if not rows:
            return []
        classifiers = self._classifiers_of(connection, {bytes(name) for row in rows for name in row["classifiers"]})
        thresholds = self._thresholds_of(connection, tenant, {bytes(row["thresholds"]) for row in rows})
        references = _references(connection, tenant, [row["id"] for row in rows])
        return [
            from_row(
                dict(row), reference=references.get(row["id"]), classifiers=classifiers, thresholds=thresholds[bytes(row["thresholds"])]
            )
            for row in rows
        ]

    def _classifiers_of(self, connection: Connection, names: set[bytes]) -> Mapping[bytes, ClassifierVersion]:
        unknown = names - self._classifiers.keys()
        if unknown:
            table = tables.classifier
            for row in connection.execute(select(table).where(table.c.id.in_(unknown))).mappings():
                self._classifiers[bytes(row["id"])] = classifier_of(dict(row))
        return self._classifiers

    def _thresholds_of(self, connection: Connection, tenant: UUID, names: set[bytes]) -> Mapping[bytes, tuple[Threshold, ...]]:
        if len(self._thresholds) > _REMEMBERED:
            self._thresholds = {}
        found = {name: self._thresholds[tenant, name] for name in names if (tenant, name) in self._thresholds}
        unknown = names - found.keys()
        if unknown:
            table = tables.thresholds
            for row in connection.execute(select(table).where(table.c.tenant == tenant, table.c.id.in_(unknown))).mappings():
                found[bytes(row["id"])] = self._thresholds[tenant, bytes(row["id"])] = thresholds_of(row["applied"])
        return found


_REFERENCES: Final = Question(
    name="references_of",  # asked with all that is read
    types=("uuid", "uuid[]", "uuid", "uuid"),  # the last two say which months to look into
    statement=f"SELECT id, content FROM facegate.personal WHERE tenant = $1 AND kind = '{REFERENCE}' AND id = ANY ($2) AND id BETWEEN $3 AND $4",  # noqa: S608
)


def _references(connection: Connection, tenant: UUID, decisions: Sequence[UUID]) -> dict[UUID, str]:
    found = answer(connection, _REFERENCES, str(tenant), array_of(decisions), str(min(decisions)), str(max(decisions)))
    return {UUID(str(id)): content for id, content in found}


# --- portions ---------------------------------------------------------------------------------


def portions(weighed: Iterable[tuple[UUID, int]], most: int = _PORTION) -> list[list[UUID]]:
    """The ids in their order, in runs that weigh no more than `most`; what weighs more by itself is a run by itself."""
    found: list[list[UUID]] = []
    room = 0
    for id, weight in weighed:
        if not found or weight > room:
            found.append([])
            room = most
        found[-1].append(id)
        room -= weight
    return found


# What could not be judged to its end does not say how many frames it has: those are counted.
_WEIGHT_SQL: Final = f"""
{_ROW} + CASE WHEN decision.media_facts IS NOT NULL THEN (decision.media_facts->>'frames')::int * cardinality(decision.classifiers)
ELSE (SELECT coalesce(sum(jsonb_array_length(sheet->'frames')), 0) FROM jsonb_array_elements(decision.sheets) AS sheet) END
"""  # noqa: S608  # a constant of ours
_WEIGHT: Final = literal_column(_WEIGHT_SQL, Integer).label("weight")

_BEYOND_ALL: Final = UUID(int=2**128 - 1)
_HISTORY: Final = Question(
    name="history",  # of bytes, in all months: planning that anew costs several times what the answer does
    types=("uuid", "bytea", "uuid", "integer"),
    statement=f"SELECT id, {_WEIGHT_SQL} FROM facegate.decision WHERE tenant = $1 AND media_sha256 = $2 AND id < $3 ORDER BY id DESC LIMIT $4",  # noqa: S608
)


# --- filters ----------------------------------------------------------------------------------


def _matching(tenant: UUID, wanted: DecisionFilter) -> Select[Any]:
    columns, names = tables.decision.c, tables.classifier.c
    statement = select(tables.decision).where(columns.tenant == tenant)
    equal: Iterable[tuple[Any, Any]] = (
        (columns.stage, None if wanted.stage is None else str(wanted.stage)),
        (columns.verdict, None if wanted.verdict is None else str(wanted.verdict)),
        (columns.policy_name, wanted.policy),
        (columns.automated, wanted.automated),
        (columns.media_sha256, None if wanted.media_sha256 is None else bytes.fromhex(wanted.media_sha256)),
        (columns.transform, wanted.transform),
    )
    for column, value in equal:
        if value is not None:
            statement = statement.where(column == value)
    if wanted.category is not None:
        statement = statement.where(text("decision.categories <> '{}'"), columns.categories.contains(cast([wanted.category], ARRAY(Text))))
    if wanted.classifier is not None:
        versions = select(func.array_agg(names.id)).where(names.name == wanted.classifier).scalar_subquery()
        statement = statement.where(columns.classifiers.op("&&")(versions))
    if wanted.reference is not None:
        statement = statement.where(columns.id.in_(_referring(tenant, wanted.reference)))
    return _within(statement, wanted)


def _referring(tenant: UUID, reference: str) -> Select[Any]:
    columns = tables.personal.c
    return select(columns.id).where(
        columns.tenant == tenant, columns.kind == REFERENCE, func.md5(columns.content) == func.md5(reference), columns.content == reference
    )


def _within(statement: Select[Any], wanted: DecisionFilter) -> Select[Any]:
    """Bounds in time, said of the ids too, so that only the months in question are looked into."""
    columns = tables.decision.c
    if wanted.since is not None:
        statement = statement.where(columns.created_at >= wanted.since, columns.id >= _floor(wanted.since - _SLACK_BEFORE))
    if wanted.until is not None:
        statement = statement.where(columns.created_at < wanted.until, columns.id < _floor(wanted.until + _SLACK_AFTER))
    if wanted.before is not None:
        statement = statement.where(columns.id < wanted.before)
    return statement


def _floor(moment: datetime) -> UUID:
    """The least UUIDv7 of a moment."""
    return UUID(int=max(0, int(moment.timestamp() * 1000)) << 80)


# --- scores in memory -------------------------------------------------------------------------


class _Memory:
    """The latest score sheets of pictures, in front of the database. Videos are too large to keep and rarely come twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recalled: OrderedDict[bytes, Recalled] = OrderedDict()

    def keep(self, decision: Decision, name: bytes) -> None:
        """Remember a committed decision under its reuse key; the first one stays."""
        frames = sum([len(sheet.frames) for sheet in decision.sheets])
        if frames > _REMEMBERED_FRAMES:
            return
        own = decision.tenant.bytes + name
        with self._lock:
            if own in self._recalled:
                self._recalled.move_to_end(own)
                return
            self._recalled[own] = _recalled(decision)
            if len(self._recalled) > _REMEMBERED:
                self._recalled.popitem(last=False)

    def recall(self, tenant: UUID, name: bytes) -> Recalled | None:
        """What is remembered."""
        own = tenant.bytes + name
        with self._lock:
            found = self._recalled.get(own)
            if found is not None:
                self._recalled.move_to_end(own)
            return found

    def __len__(self) -> int:
        return len(self._recalled)


def _recalled(decision: Decision) -> Recalled:
    facts = decision.media.facts
    if facts is None:
        raise ValueError("scores without facts are never reusable")
    return Recalled(decision=decision.id, facts=facts, sheets=decision.sheets)
