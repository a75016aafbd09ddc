"""First tables: tenants, keys, policies, classifiers, decisions with their entries, queue, idempotency.

There is no way down: a record that can be migrated away is none.
"""

from __future__ import annotations

from alembic import op

revision = "2026_11_23_first_tables"
down_revision = None
branch_labels = None
depends_on = None

RUNTIME = "facegate_runtime"
SEALER = "facegate_sealer"

# The names above are constants of this file.
ROLES = f"""
DO $$
BEGIN
    IF (SELECT count(*) FROM pg_roles WHERE rolname IN ('{RUNTIME}', '{SEALER}')) < 2 THEN
        RAISE EXCEPTION 'the roles {RUNTIME} and {SEALER} do not both exist'
            USING HINT = 'As an administrator: CREATE ROLE {RUNTIME} LOGIN PASSWORD ...; CREATE ROLE {SEALER} LOGIN PASSWORD ...;';
    END IF;
END $$;
REVOKE ALL ON SCHEMA facegate FROM PUBLIC;
GRANT USAGE ON SCHEMA facegate TO {RUNTIME}, {SEALER};
GRANT SELECT ON facegate.alembic_version TO {RUNTIME}, {SEALER};
"""  # noqa: S608

FUNCTIONS = """
-- The tenant of this transaction. A pooled connection that had one before says '' and not NULL.
CREATE FUNCTION facegate.current_tenant() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
RETURN nullif(current_setting('facegate.tenant', true), '')::uuid;

-- The time in a UUIDv7, and the least UUIDv7 of a time.
CREATE FUNCTION facegate.uuid_time(id uuid) RETURNS timestamptz LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000.0::float8);

CREATE FUNCTION facegate.uuid_floor(at timestamptz) RETURNS uuid LANGUAGE sql STABLE STRICT PARALLEL SAFE
RETURN rpad(lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0'), 32, '0')::uuid;

CREATE FUNCTION facegate.refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;

-- A statement trigger also stops cascades, TRUNCATE, and statements that would touch no row; it holds for the owner too.
CREATE FUNCTION facegate.make_append_only(relation regclass) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %s'
                   ' FOR EACH STATEMENT EXECUTE FUNCTION facegate.refuse_change()', relation);
END $$;

CREATE FUNCTION facegate.force_tenancy(relation regclass, tenant_column name DEFAULT 'tenant') RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', relation);
    EXECUTE format('CREATE POLICY own_tenant ON %s USING (%2$I = facegate.current_tenant())'
                   ' WITH CHECK (%2$I = facegate.current_tenant())', relation, tenant_column);
END $$;

-- One month of one table. A partition is a table of its own for whoever names it directly: it gets no grants, row-level
-- security without a policy (nothing visible to anyone), and its own trigger. Made apart and then attached, so that
-- writers of the parent need not stop.
CREATE FUNCTION facegate.make_partition(parent name, month date) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    first date := date_trunc('month', month::timestamp)::date;
    child name := parent || to_char(first, '_YYYY_MM');
    low timestamptz := first::timestamp AT TIME ZONE 'UTC';
    high timestamptz := (first + interval '1 month')::timestamp AT TIME ZONE 'UTC';
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('facegate.' || child, 0));
    IF to_regclass(format('facegate.%I', child)) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE facegate.%I (LIKE facegate.%I INCLUDING ALL)', child, parent);
    EXECUTE format('ALTER TABLE facegate.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', child);
    IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = format('facegate.%I', parent)::regclass AND tgname = 'append_only') THEN
        PERFORM facegate.make_append_only(format('facegate.%I', child)::regclass);
    END IF;
    EXECUTE format('ALTER TABLE facegate.%I ATTACH PARTITION facegate.%I FOR VALUES FROM (%L) TO (%L)',
                   parent, child, facegate.uuid_floor(low), facegate.uuid_floor(high));
    RETURN true;
END $$;

-- All partitions from the month before this one to half a year ahead; says how many were missing. The run-time role may call it
-- (it takes nothing and can do nothing else), so that a service that is never upgraded does not run out of months. There is
-- no DEFAULT partition: it would hide that this had stopped, and would be in the way of every later partition.
CREATE FUNCTION facegate.make_partitions() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this_month date := date_trunc('month', now() AT TIME ZONE 'UTC')::date;
    made integer := 0;
    parent name;
    month date;
BEGIN
    FOR parent, month IN
        SELECT c.relname, (this_month + make_interval(months => ahead))::date
        FROM pg_class c, generate_series(-1, 6) AS ahead
        WHERE c.relnamespace = 'facegate'::regnamespace AND c.relkind = 'p'
          AND to_regclass(format('facegate.%I', c.relname || to_char(this_month + make_interval(months => ahead), '_YYYY_MM'))) IS NULL
        ORDER BY 1, 2
    LOOP
        made := made + facegate.make_partition(parent, month)::integer;
    END LOOP;
    RETURN made;
END $$;

REVOKE ALL ON FUNCTION facegate.make_append_only, facegate.force_tenancy, facegate.make_partition, facegate.make_partitions FROM PUBLIC;
"""

TABLES = """
CREATE TABLE facegate.tenant (
    id uuid NOT NULL,
    name text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT tenant_pkey PRIMARY KEY (id),
    CONSTRAINT tenant_name_key UNIQUE (name)
);

CREATE TABLE facegate.api_key (
    id text NOT NULL,
    tenant uuid NOT NULL,
    scopes text[] NOT NULL,
    policies text[] NOT NULL,
    secret_sha256 text NOT NULL,
    sigv4_secret bytea,
    subject text,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT api_key_pkey PRIMARY KEY (id),
    CONSTRAINT api_key_tenant_id_key UNIQUE (tenant, id),
    CONSTRAINT api_key_tenant_fkey FOREIGN KEY (tenant) REFERENCES facegate.tenant (id)
);
COMMENT ON COLUMN facegate.api_key.sigv4_secret IS 'encrypted under the service key';

CREATE TABLE facegate.api_key_event (
    id uuid NOT NULL,
    tenant uuid NOT NULL,
    key_id text NOT NULL,
    event text NOT NULL,
    actor text NOT NULL,
    at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT api_key_event_pkey PRIMARY KEY (tenant, id),
    CONSTRAINT api_key_event_tenant_key_id_fkey FOREIGN KEY (tenant, key_id) REFERENCES facegate.api_key (tenant, id),
    CONSTRAINT api_key_event_event_check CHECK (event IN ('created', 'revoked'))
);
CREATE INDEX api_key_event_key_id_idx ON facegate.api_key_event (key_id);

CREATE TABLE facegate.policy (
    tenant uuid NOT NULL,
    name text NOT NULL,
    version integer NOT NULL,
    digest text NOT NULL,
    content jsonb NOT NULL,
    actor text NOT NULL,
    created_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT policy_pkey PRIMARY KEY (tenant, name, version),
    CONSTRAINT policy_tenant_fkey FOREIGN KEY (tenant) REFERENCES facegate.tenant (id),
    CONSTRAINT policy_version_check CHECK (version > 0)
);

CREATE TABLE facegate.policy_event (
    id uuid NOT NULL,
    tenant uuid NOT NULL,
    name text NOT NULL,
    version integer NOT NULL,
    event text NOT NULL,
    actor text NOT NULL,
    at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT policy_event_pkey PRIMARY KEY (tenant, id),
    CONSTRAINT policy_event_tenant_name_version_fkey
        FOREIGN KEY (tenant, name, version) REFERENCES facegate.policy (tenant, name, version),
    CONSTRAINT policy_event_event_check CHECK (event IN ('published'))
);

CREATE TABLE facegate.classifier (
    id bytea NOT NULL,
    name text NOT NULL,
    version text NOT NULL,
    digest text NOT NULL,
    mapping_digest text NOT NULL,
    categories text[] NOT NULL,
    input jsonb NOT NULL,
    calibrated boolean NOT NULL,
    runtime text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT classifier_pkey PRIMARY KEY (id)
);
COMMENT ON COLUMN facegate.classifier.id IS 'SHA-256 of all other facts; belongs to no tenant';
CREATE INDEX classifier_name_idx ON facegate.classifier (name);

CREATE TABLE facegate.thresholds (
    id bytea NOT NULL,
    tenant uuid NOT NULL,
    applied jsonb NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT thresholds_pkey PRIMARY KEY (tenant, id)
);
COMMENT ON COLUMN facegate.thresholds.id IS 'SHA-256 of `applied`';
COMMENT ON COLUMN facegate.thresholds.applied IS 'the same for all decisions under one policy, so kept once';

CREATE TABLE facegate.decision (
    id uuid NOT NULL,
    tenant uuid NOT NULL,
    actor text NOT NULL,
    automated boolean NOT NULL,
    created_at timestamptz NOT NULL,
    request_id text NOT NULL,
    transform uuid,
    reused_from uuid,
    stage text NOT NULL,
    media_sha256 bytea NOT NULL,
    media_bytes bigint NOT NULL,
    media_facts jsonb,
    verdict text NOT NULL,
    categories text[] NOT NULL,
    reasons jsonb NOT NULL,
    thresholds bytea NOT NULL,
    classifiers bytea[] NOT NULL,
    sheets jsonb NOT NULL,
    policy_name text NOT NULL,
    policy_version integer NOT NULL,
    policy_digest text NOT NULL,
    plan_digest text NOT NULL,
    decoder text NOT NULL,
    reuse_key bytea,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT decision_pkey PRIMARY KEY (tenant, id),
    CONSTRAINT decision_stage_check CHECK (stage IN ('upload', 'source', 'target', 'output')),
    CONSTRAINT decision_verdict_check CHECK (verdict IN ('allow', 'review', 'block', 'error')),
    CONSTRAINT decision_media_sha256_check CHECK (octet_length(media_sha256) = 32),
    CONSTRAINT decision_reuse_key_check CHECK (verdict <> 'error' OR reuse_key IS NULL),
    CONSTRAINT decision_created_at_check CHECK (
        created_at >= facegate.uuid_time(id) - interval '1 day' AND created_at < facegate.uuid_time(id) + interval '31 days'
    )
) PARTITION BY RANGE (id);
COMMENT ON COLUMN facegate.decision.media_facts IS 'null where the bytes could not be opened';
COMMENT ON COLUMN facegate.decision.categories IS 'those that a reason names';
COMMENT ON COLUMN facegate.decision.thresholds IS 'thresholds.id';
COMMENT ON COLUMN facegate.decision.classifiers IS 'classifier.id, in the order of `sheets`';
COMMENT ON COLUMN facegate.decision.sheets IS 'every score of every frame, as integers of 1e-6';
COMMENT ON COLUMN facegate.decision.reuse_key IS 'null where the scores must not be used again';
CREATE INDEX decision_media_idx ON facegate.decision (tenant, media_sha256, id);
CREATE INDEX decision_reuse_idx ON facegate.decision (tenant, reuse_key, id) WHERE reuse_key IS NOT NULL;
CREATE INDEX decision_verdict_idx ON facegate.decision (tenant, verdict, id) WHERE verdict <> 'allow';
CREATE INDEX decision_transform_idx ON facegate.decision (tenant, transform, id) WHERE transform IS NOT NULL;
CREATE INDEX decision_categories_idx ON facegate.decision USING gin (categories) WHERE categories <> '{}';

CREATE TABLE facegate.entry (
    id uuid NOT NULL,
    tenant uuid NOT NULL,
    kind text NOT NULL,
    canonical bytea NOT NULL,
    leaf bytea GENERATED ALWAYS AS (sha256('\\x00'::bytea || canonical)) STORED,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT entry_pkey PRIMARY KEY (tenant, id)
) PARTITION BY RANGE (id);
COMMENT ON COLUMN facegate.entry.id IS 'the id of what it is about';
COMMENT ON COLUMN facegate.entry.canonical IS 'RFC 8785, with its nonce';
COMMENT ON COLUMN facegate.entry.leaf IS 'RFC 6962';
CREATE INDEX entry_xid_idx ON facegate.entry (xid, id);

CREATE TABLE facegate.personal (
    id uuid NOT NULL,
    tenant uuid NOT NULL,
    kind text NOT NULL,
    salt bytea NOT NULL,
    content text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT personal_pkey PRIMARY KEY (tenant, id, kind),
    CONSTRAINT personal_salt_check CHECK (octet_length(salt) >= 16)
) PARTITION BY RANGE (id);
COMMENT ON COLUMN facegate.personal.id IS 'the id of what it is about';
COMMENT ON COLUMN facegate.personal.content IS 'erasable; the entry holds its salted commitment';
CREATE INDEX personal_content_idx ON facegate.personal (tenant, md5(content), id);

CREATE TABLE facegate.idempotency (
    tenant uuid NOT NULL,
    key text NOT NULL,
    fingerprint text NOT NULL,
    resource uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease_until timestamptz,
    CONSTRAINT idempotency_pkey PRIMARY KEY (tenant, key)
);
CREATE INDEX idempotency_created_at_idx ON facegate.idempotency (created_at);

CREATE TABLE facegate.job (
    id uuid NOT NULL,
    tenant uuid NOT NULL,
    kind text NOT NULL,
    payload jsonb NOT NULL,
    state text NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    fence bigint NOT NULL DEFAULT 0,
    lease_until timestamptz,
    run_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_error text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    CONSTRAINT job_pkey PRIMARY KEY (id),
    CONSTRAINT job_state_check CHECK (state IN ('queued', 'running', 'done', 'parked'))
);
CREATE INDEX job_due_idx ON facegate.job (run_at) WHERE state IN ('queued', 'running');
CREATE INDEX job_tenant_idx ON facegate.job (tenant, id);
"""

PROTECTION = """
SELECT facegate.force_tenancy('facegate.tenant', 'id');
SELECT facegate.force_tenancy(name::regclass)
FROM unnest(ARRAY['facegate.api_key', 'facegate.api_key_event', 'facegate.policy', 'facegate.policy_event', 'facegate.thresholds',
                  'facegate.decision',
                  'facegate.entry', 'facegate.personal', 'facegate.idempotency', 'facegate.job']) AS name;
SELECT facegate.make_append_only(name::regclass)
FROM unnest(ARRAY['facegate.tenant', 'facegate.api_key', 'facegate.api_key_event', 'facegate.policy', 'facegate.policy_event',
                  'facegate.classifier', 'facegate.thresholds', 'facegate.decision', 'facegate.entry']) AS name;

-- A key is looked up before its tenant is known, by naming it.
CREATE POLICY by_key ON facegate.api_key FOR SELECT USING (id = nullif(current_setting('facegate.key_id', true), ''));
CREATE POLICY by_key ON facegate.api_key_event FOR SELECT USING (key_id = nullif(current_setting('facegate.key_id', true), ''));

-- Work is taken, and what has expired is swept, across tenants.
CREATE POLICY worker_reads ON facegate.job FOR SELECT USING (current_setting('facegate.worker', true) = 'on');
CREATE POLICY worker_writes ON facegate.job FOR UPDATE USING (current_setting('facegate.worker', true) = 'on');
CREATE POLICY worker_sweeps ON facegate.job FOR DELETE USING (current_setting('facegate.worker', true) = 'on');
CREATE POLICY worker_reads ON facegate.idempotency FOR SELECT USING (current_setting('facegate.worker', true) = 'on');
CREATE POLICY worker_sweeps ON facegate.idempotency FOR DELETE USING (current_setting('facegate.worker', true) = 'on');
"""

# Columns and not tables: an INSERT on the table would let the run-time role say what the database itself knows better.
INSERTS = {
    "tenant": "id, name",
    "api_key": "id, tenant, scopes, policies, secret_sha256, sigv4_secret, subject, created_at, expires_at",
    "api_key_event": "id, tenant, key_id, event, actor, at",
    "policy": "tenant, name, version, digest, content, actor, created_at",
    "policy_event": "id, tenant, name, version, event, actor, at",
    "classifier": "id, name, version, digest, mapping_digest, categories, input, calibrated, runtime",
    "thresholds": "id, tenant, applied",
    "decision": (
        "id, tenant, actor, automated, created_at, request_id, transform, reused_from, stage, media_sha256, media_bytes, media_facts,"
        " verdict, categories, reasons, thresholds, classifiers, sheets, policy_name, policy_version, policy_digest, plan_digest,"
        " decoder, reuse_key"
    ),
    "entry": "id, tenant, kind, canonical",
    "personal": "id, tenant, kind, salt, content",
}
MUTABLE = ("idempotency", "job")

SEALER_GRANTS = f"""
GRANT SELECT ON facegate.entry TO {SEALER};
CREATE POLICY sealer_reads ON facegate.entry FOR SELECT TO {SEALER} USING (true);
GRANT EXECUTE ON FUNCTION facegate.make_partitions TO {RUNTIME};
"""


def upgrade() -> None:
    """Functions first, tables, their protection, then who may do what, then the months."""
    op.execute(ROLES)
    op.execute(FUNCTIONS)
    op.execute(TABLES)
    op.execute(PROTECTION)
    for table, columns in INSERTS.items():
        op.execute(f"GRANT SELECT, INSERT ({columns}) ON facegate.{table} TO {RUNTIME}")
    for table in MUTABLE:
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON facegate.{table} TO {RUNTIME}")
    op.execute(SEALER_GRANTS)
    op.execute("SELECT facegate.make_partitions()")
