"""The tables, as SQLAlchemy sees them. Migrations create them; a test holds the two equal.

All of them lie in the schema `facegate`. Three rules hold throughout, and the migrations enforce them:

- A table with a `tenant` column has forced row-level security; a transaction sees the tenant that it named with
  `set_config('facegate.tenant', ..., true)`, and nothing without one.
- Append-only tables (`APPEND_ONLY`) take INSERT of the columns the run-time role may know, and nothing else from anybody:
  what the database itself knows better (`recorded_at`, `leaf`, `xid`) cannot be given.
- Large tables (`PARTITIONED`) are partitioned by month of their UUIDv7. Primary keys begin with the tenant, so that a
  foreign key can never lead to another tenant's row.

`decision` holds what is asked for in columns and the rest as JSON; `entry` holds the canonical bytes that proofs are made
of, from the first row on, written in the same transaction. `entry.xid` lets a sealer read every entry exactly once without a
queue: all entries whose transaction is older than the oldest one still running are there to stay.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    Date,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import UserDefinedType

SCHEMA: Final = "facegate"

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    },
)

_NOW = text("clock_timestamp()")
_MOMENT = DateTime(timezone=True)


class Xid8(UserDefinedType[int]):
    """The 64-bit transaction id."""

    cache_ok = True

    def get_col_spec(self, **_options: object) -> str:
        """Its name in SQL."""
        return "xid8"


tenant = Table(
    "tenant",
    metadata,
    Column("id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("name"),
)

api_key = Table(
    "api_key",
    metadata,
    Column("id", Text, nullable=False),
    Column("tenant", Uuid, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("policies", ARRAY(Text), nullable=False),
    Column("secret_sha256", Text, nullable=False),
    Column("sigv4_secret", LargeBinary, comment="encrypted under the service key"),
    Column("subject", Text),
    Column("created_at", _MOMENT, nullable=False),
    Column("expires_at", _MOMENT),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("tenant", "id"),
    ForeignKeyConstraint(["tenant"], [tenant.c.id]),
)

api_key_event = Table(
    "api_key_event",
    metadata,
    Column("id", Uuid, nullable=False),
    Column("tenant", Uuid, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("at", _MOMENT, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant", "id"),
    ForeignKeyConstraint(["tenant", "key_id"], [api_key.c.tenant, api_key.c.id]),
    CheckConstraint("event IN ('created', 'revoked')", name="event"),
    Index("api_key_event_key_id_idx", "key_id"),
)

policy = Table(
    "policy",
    metadata,
    Column("tenant", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("digest", Text, nullable=False),
    Column("content", JSONB, nullable=False),
    Column("actor", Text, nullable=False),
    Column("created_at", _MOMENT, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant", "name", "version"),
    ForeignKeyConstraint(["tenant"], [tenant.c.id]),
    CheckConstraint("version > 0", name="version"),
)

policy_event = Table(
    "policy_event",
    metadata,
    Column("id", Uuid, nullable=False),
    Column("tenant", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("event", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("at", _MOMENT, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant", "id"),
    ForeignKeyConstraint(["tenant", "name", "version"], [policy.c.tenant, policy.c.name, policy.c.version]),
    CheckConstraint("event IN ('published')", name="event"),
)

classifier = Table(
    "classifier",
    metadata,
    Column("id", LargeBinary, nullable=False, comment="SHA-256 of all other facts; belongs to no tenant"),
    Column("name", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("mapping_digest", Text, nullable=False),
    Column("categories", ARRAY(Text), nullable=False),
    Column("input", JSONB, nullable=False),
    Column("calibrated", Boolean, nullable=False),
    Column("runtime", Text, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("id"),
    Index("classifier_name_idx", "name"),
)

thresholds = Table(
    "thresholds",
    metadata,
    Column("id", LargeBinary, nullable=False, comment="SHA-256 of `applied`"),
    Column("tenant", Uuid, nullable=False),
    Column("applied", JSONB, nullable=False, comment="the same for all decisions under one policy, so kept once"),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant", "id"),
)

# Refused media are no fault of ours: everything else with which a decision could not be made in full is.
FAULTS: Final = 'jsonb_path_exists(reasons, \'$[*] ? (@.verdict == "error" && @.code != "media_refused" && @.code != "no_frames")\')'
"""That a decision was made while something of ours was missing."""

decision = Table(
    "decision",
    metadata,
    Column("id", Uuid, nullable=False),
    Column("tenant", Uuid, nullable=False),
    Column("actor", Text, nullable=False),
    Column("automated", Boolean, nullable=False),
    Column("created_at", _MOMENT, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("transform", Uuid),
    Column("reused_from", Uuid),
    Column("stage", Text, nullable=False),
    Column("media_sha256", LargeBinary, nullable=False),
    Column("media_bytes", BigInteger, nullable=False),
    Column("media_facts", JSONB, comment="null where the bytes could not be opened"),
    Column("verdict", Text, nullable=False),
    Column("categories", ARRAY(Text), nullable=False, comment="those that a reason names"),
    Column("reasons", JSONB, nullable=False),
    Column("thresholds", LargeBinary, nullable=False, comment="thresholds.id"),
    Column("classifiers", ARRAY(LargeBinary), nullable=False, comment="classifier.id, in the order of `sheets`"),
    Column("sheets", JSONB, nullable=False, comment="every score of every frame, as integers of 1e-6"),
    Column("policy_name", Text, nullable=False),
    Column("policy_version", Integer, nullable=False),
    Column("policy_digest", Text, nullable=False),
    Column("plan_digest", Text, nullable=False),
    Column("decoder", Text, nullable=False),
    Column("reuse_key", LargeBinary, comment="null where the scores must not be used again"),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant", "id"),
    CheckConstraint("stage IN ('upload', 'source', 'target', 'output')", name="stage"),
    CheckConstraint("verdict IN ('allow', 'review', 'block', 'error')", name="verdict"),
    CheckConstraint("octet_length(media_sha256) = 32", name="media_sha256"),
    CheckConstraint("verdict <> 'error' OR reuse_key IS NULL", name="reuse_key"),
    # What a search by time relies on to look into few partitions.
    CheckConstraint(
        "created_at >= facegate.uuid_time(id) - interval '1 day' AND created_at < facegate.uuid_time(id) + interval '31 days'",
        name="created_at",
    ),
    Index("decision_media_idx", "tenant", "media_sha256", "id"),
    Index("decision_reuse_idx", "tenant", "reuse_key", "id", postgresql_where=text("reuse_key IS NOT NULL")),
    Index(
        "decision_verdict_idx",
        "tenant",
        "verdict",
        "id",
        postgresql_include=["stage", "automated", "created_at", "actor", "transform", "policy_name", "categories"],
        postgresql_where=text("verdict <> 'allow'"),
    ),
    Index(
        "decision_transform_idx",
        "tenant",
        "transform",
        "id",
        postgresql_include=["stage", "verdict", "media_sha256", "recorded_at"],
        postgresql_where=text("transform IS NOT NULL"),
    ),
    Index("decision_block_idx", "tenant", "created_at", "id", "stage", postgresql_where=text("verdict = 'block'")),
    Index(
        "decision_fault_idx",
        "tenant",
        "created_at",
        "id",
        postgresql_include=["stage", "media_sha256", "transform"],
        postgresql_where=text(f"verdict IN ('error', 'block') AND {FAULTS}"),
    ),
    Index("decision_output_idx", "tenant", "created_at", "id", postgresql_include=["verdict"], postgresql_where=text("stage = 'output'")),
    # What reports count by: everything in the index, so that a year is counted without the rows.
    Index(
        "decision_report_idx",
        "tenant",
        "created_at",
        "id",
        postgresql_include=["stage", "verdict", "automated", "policy_name", "categories"],
    ),
    Index("decision_categories_idx", "categories", postgresql_using="gin", postgresql_where=text("categories <> '{}'")),
    postgresql_partition_by="RANGE (id)",
)

entry = Table(
    "entry",
    metadata,
    Column("id", Uuid, nullable=False, comment="the id of what it is about"),
    Column("tenant", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("canonical", LargeBinary, nullable=False, comment="RFC 8785, with its nonce"),
    Column("leaf", LargeBinary, Computed("sha256('\\x00'::bytea || canonical)", persisted=True), comment="RFC 6962"),
    Column("xid", Xid8, nullable=False, server_default=text("pg_current_xact_id()")),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant", "id", postgresql_include=["kind", "leaf"]),
    Index("entry_xid_idx", "xid", "id"),
    Index("entry_kind_idx", "tenant", "kind", "id", postgresql_where=text("kind <> 'decision'")),
    postgresql_partition_by="RANGE (id)",
)

personal = Table(
    "personal",
    metadata,
    Column("id", Uuid, nullable=False, comment="the id of what it is about"),
    Column("tenant", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("content", Text, nullable=False, comment="erasable; the entry holds its salted commitment"),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant", "id", "kind"),
    CheckConstraint("octet_length(salt) >= 16", name="salt"),
    Index("personal_content_idx", "tenant", text("md5(content)"), "id"),
    Index(
        "personal_consent_idx",
        "tenant",
        text("md5(content::jsonb ->> 'reference')"),
        "id",
        postgresql_where=text("kind IN ('consent', 'target_consent')"),
    ),
    postgresql_partition_by="RANGE (id)",
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("tenant", Uuid, nullable=False),
    Column("key", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("resource", Uuid, nullable=False),
    Column("created_at", _MOMENT, nullable=False, server_default=_NOW),
    Column("lease_until", _MOMENT),
    PrimaryKeyConstraint("tenant", "key"),
    Index("idempotency_created_at_idx", "created_at"),
)

job = Table(
    "job",
    metadata,
    Column("id", Uuid, nullable=False),
    Column("tenant", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("payload", JSONB, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("fence", BigInteger, nullable=False, server_default=text("0")),
    Column("lease_until", _MOMENT),
    Column("run_at", _MOMENT, nullable=False, server_default=_NOW),
    Column("last_error", Text),
    Column("created_at", _MOMENT, nullable=False, server_default=_NOW),
    Column("finished_at", _MOMENT),
    PrimaryKeyConstraint("id"),
    CheckConstraint("state IN ('queued', 'running', 'done', 'parked')", name="state"),
    Index("job_due_idx", "run_at", postgresql_where=text("state IN ('queued', 'running')")),
    Index("job_tenant_idx", "tenant", "id"),
    Index("job_unended_idx", "tenant", "kind", postgresql_where=text("state IN ('queued', 'running')")),
    Index("job_parked_idx", "kind", postgresql_where=text("state = 'parked'")),
)

# --- transforms -----------------------------------------------------------------------------------

source = Table(
    "source",
    metadata,
    Column("id", Uuid, nullable=False),
    Column("tenant", Uuid, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("type", Text, nullable=False),
    Column("decision", Uuid, nullable=False, comment="the allow that it was approved on"),
    Column("consent_basis", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("created_at", _MOMENT, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant", "id"),
    ForeignKeyConstraint(["tenant", "decision"], [decision.c.tenant, decision.c.id]),
    CheckConstraint("octet_length(sha256) = 32", name="sha256"),
    CheckConstraint("consent_basis IN ('self', 'subject_consent', 'licensed')", name="consent_basis"),
    Index("source_sha256_idx", "tenant", "sha256"),
)

source_event = Table(
    "source_event",
    metadata,
    Column("id", Uuid, nullable=False),
    Column("tenant", Uuid, nullable=False),
    Column("source", Uuid, nullable=False),
    Column("event", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("at", _MOMENT, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant", "id"),
    UniqueConstraint("tenant", "source", "event"),
    ForeignKeyConstraint(["tenant", "source"], [source.c.tenant, source.c.id]),
    CheckConstraint("event IN ('approved', 'removed')", name="event"),
)

transform = Table(
    "transform",
    metadata,
    Column("id", Uuid, nullable=False),
    Column("tenant", Uuid, nullable=False),
    Column("actor", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("created_at", _MOMENT, nullable=False),
    Column("policy_name", Text, nullable=False),
    Column("policy_version", Integer, nullable=False),
    Column("policy_digest", Text, nullable=False),
    Column("source_sha256", LargeBinary, nullable=False),
    Column("source_size", BigInteger, nullable=False),
    Column("source_type", Text, nullable=False),
    Column("target_sha256", LargeBinary, nullable=False),
    Column("target_size", BigInteger, nullable=False),
    Column("target_type", Text, nullable=False),
    Column("options", JSONB, nullable=False),
    Column("consent_basis", Text, comment="statement and reference lie in `personal`"),
    Column("target_consent_basis", Text),
    Column("catalogue_source", Uuid),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant", "id"),
    ForeignKeyConstraint(["tenant", "policy_name", "policy_version"], [policy.c.tenant, policy.c.name, policy.c.version]),
    ForeignKeyConstraint(["tenant", "catalogue_source"], [source.c.tenant, source.c.id]),
    CheckConstraint("octet_length(source_sha256) = 32 AND octet_length(target_sha256) = 32", name="sha256"),
    CheckConstraint(
        "consent_basis IN ('self', 'subject_consent', 'licensed') AND target_consent_basis IN ('self', 'subject_consent', 'licensed')",
        name="consent_basis",
    ),
    CheckConstraint(
        "created_at >= facegate.uuid_time(id) - interval '1 day' AND created_at < facegate.uuid_time(id) + interval '31 days'",
        name="created_at",
    ),
    Index("transform_source_sha256_idx", "tenant", "source_sha256"),
    Index("transform_target_sha256_idx", "tenant", "target_sha256"),
    postgresql_partition_by="RANGE (id)",
)

transform_event = Table(
    "transform_event",
    metadata,
    Column("tenant", Uuid, nullable=False),
    Column("transform", Uuid, nullable=False),
    Column("sequence", Integer, nullable=False, comment="from 1 without gaps"),
    Column("state", Text, nullable=False),
    Column("denial", JSONB(none_as_null=True)),
    Column("failure", JSONB(none_as_null=True)),
    Column("held", JSONB(none_as_null=True)),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant", "transform", "sequence"),
    ForeignKeyConstraint(["tenant", "transform"], [transform.c.tenant, transform.c.id]),
    CheckConstraint("sequence > 0", name="sequence"),
    CheckConstraint(
        "state IN ('queued', 'screening', 'transforming', 'screening_output', 'released', 'denied', 'held', 'failed', 'cancelled')",
        name="state",
    ),
    CheckConstraint(
        "(state = 'denied') = (denial IS NOT NULL) AND (state = 'failed') = (failure IS NOT NULL) AND (state = 'held') = (held IS NOT NULL)",
        name="facts",
    ),
    # One end for each transform, whatever the code believes.
    Index(
        "transform_event_end_idx",
        "tenant",
        "transform",
        unique=True,
        postgresql_where=text("state IN ('released', 'denied', 'failed', 'cancelled')"),
    ),
    Index("transform_event_state_idx", "tenant", "state", "transform"),
    postgresql_partition_by="RANGE (transform)",
)

transform_cancel = Table(
    "transform_cancel",
    metadata,
    Column("tenant", Uuid, nullable=False),
    Column("transform", Uuid, nullable=False),
    Column("actor", Text, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant", "transform"),
    ForeignKeyConstraint(["tenant", "transform"], [transform.c.tenant, transform.c.id]),
)

part = Table(
    "part",
    metadata,
    Column("tenant", Uuid, nullable=False),
    Column("transform", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("type", Text, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("frame_digest", Text, comment="of what a decoder shows; of a segment and of an encoded picture the decision says it"),
    Column("made_of", LargeBinary, comment="SHA-256 of the encoded file that a signed one was made of"),
    Column("swapper", Text, nullable=False),
    Column("is_trained", Boolean, nullable=False),
    Column("faces_changed", Integer, nullable=False),
    Column("faces_skipped", Integer, nullable=False),
    Column("number", Integer, nullable=False, server_default=text("0"), comment="of a segment, from 1 without gaps"),
    Column("first_frame", Integer),
    Column("frames", Integer),
    Column("head", Integer, comment="bytes at the beginning that all segments of a video share"),
    Column("is_last", Boolean),
    Column("meant", JSONB, comment="faces that were being changed where whoever goes on begins to look; no identities"),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant", "transform", "kind", "number"),
    ForeignKeyConstraint(["tenant", "transform"], [transform.c.tenant, transform.c.id]),
    CheckConstraint("kind IN ('segment', 'encoded', 'signed')", name="kind"),
    CheckConstraint(
        "CASE kind WHEN 'segment' THEN frame_digest IS NULL WHEN 'signed' THEN frame_digest IS NOT NULL ELSE true END", name="frame_digest"
    ),
    CheckConstraint(
        "CASE kind WHEN 'segment' THEN number > 0 AND first_frame >= 0 AND frames > 0 AND head > 0 AND is_last IS NOT NULL"
        " ELSE number = 0 AND num_nonnulls(first_frame, frames, head, is_last, meant) = 0 END",
        name="span",
    ),
    CheckConstraint("octet_length(sha256) = 32", name="sha256"),
    CheckConstraint("(kind = 'signed') = (made_of IS NOT NULL)", name="made_of"),
    Index("part_sha256_idx", "tenant", "sha256"),
    postgresql_partition_by="RANGE (transform)",
)

transform_progress = Table(
    "transform_progress",
    metadata,
    Column("tenant", Uuid, nullable=False),
    Column("transform", Uuid, nullable=False),
    Column("done", Integer, nullable=False, comment="frames"),
    Column("total", Integer, nullable=False),
    Column("eta_s", Integer),
    PrimaryKeyConstraint("tenant", "transform"),
    ForeignKeyConstraint(["tenant", "transform"], [transform.c.tenant, transform.c.id]),
    comment="of a video that is being made; no record, and gone with its end",
)

stream_view = Table(
    "stream_view",
    metadata,
    Column("tenant", Uuid, nullable=False),
    Column("transform", Uuid, nullable=False),
    Column("id", Uuid, nullable=False, comment="entry.id"),
    Column("first_segment", Integer, nullable=False),
    Column("last_segment", Integer, nullable=False),
    Column("actor", Text, nullable=False, comment="to whom they were shown before the release"),
    Column("at", _MOMENT, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant", "transform", "id"),
    ForeignKeyConstraint(["tenant", "transform"], [transform.c.tenant, transform.c.id]),
    CheckConstraint("first_segment BETWEEN 1 AND last_segment", name="segments"),
    postgresql_partition_by="RANGE (transform)",
)

release = Table(
    "release",
    metadata,
    Column("tenant", Uuid, nullable=False),
    Column("transform", Uuid, nullable=False),
    Column("id", Uuid, nullable=False, comment="entry.id"),
    Column("signed_sha256", LargeBinary, nullable=False),
    Column("encoded_sha256", LargeBinary, nullable=False),
    Column("source_decision", Uuid, nullable=False),
    Column("target_decision", Uuid, nullable=False),
    Column("output_decision", Uuid, nullable=False),
    Column("policy_name", Text, nullable=False),
    Column("pinned_version", Integer, nullable=False),
    Column("pinned_digest", Text, nullable=False),
    Column("in_force_version", Integer, nullable=False),
    Column("in_force_digest", Text, nullable=False),
    Column("released_at", _MOMENT, nullable=False),
    Column("expires_at", _MOMENT, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    # One release for each transform.
    PrimaryKeyConstraint("tenant", "transform"),
    ForeignKeyConstraint(["tenant", "transform"], [transform.c.tenant, transform.c.id]),
    ForeignKeyConstraint(["tenant", "source_decision"], [decision.c.tenant, decision.c.id]),
    ForeignKeyConstraint(["tenant", "target_decision"], [decision.c.tenant, decision.c.id]),
    ForeignKeyConstraint(["tenant", "output_decision"], [decision.c.tenant, decision.c.id]),
    ForeignKeyConstraint(["tenant", "policy_name", "pinned_version"], [policy.c.tenant, policy.c.name, policy.c.version]),
    ForeignKeyConstraint(["tenant", "policy_name", "in_force_version"], [policy.c.tenant, policy.c.name, policy.c.version]),
    CheckConstraint("octet_length(signed_sha256) = 32 AND octet_length(encoded_sha256) = 32", name="sha256"),
    Index("release_expires_at_idx", "expires_at"),
    postgresql_partition_by="RANGE (transform)",
)

review = Table(
    "review",
    metadata,
    Column("id", Uuid, nullable=False),
    Column("tenant", Uuid, nullable=False),
    Column("decision", Uuid, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("at", _MOMENT, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW, comment="the latest of a decision is what holds"),
    PrimaryKeyConstraint("tenant", "id"),
    ForeignKeyConstraint(["tenant", "decision"], [decision.c.tenant, decision.c.id]),
    CheckConstraint("verdict IN ('allow', 'block')", name="verdict"),
    CheckConstraint("at >= facegate.uuid_time(id) - interval '1 day' AND at < facegate.uuid_time(id) + interval '31 days'", name="at"),
    Index("review_decision_idx", "tenant", "decision", "recorded_at"),
    Index("review_block_idx", "tenant", "at", "id", postgresql_where=text("verdict = 'block'")),
    postgresql_partition_by="RANGE (id)",
)

review_view = Table(
    "review_view",
    metadata,
    Column("id", Uuid, nullable=False),
    Column("tenant", Uuid, nullable=False),
    Column("decision", Uuid, nullable=False),
    Column("actor", Text, nullable=False),
    Column("rendition", Text, nullable=False),
    Column("at", _MOMENT, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant", "id"),
    ForeignKeyConstraint(["tenant", "decision"], [decision.c.tenant, decision.c.id]),
    CheckConstraint("rendition IN ('blurred', 'clear')", name="rendition"),
    Index("review_view_decision_idx", "tenant", "decision"),
    postgresql_partition_by="RANGE (id)",
)

release_withdrawal = Table(
    "release_withdrawal",
    metadata,
    Column("tenant", Uuid, nullable=False),
    Column("transform", Uuid, nullable=False),
    Column("id", Uuid, nullable=False, comment="entry.id"),
    Column("review", Uuid, nullable=False, comment="why"),
    Column("actor", Text, nullable=False),
    Column("at", _MOMENT, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant", "transform"),
    ForeignKeyConstraint(["tenant", "transform"], [release.c.tenant, release.c.transform]),
    ForeignKeyConstraint(["tenant", "review"], [review.c.tenant, review.c.id]),
)

release_purge = Table(
    "release_purge",
    metadata,
    Column("tenant", Uuid, nullable=False),
    Column("transform", Uuid, nullable=False),
    Column("id", Uuid, nullable=False, comment="entry.id"),
    Column("result", JSONB, nullable=False),
    Column("purged_at", _MOMENT, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant", "transform"),
    ForeignKeyConstraint(["tenant", "transform"], [release.c.tenant, release.c.transform]),
    postgresql_partition_by="RANGE (transform)",
)

shadow = Table(
    "shadow",
    metadata,
    Column("id", Uuid, nullable=False, comment="entry.id; of the time of the decision, so that it lies in the same month"),
    Column("tenant", Uuid, nullable=False),
    Column("decision", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("classifier", LargeBinary, comment="classifier.id"),
    Column("thresholds", LargeBinary, comment="thresholds.id; what would have applied to its scores"),
    Column("sheet", JSONB(none_as_null=True)),
    Column("fault", Text, comment="why there are no scores"),
    Column("at", _MOMENT, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant", "id"),
    ForeignKeyConstraint(["tenant", "decision"], [decision.c.tenant, decision.c.id]),
    CheckConstraint("num_nonnulls(classifier, thresholds, sheet) = CASE WHEN fault IS NULL THEN 3 ELSE 0 END", name="sheet"),
    Index("shadow_decision_idx", "tenant", "decision"),
    postgresql_partition_by="RANGE (id)",
)

# --- people and lifetimes -------------------------------------------------------------------------

appeal = Table(
    "appeal",
    metadata,
    Column("id", Uuid, nullable=False),
    Column("tenant", Uuid, nullable=False),
    Column("decision", Uuid, nullable=False),
    Column("stood", Text, nullable=False, comment="the verdict that stood then"),
    Column("review", Uuid, comment="the review that said so; null where the policy did"),
    Column("actor", Text, nullable=False),
    Column("at", _MOMENT, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW, comment="the first review after it closes it"),
    PrimaryKeyConstraint("tenant", "id"),
    ForeignKeyConstraint(["tenant", "decision"], [decision.c.tenant, decision.c.id]),
    CheckConstraint("stood IN ('allow', 'block')", name="stood"),
    CheckConstraint("at >= facegate.uuid_time(id) - interval '1 day' AND at < facegate.uuid_time(id) + interval '31 days'", name="at"),
    Index("appeal_decision_idx", "tenant", "decision", "recorded_at"),
    postgresql_partition_by="RANGE (id)",
)

media_review = Table(
    "media_review",
    metadata,
    Column("tenant", Uuid, nullable=False),
    Column("review", Uuid, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("stage", Text, nullable=False),
    Column("decision", Uuid, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW, comment="the latest of a stage holds for the bytes"),
    # Outlives the months of decision and review, so no key leads to them.
    PrimaryKeyConstraint("tenant", "review"),
    CheckConstraint("octet_length(sha256) = 32", name="sha256"),
    CheckConstraint("stage IN ('upload', 'source', 'target', 'output')", name="stage"),
    CheckConstraint("verdict IN ('allow', 'block')", name="verdict"),
    Index("media_review_sha256_idx", "tenant", "sha256", "stage", "recorded_at"),
)

hold = Table(
    "hold",
    metadata,
    Column("id", Uuid, nullable=False),
    Column("tenant", Uuid, nullable=False),
    Column("decision", Uuid),
    Column("transform", Uuid),
    Column("sha256", LargeBinary),
    Column("actor", Text, nullable=False),
    Column("at", _MOMENT, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant", "id"),
    CheckConstraint("octet_length(sha256) = 32", name="sha256"),
    # None of them: a reference, which lies in `personal`.
    CheckConstraint("num_nonnulls(decision, transform, sha256) <= 1", name="on"),
)

hold_release = Table(
    "hold_release",
    metadata,
    Column("id", Uuid, nullable=False),
    Column("tenant", Uuid, nullable=False),
    Column("hold", Uuid, nullable=False),
    Column("actor", Text, nullable=False),
    Column("at", _MOMENT, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant", "hold"),
    ForeignKeyConstraint(["tenant", "hold"], [hold.c.tenant, hold.c.id]),
)

erasure = Table(
    "erasure",
    metadata,
    Column("id", Uuid, nullable=False, comment="entry.id"),
    Column("tenant", Uuid, nullable=False),
    Column("selector", Text, nullable=False, comment="what was asked for is not kept"),
    Column("erased", Integer, nullable=False, comment="texts that are gone"),
    Column("held", Integer, nullable=False, comment="texts that stay, being under hold"),
    Column("in_progress", Integer, nullable=False, comment="texts of work that goes on; to be asked again"),
    Column("holds", ARRAY(Uuid), nullable=False, comment="which held them"),
    Column("is_complete", Boolean, nullable=False, comment="false where more was found than is erased at once"),
    Column("actor", Text, nullable=False),
    Column("at", _MOMENT, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant", "id"),
    CheckConstraint("selector IN ('reference', 'subject')", name="selector"),
    CheckConstraint("least(erased, held, in_progress) >= 0", name="counts"),
)

month_purge = Table(
    "month_purge",
    metadata,
    Column("id", Uuid, nullable=False, comment="entry.id; the same for all that one run dropped of a tenant"),
    Column("tenant", Uuid, nullable=False),
    Column("month", Date, nullable=False, comment="its first day"),
    Column("relation", Text, nullable=False),
    Column("dropped", BigInteger, nullable=False),
    Column("kept", BigInteger, nullable=False, comment="under hold, or named by what stays"),
    Column("first_id", Uuid),
    Column("last_id", Uuid),
    Column("actor", Text, nullable=False),
    Column("at", _MOMENT, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant", "id", "month", "relation"),
    CheckConstraint("least(dropped, kept) >= 0", name="counts"),
)

sweep = Table(
    "sweep",
    metadata,
    Column("id", Uuid, nullable=False, comment="entry.id"),
    Column("tenant", Uuid, nullable=False),
    Column("what", Text, nullable=False, comment="an area of the media store, or a table"),
    Column("removed", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False, comment="under hold, and so not removed"),
    Column("first_id", Uuid, comment="the oldest transform, decision or job of which something was removed"),
    Column("last_id", Uuid),
    Column("since", _MOMENT, nullable=False, comment="begin of the run"),
    Column("actor", Text, nullable=False),
    Column("at", _MOMENT, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant", "id"),
    CheckConstraint("least(removed, held) >= 0", name="counts"),
    CheckConstraint("what IN ('intake', 'quarantine', 'released', 'catalogue', 'jobs', 'idempotency')", name="what"),
    postgresql_partition_by="RANGE (id)",
)

# --- the log --------------------------------------------------------------------------------------

log = Table(
    "log",
    metadata,
    Column("number", Integer, nullable=False, autoincrement=False),
    Column("origin", Text, nullable=False),
    Column("entry", Uuid, nullable=False, comment="that it was opened: its first leaf"),
    Column("reason", Text, comment="why there is more than one"),
    Column("former", Text, comment="the checkpoint that could not be gone on from"),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("number"),
    UniqueConstraint("origin"),
    CheckConstraint("number > 0", name="number"),
)

seal_key = Table(
    "seal_key",
    metadata,
    Column("key", Text, nullable=False, comment="name+hash+key"),
    Column("entry", Uuid, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("key"),
)

leaf = Table(
    "leaf",
    metadata,
    Column("log", Integer, nullable=False),
    Column("index", BigInteger, nullable=False, comment="from 0 without gaps"),
    Column("entry", Uuid, nullable=False, comment="entry.id; outlives the entry's month"),
    Column("xid", Xid8, nullable=False, comment="entry.xid, by which an entry is found without its tenant"),
    Column("hash", LargeBinary, nullable=False),
    PrimaryKeyConstraint("log", "index"),
    CheckConstraint("index >= 0", name="index"),
    CheckConstraint("octet_length(hash) = 32", name="hash"),
    Index("leaf_entry_idx", "entry"),
)

node = Table(
    "node",
    metadata,
    Column("log", Integer, nullable=False),
    Column("height", SmallInteger, nullable=False, comment="4, 8, 12, ...; leaves are 0"),
    Column("place", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    PrimaryKeyConstraint("log", "height", "place"),
    CheckConstraint("octet_length(hash) = 32", name="hash"),
)

seal = Table(
    "seal",
    metadata,
    Column("log", Integer, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("note", Text, nullable=False, comment="the signed checkpoint"),
    Column("through", Xid8, nullable=False, comment="all entries of earlier transactions are sealed"),
    Column("sealed_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("log", "size"),
    ForeignKeyConstraint(["log"], [log.c.number]),
    CheckConstraint("size > 0", name="size"),
    CheckConstraint("octet_length(root) = 32", name="root"),
    Index("seal_sealed_at_idx", "log", "sealed_at"),
)

receipt_key = Table(
    "receipt_key",
    metadata,
    Column("key", Text, nullable=False, comment="name+hash+key"),
    Column("entry", Uuid, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("key"),
)

SEALED: Final = (log, seal_key, leaf, node, seal)
"""What the sealer writes."""
APPEND_ONLY: Final = (
    tenant,
    api_key,
    api_key_event,
    policy,
    policy_event,
    classifier,
    thresholds,
    decision,
    entry,
    source,
    source_event,
    transform,
    transform_event,
    transform_cancel,
    part,
    stream_view,
    release,
    release_withdrawal,
    release_purge,
    review,
    review_view,
    appeal,
    media_review,
    hold,
    hold_release,
    erasure,
    month_purge,
    sweep,
    shadow,
    receipt_key,
    *SEALED,
)
PARTITIONED: Final = (
    decision,
    entry,
    personal,
    transform,
    transform_event,
    part,
    stream_view,
    release,
    release_purge,
    review,
    review_view,
    appeal,
    sweep,
    shadow,
)
MUTABLE: Final = (idempotency, job, transform_progress)
