"""Transforms: requests, their events, files, releases, reviews, and the catalogue of approved faces.

`pre`: it adds tables and two indexes, which the code before it does not look at.
"""

from __future__ import annotations

from alembic import op

revision = "2026_11_26_transforms"
down_revision = "2026_11_23_first_tables"
branch_labels = None
depends_on = None

RUNTIME = "facegate_runtime"

TABLES = """
CREATE TABLE facegate.source (
    id uuid NOT NULL,
    tenant uuid NOT NULL,
    sha256 bytea NOT NULL,
    size bigint NOT NULL,
    type text NOT NULL,
    decision uuid NOT NULL,
    consent_basis text NOT NULL,
    actor text NOT NULL,
    created_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT source_pkey PRIMARY KEY (tenant, id),
    CONSTRAINT source_tenant_decision_fkey FOREIGN KEY (tenant, decision) REFERENCES facegate.decision (tenant, id),
    CONSTRAINT source_sha256_check CHECK (octet_length(sha256) = 32),
    CONSTRAINT source_consent_basis_check CHECK (consent_basis IN ('self', 'subject_consent', 'licensed'))
);
COMMENT ON COLUMN facegate.source.decision IS 'the allow that it was approved on';
CREATE INDEX source_sha256_idx ON facegate.source (tenant, sha256);

CREATE TABLE facegate.source_event (
    id uuid NOT NULL,
    tenant uuid NOT NULL,
    source uuid NOT NULL,
    event text NOT NULL,
    actor text NOT NULL,
    at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT source_event_pkey PRIMARY KEY (tenant, id),
    CONSTRAINT source_event_tenant_source_event_key UNIQUE (tenant, source, event),
    CONSTRAINT source_event_tenant_source_fkey FOREIGN KEY (tenant, source) REFERENCES facegate.source (tenant, id),
    CONSTRAINT source_event_event_check CHECK (event IN ('approved', 'removed'))
);

CREATE TABLE facegate.transform (
    id uuid NOT NULL,
    tenant uuid NOT NULL,
    actor text NOT NULL,
    request_id text NOT NULL,
    created_at timestamptz NOT NULL,
    policy_name text NOT NULL,
    policy_version integer NOT NULL,
    policy_digest text NOT NULL,
    source_sha256 bytea NOT NULL,
    source_size bigint NOT NULL,
    source_type text NOT NULL,
    target_sha256 bytea NOT NULL,
    target_size bigint NOT NULL,
    target_type text NOT NULL,
    options jsonb NOT NULL,
    consent_basis text,
    target_consent_basis text,
    catalogue_source uuid,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT transform_pkey PRIMARY KEY (tenant, id),
    CONSTRAINT transform_tenant_policy_name_policy_version_fkey
        FOREIGN KEY (tenant, policy_name, policy_version) REFERENCES facegate.policy (tenant, name, version),
    CONSTRAINT transform_tenant_catalogue_source_fkey FOREIGN KEY (tenant, catalogue_source) REFERENCES facegate.source (tenant, id),
    CONSTRAINT transform_sha256_check CHECK (octet_length(source_sha256) = 32 AND octet_length(target_sha256) = 32),
    CONSTRAINT transform_consent_basis_check CHECK (
        consent_basis IN ('self', 'subject_consent', 'licensed') AND target_consent_basis IN ('self', 'subject_consent', 'licensed')
    ),
    CONSTRAINT transform_created_at_check CHECK (
        created_at >= facegate.uuid_time(id) - interval '1 day' AND created_at < facegate.uuid_time(id) + interval '31 days'
    )
) PARTITION BY RANGE (id);
COMMENT ON COLUMN facegate.transform.consent_basis IS 'statement and reference lie in `personal`';

CREATE TABLE facegate.transform_event (
    tenant uuid NOT NULL,
    transform uuid NOT NULL,
    sequence integer NOT NULL,
    state text NOT NULL,
    denial jsonb,
    failure jsonb,
    held jsonb,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT transform_event_pkey PRIMARY KEY (tenant, transform, sequence),
    CONSTRAINT transform_event_tenant_transform_fkey FOREIGN KEY (tenant, transform) REFERENCES facegate.transform (tenant, id),
    CONSTRAINT transform_event_sequence_check CHECK (sequence > 0),
    CONSTRAINT transform_event_state_check CHECK (
        state IN ('queued', 'screening', 'transforming', 'screening_output', 'released', 'denied', 'held', 'failed', 'cancelled')
    ),
    CONSTRAINT transform_event_facts_check CHECK (
        (state = 'denied') = (denial IS NOT NULL) AND (state = 'failed') = (failure IS NOT NULL) AND (state = 'held') = (held IS NOT NULL)
    )
) PARTITION BY RANGE (transform);
COMMENT ON COLUMN facegate.transform_event.sequence IS 'from 1 without gaps';
CREATE UNIQUE INDEX transform_event_end_idx ON facegate.transform_event (tenant, transform)
    WHERE state IN ('released', 'denied', 'failed', 'cancelled');
CREATE INDEX transform_event_state_idx ON facegate.transform_event (tenant, state, transform);

CREATE TABLE facegate.transform_cancel (
    tenant uuid NOT NULL,
    transform uuid NOT NULL,
    actor text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT transform_cancel_pkey PRIMARY KEY (tenant, transform),
    CONSTRAINT transform_cancel_tenant_transform_fkey FOREIGN KEY (tenant, transform) REFERENCES facegate.transform (tenant, id)
);

CREATE TABLE facegate.part (
    tenant uuid NOT NULL,
    transform uuid NOT NULL,
    kind text NOT NULL,
    sha256 bytea NOT NULL,
    size bigint NOT NULL,
    type text NOT NULL,
    width integer NOT NULL,
    height integer NOT NULL,
    frame_digest text NOT NULL,
    made_of bytea,
    swapper text NOT NULL,
    is_trained boolean NOT NULL,
    faces_changed integer NOT NULL,
    faces_skipped integer NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT part_pkey PRIMARY KEY (tenant, transform, kind),
    CONSTRAINT part_tenant_transform_fkey FOREIGN KEY (tenant, transform) REFERENCES facegate.transform (tenant, id),
    CONSTRAINT part_kind_check CHECK (kind IN ('encoded', 'signed')),
    CONSTRAINT part_sha256_check CHECK (octet_length(sha256) = 32),
    CONSTRAINT part_made_of_check CHECK ((kind = 'signed') = (made_of IS NOT NULL))
) PARTITION BY RANGE (transform);
COMMENT ON COLUMN facegate.part.frame_digest IS 'of the frame that a decoder shows';
COMMENT ON COLUMN facegate.part.made_of IS 'SHA-256 of the encoded file that a signed one was made of';

CREATE TABLE facegate.release (
    tenant uuid NOT NULL,
    transform uuid NOT NULL,
    id uuid NOT NULL,
    signed_sha256 bytea NOT NULL,
    encoded_sha256 bytea NOT NULL,
    source_decision uuid NOT NULL,
    target_decision uuid NOT NULL,
    output_decision uuid NOT NULL,
    policy_name text NOT NULL,
    pinned_version integer NOT NULL,
    pinned_digest text NOT NULL,
    in_force_version integer NOT NULL,
    in_force_digest text NOT NULL,
    released_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT release_pkey PRIMARY KEY (tenant, transform),
    CONSTRAINT release_tenant_transform_fkey FOREIGN KEY (tenant, transform) REFERENCES facegate.transform (tenant, id),
    CONSTRAINT release_tenant_source_decision_fkey FOREIGN KEY (tenant, source_decision) REFERENCES facegate.decision (tenant, id),
    CONSTRAINT release_tenant_target_decision_fkey FOREIGN KEY (tenant, target_decision) REFERENCES facegate.decision (tenant, id),
    CONSTRAINT release_tenant_output_decision_fkey FOREIGN KEY (tenant, output_decision) REFERENCES facegate.decision (tenant, id),
    CONSTRAINT release_tenant_policy_name_pinned_version_fkey
        FOREIGN KEY (tenant, policy_name, pinned_version) REFERENCES facegate.policy (tenant, name, version),
    CONSTRAINT release_tenant_policy_name_in_force_version_fkey
        FOREIGN KEY (tenant, policy_name, in_force_version) REFERENCES facegate.policy (tenant, name, version),
    CONSTRAINT release_sha256_check CHECK (octet_length(signed_sha256) = 32 AND octet_length(encoded_sha256) = 32)
) PARTITION BY RANGE (transform);
COMMENT ON COLUMN facegate.release.id IS 'entry.id';
CREATE INDEX release_expires_at_idx ON facegate.release (expires_at);

CREATE TABLE facegate.review (
    id uuid NOT NULL,
    tenant uuid NOT NULL,
    decision uuid NOT NULL,
    verdict text NOT NULL,
    actor text NOT NULL,
    at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT review_pkey PRIMARY KEY (tenant, id),
    CONSTRAINT review_tenant_decision_fkey FOREIGN KEY (tenant, decision) REFERENCES facegate.decision (tenant, id),
    CONSTRAINT review_verdict_check CHECK (verdict IN ('allow', 'block')),
    CONSTRAINT review_at_check CHECK (
        at >= facegate.uuid_time(id) - interval '1 day' AND at < facegate.uuid_time(id) + interval '31 days'
    )
) PARTITION BY RANGE (id);
COMMENT ON COLUMN facegate.review.recorded_at IS 'the latest of a decision is what holds';
CREATE INDEX review_decision_idx ON facegate.review (tenant, decision, recorded_at);

CREATE TABLE facegate.review_view (
    id uuid NOT NULL,
    tenant uuid NOT NULL,
    decision uuid NOT NULL,
    actor text NOT NULL,
    rendition text NOT NULL,
    at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT review_view_pkey PRIMARY KEY (tenant, id),
    CONSTRAINT review_view_tenant_decision_fkey FOREIGN KEY (tenant, decision) REFERENCES facegate.decision (tenant, id),
    CONSTRAINT review_view_rendition_check CHECK (rendition IN ('blurred', 'clear'))
) PARTITION BY RANGE (id);
CREATE INDEX review_view_decision_idx ON facegate.review_view (tenant, decision);

CREATE TABLE facegate.release_withdrawal (
    tenant uuid NOT NULL,
    transform uuid NOT NULL,
    id uuid NOT NULL,
    review uuid NOT NULL,
    actor text NOT NULL,
    at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT release_withdrawal_pkey PRIMARY KEY (tenant, transform),
    CONSTRAINT release_withdrawal_tenant_transform_fkey FOREIGN KEY (tenant, transform) REFERENCES facegate.release (tenant, transform),
    CONSTRAINT release_withdrawal_tenant_review_fkey FOREIGN KEY (tenant, review) REFERENCES facegate.review (tenant, id)
);
COMMENT ON COLUMN facegate.release_withdrawal.id IS 'entry.id';
COMMENT ON COLUMN facegate.release_withdrawal.review IS 'why';

CREATE TABLE facegate.release_purge (
    tenant uuid NOT NULL,
    transform uuid NOT NULL,
    id uuid NOT NULL,
    result jsonb NOT NULL,
    purged_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT release_purge_pkey PRIMARY KEY (tenant, transform),
    CONSTRAINT release_purge_tenant_transform_fkey FOREIGN KEY (tenant, transform) REFERENCES facegate.release (tenant, transform)
) PARTITION BY RANGE (transform);
COMMENT ON COLUMN facegate.release_purge.id IS 'entry.id';

CREATE INDEX job_unended_idx ON facegate.job (tenant, kind) WHERE state IN ('queued', 'running');
CREATE INDEX job_parked_idx ON facegate.job (kind) WHERE state = 'parked';
"""

# Columns and not tables: what the database itself knows better (`recorded_at`) cannot be given.
INSERTS = {
    "source": "id, tenant, sha256, size, type, decision, consent_basis, actor, created_at",
    "source_event": "id, tenant, source, event, actor, at",
    "transform": (
        "id, tenant, actor, request_id, created_at, policy_name, policy_version, policy_digest, source_sha256, source_size, source_type,"
        " target_sha256, target_size, target_type, options, consent_basis, target_consent_basis, catalogue_source"
    ),
    "transform_event": "tenant, transform, sequence, state, denial, failure, held",
    "transform_cancel": "tenant, transform, actor",
    "part": (
        "tenant, transform, kind, sha256, size, type, width, height, frame_digest, made_of, swapper, is_trained, faces_changed,"
        " faces_skipped"
    ),
    "release": (
        "tenant, transform, id, signed_sha256, encoded_sha256, source_decision, target_decision, output_decision, policy_name,"
        " pinned_version, pinned_digest, in_force_version, in_force_digest, released_at, expires_at"
    ),
    "release_withdrawal": "tenant, transform, id, review, actor, at",
    "release_purge": "tenant, transform, id, result, purged_at",
    "review": "id, tenant, decision, verdict, actor, at",
    "review_view": "id, tenant, decision, actor, rendition, at",
}
# The purge of released files looks for them across tenants.
SWEPT = ("release", "release_withdrawal", "release_purge")


def upgrade() -> None:
    """Tables, their protection, who may do what, then the months."""
    op.execute(TABLES)
    for table, columns in INSERTS.items():
        op.execute(f"SELECT facegate.force_tenancy('facegate.{table}'), facegate.make_append_only('facegate.{table}')")
        op.execute(f"GRANT SELECT, INSERT ({columns}) ON facegate.{table} TO {RUNTIME}")
    for table in SWEPT:
        op.execute(f"CREATE POLICY worker_reads ON facegate.{table} FOR SELECT USING (current_setting('facegate.worker', true) = 'on')")
    op.execute("SELECT facegate.make_partitions()")
