"""What must hold of the record and the stores after any fault, checked on a dump of both and on nothing else."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Table, select

from moderation.adapters import tables
from moderation.adapters.database import Context, Database
from moderation.audit import leaf_hash
from moderation.media import sha256_of

Row = Mapping[str, Any]

ENDS: Final = frozenset({"released", "denied", "failed", "cancelled"})
AREAS: Final = ("intake", "quarantine", "released")
WITH_ENTRY: Final = {"decision": "decision", "transform": "transform", "release": "release", "review": "review", "stream_view": "showing"}
"""Tables whose rows have an entry of the same id, and its kind."""
TABLES: Final = (*WITH_ENTRY, "transform_event", "transform_cancel", "part", "entry", "job", "release_withdrawal", "release_purge")
CLOCK: Final = timedelta(milliseconds=20)
"""By how much the kernel's time of a file may lag behind the clock that Postgres asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One object of a store."""

    tenant: UUID
    transform: UUID
    sha256: str
    data: bytes
    stored_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """All rows of one tenant, as that tenant sees them, and all its files."""

    tenant: UUID
    rows: Mapping[str, Sequence[Row]]
    files: Mapping[str, Sequence[File]] = field(default_factory=dict)


async def take(database: Database, tenant: UUID, media: Path) -> Dump:
    """Read everything of a tenant, in one transaction, and the folder of the stores."""

    def read(connection: Connection) -> dict[str, list[Row]]:
        return {name: [row._asdict() for row in connection.execute(select(_table(name)))] for name in TABLES}

    rows = await database.run(Context(tenant=tenant), read)
    return Dump(tenant=tenant, rows=rows, files={area: list(_files(media / area, tenant)) for area in AREAS})


def _table(name: str) -> Table:
    return tables.metadata.tables[f"{tables.metadata.schema}.{name}"]


def _files(folder: Path, tenant: UUID) -> Iterator[File]:
    for file in (folder / tenant.hex).rglob("*"):
        if file.is_file():
            stored_at = datetime.fromtimestamp(file.stat().st_mtime, UTC)
            yield File(tenant=tenant, transform=UUID(file.parent.name), sha256=file.name, data=file.read_bytes(), stored_at=stored_at)


def violations(dump: Dump) -> list[str]:
    """Everything that must not be, in words; empty if all holds. Expects that all work has ended."""
    return [*_of_tenant(dump), *_of_entries(dump), *(broken for one in dump.rows["transform"] for broken in _of_transform(dump, one))]


def _of_tenant(dump: Dump) -> Iterator[str]:
    """A tenant sees its own and nothing else."""
    for name in TABLES:
        if any(row["tenant"] != dump.tenant for row in dump.rows[name]):
            yield f"{name}: shows rows of another tenant"
    known = {row["id"] for row in dump.rows["transform"]}
    for name in ("transform_event", "part", "release"):
        if any(row["transform"] not in known for row in dump.rows[name]):
            yield f"{name}: belongs to no transform"


def _of_entries(dump: Dump) -> Iterator[str]:
    """Each fact has one entry about it, each entry its fact and its leaf."""
    about = Counter((entry["kind"], entry["id"]) for entry in dump.rows["entry"])
    for name, kind in WITH_ENTRY.items():
        facts = Counter((kind, row["id"]) for row in dump.rows[name])
        entries = Counter({key: count for key, count in about.items() if key[0] == kind})
        if facts != entries:
            yield f"{name}: {facts.total()} rows, {entries.total()} entries, {(facts - entries).total()} without one"
    for entry in dump.rows["entry"]:
        said = json.loads(entry["canonical"])
        if (said["id"], said["tenant"]) != (str(entry["id"]), str(dump.tenant)) or entry["leaf"] != leaf_hash(entry["canonical"]):
            yield f"entry {entry['id']}: does not say what it is about, or has another leaf"


def _of_transform(dump: Dump, transform: Row) -> Iterator[str]:
    """All that must hold of one transform; each finding names it."""
    one = _One(dump, transform)
    rules = (
        one.ends_once,
        one.is_denied_on_grounds,
        one.is_judged_once,
        one.starts_after_its_inputs,
        one.is_made_in_order,
        one.is_shown_after_it_passed,
        one.is_released_once,
        one.is_in_its_place,
    )
    for finding in (finding for rule in rules for finding in rule()):
        yield f"transform {transform['id']}: {finding}"


class _One:
    """The rows and files about one transform."""

    def __init__(self, dump: Dump, transform: Row) -> None:
        self.dump = dump
        self.transform = transform
        self.events = sorted(self._about("transform_event"), key=lambda event: event["sequence"])
        self.decisions = {row["id"]: row for row in self._about("decision")}
        self.parts = {part["kind"]: part for part in self._about("part") if part["kind"] != "segment"}
        self.segments = sorted((part for part in self._about("part") if part["kind"] == "segment"), key=lambda part: part["number"])
        self.releases = self._about("release")
        self.state = self.events[-1]["state"] if self.events else "unknown"

    def _about(self, table: str) -> list[Row]:
        return [row for row in self.dump.rows[table] if row["transform"] == self.transform["id"]]

    def _files(self, area: str) -> list[File]:
        return [file for file in self.dump.files[area] if file.transform == self.transform["id"]]

    def ends_once(self) -> Iterator[str]:
        """I2: one end, the last of events without a gap, and no work left."""
        if [event["sequence"] for event in self.events] != list(range(1, len(self.events) + 1)):
            yield "its events have a gap"
        if [event["state"] in ENDS for event in self.events].count(True) != 1 or self.state not in ENDS:
            yield f"it has not one end: {[event['state'] for event in self.events]}"
        if any(later["recorded_at"] < earlier["recorded_at"] for earlier, later in zip(self.events, self.events[1:], strict=False)):
            yield "its events are out of order"
        if [job["state"] for job in self.dump.rows["job"] if job["id"] == self.transform["id"]] != ["done"]:
            yield "its work has not ended"
        if self.state == "cancelled" and not self._about("transform_cancel"):
            yield "cancelled, and nobody asked for it"

    def is_denied_on_grounds(self) -> Iterator[str]:
        """A denial names a decision of its own that blocks, or that a person blocks; or one about the same bytes that a person blocks."""
        if self.state == "denied":
            denial = self.events[-1]["denial"]
            decision = self.decisions.get(UUID(denial["decision"]))
            if decision is None and self._is_blocked_elsewhere(denial):
                return
            if decision is None or decision["stage"] != denial["stage"]:
                yield "denied because of no decision of its own"
            elif decision["verdict"] != "block" and self._passes(decision, self.events[-1]["recorded_at"]):
                yield "denied because of a decision that lets it pass"

    def _is_blocked_elsewhere(self, denial: Row) -> bool:
        """Whether the review that the denial names blocks the decision that it names, and that is about bytes of this transform."""
        own = {self.transform["source_sha256"], self.transform["target_sha256"], *(part["sha256"] for part in self._about("part"))}
        about = {row["id"] for row in self.dump.rows["decision"] if row["media_sha256"] in own}
        said = {
            (str(row["id"]), str(row["decision"]))
            for row in self.dump.rows["review"]
            if row["verdict"] == "block" and row["decision"] in about
        }
        return any((reason["detail"], denial["decision"]) in said for reason in denial["reasons"])

    def is_judged_once(self) -> Iterator[str]:
        """I3: one decision for each stage, and of a video for each segment, that is no fault of ours, about the bytes of that stage."""
        judged = [row for row in self.decisions.values() if row["verdict"] != "error"]
        for (stage, _), count in Counter((row["stage"], row["media_sha256"]) for row in judged).items():
            if count > 1:
                yield f"{count} decisions about its {stage}"
        encoded = self.parts.get("encoded")
        names = {
            "source": {self.transform["source_sha256"]},
            "target": {self.transform["target_sha256"]},
            "output": {part["sha256"] for part in (*self.segments, encoded) if part is not None},
        }
        if any(row["media_sha256"] not in names[row["stage"]] for row in self.decisions.values()):
            yield "a decision is about other bytes"

    def starts_after_its_inputs(self) -> Iterator[str]:
        """I4: nothing is made of pictures that were not both let pass before."""
        began = [event["recorded_at"] for event in self.events if event["state"] == "transforming"]
        began += [part["recorded_at"] for part in (*self.parts.values(), *self.segments)]
        for stage in ("source", "target"):
            if began and not any(self._passes(row, min(began)) for row in self.decisions.values() if row["stage"] == stage):
                yield f"worked on before its {stage} was allowed"

    def _passes(self, decision: Row, at: datetime) -> bool:
        """Whether a decision let its picture pass at a moment, by itself or by what a person had said of it last."""
        said = [review for review in self.dump.rows["review"] if review["decision"] == decision["id"] and review["recorded_at"] <= at]
        last = max(said, key=lambda review: review["recorded_at"], default=None)
        is_allowed = decision["verdict"] == "allow" or (decision["verdict"] == "review" and last is not None)
        return is_allowed and decision["recorded_at"] <= at and (last is None or last["verdict"] == "allow")

    def is_made_in_order(self) -> Iterator[str]:
        """I6, of a video: segment after segment without a gap, none while one before it had not passed, and no whole without all of them."""
        frames = 0
        for number, part in enumerate(self.segments, 1):
            if (part["number"], part["first_frame"]) != (number, frames):
                yield f"segment {number} is not where it belongs"
            frames += part["frames"]
            later = [one["recorded_at"] for one in (*self.segments[number:], *self.parts.values())]
            if later and not self._is_passed(part, min(later)):
                yield f"made on before segment {number} had passed"
        if self.segments and self.parts and [part["is_last"] for part in self.segments] != [False] * (len(self.segments) - 1) + [True]:
            yield "joined without its last segment"

    def is_shown_after_it_passed(self) -> Iterator[str]:
        """I7: what was shown before the release had passed by then, and nothing had stopped the transform."""
        stopped = [event["recorded_at"] for event in self.events if event["state"] in ENDS - {"released"}]
        stopped += [cancel["recorded_at"] for cancel in self._about("transform_cancel")]
        for view in self._about("stream_view"):
            asked = self.segments[view["first_segment"] - 1 : view["last_segment"]]
            if len(asked) != view["last_segment"] - view["first_segment"] + 1:
                yield "a segment was shown that is not there"
            if not all(self._is_passed(part, view["recorded_at"]) for part in asked):
                yield "a segment was shown that had not passed"
            if stopped and view["recorded_at"] > min(stopped) + CLOCK:
                yield "a segment was shown after the end"

    def _is_passed(self, part: Row, at: datetime) -> bool:
        about = (row for row in self.decisions.values() if (row["stage"], row["media_sha256"]) == ("output", part["sha256"]))
        return any(self._passes(row, at) for row in about)

    def is_released_once(self) -> Iterator[str]:
        """I1 and I3: one release or none; what can be served is what it names, and three decisions let it pass before."""
        if len(self.releases) != (self.state == "released"):
            yield f"{self.state} with {len(self.releases)} releases"
        files = self._files("released")
        if any(sha256_of(file.data) != file.sha256 for file in files):
            yield "a released file was altered"
        is_gone = bool(self._about("release_purge"))
        if sorted(file.sha256 for file in files) != [release["signed_sha256"].hex() for release in self.releases if not is_gone]:
            yield f"{len(files)} files can be served, {len(self.releases)} are released"
        for release in self.releases:
            if any(file.stored_at < release["recorded_at"] - CLOCK for file in files):
                yield "its file lay there before the release"
            yield from self._grounds_of(release)

    def _grounds_of(self, release: Row) -> Iterator[str]:
        encoded, signed = self.parts.get("encoded"), self.parts.get("signed")
        output = self.decisions.get(release["output_decision"])
        screened = output and output["media_facts"] and output["media_facts"].get("frame_digest")
        if encoded is None or signed is None or signed["made_of"] != encoded["sha256"]:
            yield "the signed file is not the encoded one"
        elif signed["frame_digest"] is None or signed["frame_digest"] != screened:
            yield "the signed file shows something else than was screened"
        elif (release["encoded_sha256"], release["signed_sha256"]) != (encoded["sha256"], signed["sha256"]):
            yield "the release names other files"
        for stage in ("source", "target", "output"):
            decision = self.decisions.get(release[f"{stage}_decision"])
            if decision is None or decision["stage"] != stage or not self._passes(decision, release["recorded_at"]):
                yield f"released without its {stage} being allowed before"

    def is_in_its_place(self) -> Iterator[str]:
        """I5, as far as a store shows it: what is not released lies nowhere but in its own areas, under its own names."""
        sent = {self.transform["source_sha256"].hex(), self.transform["target_sha256"].hex()}
        if any(file.sha256 not in sent for file in self._files("intake")):
            yield "something that was not sent lies in intake"
        if sent & {file.sha256 for area in ("quarantine", "released") for file in self._files(area)}:
            yield "an input lies where results are"
