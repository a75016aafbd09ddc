"""Sealing: entries become leaves, the tree grows over them, and its head is signed.

One process does it, and every round of it is the same:

1. **Read** the entries that are not sealed yet and that no running transaction can still get in between: those of transactions
   older than the oldest one that runs, in the order of transactions. Another reading at another time gives the same ones first. Which
   transactions run and which entries are there is seen at one moment: a round is one snapshot.
2. **Extend** the tree, and sign its head as a checkpoint.
3. **Keep** the signed checkpoint outside the database. From here on it may never be contradicted.
4. **Commit** leaves, nodes and seal. From here on others see it.

A process that dies between 3 and 4 leaves a checkpoint that the database does not have. The next one reads the same entries again,
must come to the same root, and commits the checkpoint as it was signed. Whatever else does not agree (a database that was set back,
a tree that was changed, a key or a folder that is another log's) ends in `SealingRefused`: only a person can say what happened,
and opens the log again under another origin, in which the first entry holds the checkpoint that could not be gone on from.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Final, Self
from uuid import UUID

from sqlalchemy import Connection, insert, select, text
from sqlalchemy.exc import IntegrityError
from uuid_utils.compat import uuid7

from moderation.adapters import tables
from moderation.adapters.clock import utc_now
from moderation.adapters.database import Context, faults_translated, make_engine, set_context
from moderation.adapters.entries import new_nonce, write_entry
from moderation.adapters.log_tree import TreeDamaged, hashes_of_nodes, hashes_of_ranges
from moderation.adapters.notes import SigningKey, open_note, signed
from moderation.adapters.sealer_folder import SealerFolder, SealingRefused
from moderation.audit import log_entry
from moderation.canonical import Json
from moderation.errors import RecordUnavailable
from moderation.log import HASH_BYTES, OPERATOR, Checkpoint, NoteRefused, Seal, key_change_text
from moderation.merkle import EMPTY_ROOT, Edge, Node, complete_subtrees
from moderation.ports import Clock

BATCH: Final = 20_000
"""Most entries in one round: what a second is enough for."""
STATEMENT_S: Final = 600.0
"""A round takes a second; the first one after a restore looks at every entry that there is."""
_LOCK: Final = 0x6661636573656C  # "facesel"

_RESTARTED: Final = re.compile(r"/restart-([0-9]+)\Z")
_CLUSTER: Final = text("SELECT system_identifier FROM pg_control_system()")
_SNAPSHOT: Final = text(
    "SELECT pg_snapshot_xmin(now)::text::bigint AS oldest, pg_snapshot_xmax(now)::text::bigint AS next FROM pg_current_snapshot() AS now"
)
# The leaves are written where the entries are read, and only hashes travel. What was restored from a dump, or moved from another server, can
# bear transaction ids that are still to come here; it is there to stay as well. Nothing is sealed twice, whatever the order.
_TAKE: Final = """
WITH found AS MATERIALIZED ({entries}), written AS (
    INSERT INTO facegate.leaf (log, index, entry, xid, hash)
    SELECT :log, :first + row_number() OVER (ORDER BY xid, id, tenant) - 1, id, xid, leaf FROM found
    RETURNING index, entry, xid, hash
)
SELECT count(*) AS leaves, string_agg(hash, '' ORDER BY index) AS hashes, max(xid::text::bigint) AS last,
    coalesce(bool_or(entry = CAST(:awaited AS uuid)), false) AS has_awaited
FROM written
"""
_SETTLED: Final = "(xid < CAST(CAST(:oldest AS text) AS xid8) OR xid >= CAST(CAST(:next AS text) AS xid8))"
_TAKE_UNSEALED: Final = text(
    _TAKE.format(
        entries=f"""
    SELECT id, tenant, xid, leaf FROM facegate.entry
    WHERE xid >= CAST(CAST(:through AS text) AS xid8) AND {_SETTLED}
      AND (SELECT true FROM facegate.leaf WHERE leaf.entry = entry.id AND leaf.hash = entry.leaf LIMIT 1) IS NULL
    ORDER BY xid, id, tenant LIMIT :most
"""  # noqa: S608  # texts of our own
    )
)
_TAKE_OPENING: Final = text(
    _TAKE.format(entries=f"SELECT id, tenant, xid, leaf FROM facegate.entry WHERE id = :opening AND tenant = :operator AND {_SETTLED}")  # noqa: S608
)
# What the planner thinks of the newest transactions is always out of date, and a plan that reads all leaves would be fatal each second.
# A server that is not told of the end of a sealer's machine would keep its lock for hours.
_SESSION: Final = text("""
SELECT set_config(name, value, false) FROM (VALUES
    ('enable_seqscan', 'off'), ('enable_bitmapscan', 'off'), ('enable_sort', 'off'), ('enable_hashjoin', 'off'), ('enable_mergejoin', 'off'),
    ('tcp_keepalives_idle', '10'), ('tcp_keepalives_interval', '5'), ('tcp_keepalives_count', '3')
) AS setting (name, value)
""")
_NEWEST: Final = text(
    "SELECT size, root, note, through::text::bigint AS through, sealed_at FROM facegate.seal WHERE log = :log ORDER BY size DESC LIMIT 1"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Log:
    """The log that is in force."""

    number: int
    origin: str
    entry: UUID
    former: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """Leaf hashes of entries, in order, and the transaction up to which all are sealed with them."""

    hashes: Sequence[bytes]
    through: int
    is_all: bool
    """Whether nothing is left that was there."""
    has_awaited: bool
    """Whether the entry that was asked about is among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Growth:
    """A tree with further leaves: the nodes to write, and how it stands then."""

    edge: Edge
    nodes: Sequence[tuple[Node, bytes]]


class Sealer:
    """One process's hold on the log, with the sealer's database role. To be entered, and left after any error.

    `name` is what a new log is called; `before` is told each step of a round before it is done.
    """

    def __init__(
        self,
        url: str,
        folder: SealerFolder,
        *,
        name: str | None = None,
        most: int = BATCH,
        clock: Clock = utc_now,
        before: Callable[[str], None] = lambda _step: None,
    ) -> None:
        self._engine = make_engine(url, connections=1, statement_s=STATEMENT_S)
        self._folder = folder
        self._name = name
        self._most = most
        self._clock = clock
        self._before = before
        self._connection: Connection | None = None
        self._log: _Log
        self._key: SigningKey
        self._next: SigningKey | None = None
        self._edge = Edge.of(0, [])
        self._through = 0
        self._cluster = ""

    def __enter__(self) -> Self:
        """Take the lock of the database. Raises SealingRefused where another process has it, RecordUnavailable."""
        with faults_translated():
            connection = self._engine.connect().execution_options(isolation_level="REPEATABLE READ")
            try:
                with connection.begin():
                    _take_lock(connection)
                    connection.execute(_SESSION)
                    self._cluster = str(connection.execute(_CLUSTER).scalar_one())
            except BaseException:
                connection.close()
                self._engine.dispose()
                raise
        self._connection = connection
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._connection is not None:
            self._connection.invalidate()  # never given to anybody else: it has the lock
            self._connection.close()
            self._connection = None
        self._engine.dispose()

    @property
    def origin(self) -> str:
        """What the checkpoints say."""
        return self._log.origin

    # --- beginning --------------------------------------------------------------------------------

    def begin(self) -> None:
        """Open the log if there is none, and make sure that database, folder and key are of one mind.

        Raises SealingRefused where they are not, RecordUnavailable.
        """
        self._next = self._folder.next_key()
        kept = self._kept()
        with self._transaction() as connection:
            self._log = _newest_log(connection) or self._open(connection, kept)
            self._key = self._own_key(connection)
            sealed = _newest_seal(connection, self._log)
            try:
                self._stand_on(connection, sealed)
                self._agree(connection, kept, sealed)
            except TreeDamaged as damage:
                raise SealingRefused(str(damage)) from None
        self._catch_up(kept)
        self._finish_rotation()

    def newest(self) -> Seal | None:
        """The newest seal of the log that goes on. Raises RecordUnavailable."""
        with self._transaction() as connection:
            return _newest_seal(connection, self._log)

    def reopen(self, reason: str) -> str:
        """Open the log again under another origin, after what it stood on is gone; says the origin.

        Raises SealingRefused where there is nothing wrong, RecordUnavailable.
        """
        if self._trouble() is None:
            raise SealingRefused(f"there is nothing to restart: {self._log.origin} goes on")
        kept = self._kept()  # what cannot be read must not be named: it has to be put aside first
        with self._transaction() as connection:
            former = _newest_log(connection)
            note = kept[1] if kept is not None else None if former is None else _newest_note(connection, former)
            before = note.partition("\n")[0] if note is not None else former.origin if former is not None else None
            if before is None:
                raise SealingRefused("there is nothing to restart: nothing was sealed yet")
            name = _RESTARTED.sub("", before)
            number = 1 + max(0 if former is None else former.number, _number_of(before))
            key = self._folder.key() or self._folder.make_key(name)
            self._announce(connection, key, number=number, origin=f"{name}/restart-{number}", reason=reason, former=note)
        self.begin()
        return self._log.origin

    def _trouble(self) -> SealingRefused | None:
        try:
            self.begin()
        except SealingRefused as refused:
            return refused
        return None

    def _kept(self) -> tuple[Checkpoint, str] | None:
        """The checkpoint outside the database. Raises SealingRefused where it is not signed by the key beside it."""
        note = self._folder.checkpoint()
        return None if note is None else (self._opened(note, f"the checkpoint in {self._folder.path}"), note)

    def _opened(self, note: str, what: str) -> Checkpoint:
        keys = [key.verifier for key in (self._folder.key(), self._next) if key is not None]
        try:
            return Checkpoint.parse(open_note(note, keys)[0])
        except NoteRefused as fault:
            raise SealingRefused(f"{what}: {fault}") from None

    def _own_key(self, connection: Connection) -> SigningKey:
        """The key of this folder, which the log must have named. Raises SealingRefused."""
        key = self._folder.key()
        if key is None:
            raise SealingRefused(f"the database has the log {self._log.origin}, and its key is not in {self._folder.path}")
        if not _is_named(connection, key.verifier.text):
            raise SealingRefused(f"the key in {self._folder.path} is none that {self._log.origin} has named")
        return key

    def _open(self, connection: Connection, kept: tuple[Checkpoint, str] | None) -> _Log:
        if kept is not None:
            raise SealingRefused(f"the database has no log, and {_told(kept[0])} is kept in {self._folder.path}")
        key = self._folder.key() or self._folder.make_key(self._name or f"facegate.local/{secrets.token_hex(6)}")
        return self._announce(connection, key, number=1, origin=key.verifier.name, reason=None, former=None)

    def _announce(
        self, connection: Connection, key: SigningKey, *, number: int, origin: str, reason: str | None, former: str | None
    ) -> _Log:
        """Write that a log is opened. It is committed before anything is sealed into it, so that its entry is there to be read again."""
        facts: dict[str, Json] = {"origin": origin, "key": key.verifier.text, "reason": reason, "former": former}
        entry = self._write(connection, "opened" if number == 1 else "restarted", facts)
        connection.execute(insert(tables.log).values(number=number, origin=origin, entry=entry, reason=reason, former=former))
        _name_key(connection, key.verifier.text, entry)
        return _Log(number=number, origin=origin, entry=entry, former=former)

    def _write(self, connection: Connection, event: str, facts: dict[str, Json]) -> UUID:
        id = uuid7()
        set_context(connection, Context(tenant=OPERATOR))
        entry = log_entry(id=id, tenant=OPERATOR, event=event, actor="sealer", at=self._clock(), nonce=new_nonce(), facts=facts)
        write_entry(connection, id=id, tenant=OPERATOR, kind="log", canonical=entry)
        return id

    def _stand_on(self, connection: Connection, sealed: Seal | None) -> None:
        """Take up the tree where the newest seal left it."""
        size, root = (0, EMPTY_ROOT) if sealed is None else (sealed.checkpoint.size, sealed.checkpoint.root)
        self._edge = Edge.of(size, hashes_of_nodes(connection, self._log.number, complete_subtrees((0, size))))
        if self._edge.root != root:
            raise SealingRefused(f"the tree in the database is not the one that was sealed with {size} leaves")
        is_at_home = self._folder.cluster() == self._cluster  # another server counts its transactions anew
        self._through = _through(connection, self._log) if sealed is not None and is_at_home else 0

    def _agree(self, connection: Connection, kept: tuple[Checkpoint, str] | None, sealed: Seal | None) -> None:
        """Raises SealingRefused unless what is in the database and what is kept outside can be of one log."""
        if sealed is not None and self._opened(sealed.note, "the newest seal in the database") != sealed.checkpoint:
            raise SealingRefused("the newest seal in the database is not what its signature says")
        if kept is None:
            if sealed is not None:
                raise SealingRefused(f"{_told(sealed.checkpoint)} is sealed, and no checkpoint is kept in {self._folder.path}")
            return
        outside, note = kept
        if outside.origin != self._log.origin:
            if sealed is not None or self._log.former != note:
                raise SealingRefused(f"the database goes on with {self._log.origin}, and {_told(outside)} is kept in {self._folder.path}")
            return
        if outside.size <= self._edge.size:  # at the same size, or from a copy of the folder that is older than the database
            (root,) = hashes_of_ranges(connection, self._log.number, [(0, outside.size)])
            if root != outside.root:
                raise SealingRefused(f"the database has another tree than {_told(outside)}")

    def _catch_up(self, kept: tuple[Checkpoint, str] | None) -> None:
        """Commit the checkpoint that was signed and not committed. The entries under it must all be there, and come to its root."""
        if kept is None or kept[0].origin != self._log.origin or kept[0].size <= self._edge.size:
            return
        outside, note = kept
        with self._transaction() as connection:
            reading = self._read(connection, outside.size - self._edge.size)
            growth = self._grow(reading)
            if (growth.edge.size, growth.edge.root) != (outside.size, outside.root):
                raise SealingRefused(
                    f"{_told(outside)} was signed, and the database goes back to {self._edge.size}: an older state of it was restored"
                )
            self._commit(connection, growth, outside, note, reading.through)
        self._edge, self._through = growth.edge, reading.through

    # --- one round --------------------------------------------------------------------------------

    def seal(self) -> Seal | None:
        """Seal what is there to be sealed; None where there is nothing. Raises SealingRefused, RecordUnavailable."""
        rotation = self._announce_rotation()
        with self._transaction() as connection:
            reading = self._read(connection, self._most, awaited=rotation)  # 1. Read
            if not reading.hashes:
                self._note_place(reading)
                return None
            self._before("extend")
            growth = self._grow(reading)  # 2. Extend
            checkpoint = Checkpoint(origin=self._log.origin, size=growth.edge.size, root=growth.edge.root)
            note = signed(checkpoint.text, [self._key] if self._next is None else [self._key, self._next])
            self._before("keep")
            self._folder.keep_checkpoint(note)  # 3. Keep
            self._before("write")
            sealed_at = self._commit(connection, growth, checkpoint, note, reading.through)  # 4. Commit, when this block is left
            self._before("commit")
        self._before("go on")
        self._edge = growth.edge
        self._note_place(reading)
        if reading.has_awaited:
            self._promote()
        return Seal(checkpoint=checkpoint, note=note, sealed_at=sealed_at)

    def _read(self, connection: Connection, most: int, *, awaited: UUID | None = None) -> _Reading:
        """1. What is to be sealed now, written as leaves that nobody sees before the commit. The entry that opens a log is its first leaf, alone."""
        newest = _newest_seal(connection, self._log)
        if (0 if newest is None else newest.checkpoint.size) != self._edge.size:
            raise SealingRefused("somebody else has sealed meanwhile, or taken seals away")
        oldest, next_ = connection.execute(_SNAPSHOT).one()
        values = {"log": self._log.number, "first": self._edge.size, "awaited": awaited, "oldest": oldest, "next": next_}
        if self._edge.size == 0:
            found = connection.execute(_TAKE_OPENING, values | {"opening": self._log.entry, "operator": OPERATOR}).one()
            return _Reading(hashes=_cut(found.hashes), through=0, is_all=False, has_awaited=False)
        found = connection.execute(_TAKE_UNSEALED, values | {"through": self._through, "most": most}).one()
        is_cut = found.leaves == most
        through = min(found.last, oldest) if is_cut else oldest
        return _Reading(hashes=_cut(found.hashes), through=through, is_all=not is_cut, has_awaited=found.has_awaited)

    def _grow(self, reading: _Reading) -> _Growth:
        """2. The tree with these leaves; the present one stays as it is."""
        edge = Edge.of(self._edge.size, self._edge.peaks)
        nodes = [made for leaf in reading.hashes for made in edge.append(leaf)]
        return _Growth(edge=edge, nodes=nodes)

    def _commit(self, connection: Connection, growth: _Growth, checkpoint: Checkpoint, note: str, through: int) -> datetime:
        """4. Write nodes and seal beside the leaves; says when."""
        log, seal = self._log.number, tables.seal
        if growth.nodes:
            rows = [{"log": log, "height": height, "place": place, "hash": hashed} for (height, place), hashed in growth.nodes]
            connection.execute(insert(tables.node), rows)
        values = {"log": log, "size": checkpoint.size, "root": checkpoint.root, "note": note, "through": str(through)}
        sealed_at: datetime = connection.execute(insert(seal).values(values).returning(seal.c.sealed_at)).scalar_one()
        return sealed_at

    def _note_place(self, reading: _Reading) -> None:
        """Where the next reading begins."""
        self._through = reading.through
        if reading.is_all and self._folder.cluster() != self._cluster:
            self._folder.keep_cluster(self._cluster)

    # --- another key ------------------------------------------------------------------------------

    def _announce_rotation(self) -> UUID | None:
        """Where a key waits to take over: the entry that says so. Until that is sealed, both keys sign."""
        if self._next is None:
            self._next = self._folder.next_key()
        if self._next is None:
            return None
        key = self._next.verifier.text
        with self._transaction() as connection:
            entry: UUID | None = connection.execute(select(tables.seal_key.c.entry).where(tables.seal_key.c.key == key)).scalar()
            if entry is None:
                # That an entry says so proves nothing, whoever can write entries could: so both keys sign it.
                note = signed(key_change_text(self._log.origin, self._next.verifier), [self._key, self._next])
                facts: dict[str, Json] = {"origin": self._log.origin, "key": key, "former_key": self._key.verifier.text, "note": note}
                entry = self._write(connection, "rotated", facts)
                _name_key(connection, key, entry)
        return entry

    def _finish_rotation(self) -> None:
        """After a death between the seal under both keys and the end of the former one."""
        if self._next is None:
            return
        announced = select(tables.leaf.c.entry).join(tables.seal_key, tables.seal_key.c.entry == tables.leaf.c.entry)
        with self._transaction() as connection:
            is_sealed = connection.execute(announced.where(tables.seal_key.c.key == self._next.verifier.text)).first() is not None
        if is_sealed:
            self._promote()

    def _promote(self) -> None:
        if self._next is not None:
            self._folder.promote_next_key()
            self._key, self._next = self._next, None

    # --- the database -----------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        if self._connection is None:
            raise RecordUnavailable("the sealer has no connection")
        try:
            with faults_translated(), self._connection.begin():
                yield self._connection
        except IntegrityError:
            raise SealingRefused("the database holds leaves or seals that the one before does not account for") from None


def _newest_log(connection: Connection) -> _Log | None:
    log = tables.log
    row = connection.execute(select(log).order_by(log.c.number.desc()).limit(1)).one_or_none()
    return None if row is None else _Log(number=row.number, origin=row.origin, entry=row.entry, former=row.former)


def _newest_seal(connection: Connection, log: _Log) -> Seal | None:
    row = connection.execute(_NEWEST, {"log": log.number}).one_or_none()
    if row is None:
        return None
    checkpoint = Checkpoint(origin=log.origin, size=row.size, root=bytes(row.root))
    return Seal(checkpoint=checkpoint, note=row.note, sealed_at=row.sealed_at)


def _newest_note(connection: Connection, log: _Log) -> str | None:
    sealed = _newest_seal(connection, log)
    return None if sealed is None else sealed.note


def _through(connection: Connection, log: _Log) -> int:
    through: int = connection.execute(_NEWEST, {"log": log.number}).one().through
    return through


def _is_named(connection: Connection, key: str) -> bool:
    return connection.execute(select(tables.seal_key.c.key).where(tables.seal_key.c.key == key)).first() is not None


def _name_key(connection: Connection, key: str, entry: UUID) -> None:
    if not _is_named(connection, key):
        connection.execute(insert(tables.seal_key).values(key=key, entry=entry))


def _take_lock(connection: Connection) -> None:
    """For as long as the connection lasts."""
    if not connection.execute(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _LOCK}).scalar_one():
        raise SealingRefused("another process seals this database already")


def _cut(hashes: memoryview | None) -> list[bytes]:
    """The hashes that were joined, of 32 bytes each."""
    joined = b"" if hashes is None else bytes(hashes)
    return [joined[at : at + HASH_BYTES] for at in range(0, len(joined), HASH_BYTES)]


def _told(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.origin} with {checkpoint.size} entries"


def _number_of(origin: str) -> int:
    """Which of the log's origins this is."""
    numbered = _RESTARTED.search(origin)
    return 1 if numbered is None else int(numbered[1])
