"""Appeals, holds, erasures, what people said about bytes, and what was dropped of old months.

`pre`: it adds tables, indexes and functions, which the code before it does not look at. What people have said so far is copied to
where it is looked up by bytes.
"""

from __future__ import annotations

from alembic import op

revision = "2026_11_27_people"
down_revision = "2026_11_27_log"
branch_labels = None
depends_on = None

RUNTIME = "facegate_runtime"

TABLES = """
CREATE TABLE facegate.appeal (
    id uuid NOT NULL,
    tenant uuid NOT NULL,
    decision uuid NOT NULL,
    stood text NOT NULL,
    review uuid,
    actor text NOT NULL,
    at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT appeal_pkey PRIMARY KEY (tenant, id),
    CONSTRAINT appeal_tenant_decision_fkey FOREIGN KEY (tenant, decision) REFERENCES facegate.decision (tenant, id),
    CONSTRAINT appeal_stood_check CHECK (stood IN ('allow', 'block')),
    CONSTRAINT appeal_at_check CHECK (
        at >= facegate.uuid_time(id) - interval '1 day' AND at < facegate.uuid_time(id) + interval '31 days'
    )
) PARTITION BY RANGE (id);
COMMENT ON COLUMN facegate.appeal.stood IS 'the verdict that stood then';
COMMENT ON COLUMN facegate.appeal.review IS 'the review that said so; null where the policy did';
COMMENT ON COLUMN facegate.appeal.recorded_at IS 'the first review after it closes it';
CREATE INDEX appeal_decision_idx ON facegate.appeal (tenant, decision, recorded_at);

CREATE TABLE facegate.media_review (
    tenant uuid NOT NULL,
    review uuid NOT NULL,
    sha256 bytea NOT NULL,
    stage text NOT NULL,
    decision uuid NOT NULL,
    verdict text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT media_review_pkey PRIMARY KEY (tenant, review),
    CONSTRAINT media_review_sha256_check CHECK (octet_length(sha256) = 32),
    CONSTRAINT media_review_stage_check CHECK (stage IN ('upload', 'source', 'target', 'output')),
    CONSTRAINT media_review_verdict_check CHECK (verdict IN ('allow', 'block'))
);
COMMENT ON COLUMN facegate.media_review.recorded_at IS 'the latest of a stage holds for the bytes';
CREATE INDEX media_review_sha256_idx ON facegate.media_review (tenant, sha256, stage, recorded_at);

CREATE TABLE facegate.hold (
    id uuid NOT NULL,
    tenant uuid NOT NULL,
    decision uuid,
    transform uuid,
    sha256 bytea,
    actor text NOT NULL,
    at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT hold_pkey PRIMARY KEY (tenant, id),
    CONSTRAINT hold_sha256_check CHECK (octet_length(sha256) = 32),
    CONSTRAINT hold_on_check CHECK (num_nonnulls(decision, transform, sha256) <= 1)
);

CREATE TABLE facegate.hold_release (
    id uuid NOT NULL,
    tenant uuid NOT NULL,
    hold uuid NOT NULL,
    actor text NOT NULL,
    at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT hold_release_pkey PRIMARY KEY (tenant, hold),
    CONSTRAINT hold_release_tenant_hold_fkey FOREIGN KEY (tenant, hold) REFERENCES facegate.hold (tenant, id)
);

CREATE TABLE facegate.erasure (
    id uuid NOT NULL,
    tenant uuid NOT NULL,
    selector text NOT NULL,
    erased integer NOT NULL,
    held integer NOT NULL,
    in_progress integer NOT NULL,
    holds uuid[] NOT NULL,
    is_complete boolean NOT NULL,
    actor text NOT NULL,
    at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT erasure_pkey PRIMARY KEY (tenant, id),
    CONSTRAINT erasure_selector_check CHECK (selector IN ('reference', 'subject')),
    CONSTRAINT erasure_counts_check CHECK (least(erased, held, in_progress) >= 0)
);
COMMENT ON COLUMN facegate.erasure.id IS 'entry.id';
COMMENT ON COLUMN facegate.erasure.selector IS 'what was asked for is not kept';
COMMENT ON COLUMN facegate.erasure.erased IS 'texts that are gone';
COMMENT ON COLUMN facegate.erasure.held IS 'texts that stay, being under hold';
COMMENT ON COLUMN facegate.erasure.in_progress IS 'texts of work that goes on; to be asked again';
COMMENT ON COLUMN facegate.erasure.holds IS 'which held them';
COMMENT ON COLUMN facegate.erasure.is_complete IS 'false where more was found than is erased at once';

CREATE TABLE facegate.month_purge (
    id uuid NOT NULL,
    tenant uuid NOT NULL,
    month date NOT NULL,
    relation text NOT NULL,
    dropped bigint NOT NULL,
    kept bigint NOT NULL,
    first_id uuid,
    last_id uuid,
    actor text NOT NULL,
    at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT month_purge_pkey PRIMARY KEY (tenant, id, month, relation),
    CONSTRAINT month_purge_counts_check CHECK (least(dropped, kept) >= 0)
);
COMMENT ON COLUMN facegate.month_purge.id IS 'entry.id; the same for all that one run dropped of a tenant';
COMMENT ON COLUMN facegate.month_purge.month IS 'its first day';
COMMENT ON COLUMN facegate.month_purge.kept IS 'under hold, or named by what stays';

CREATE INDEX transform_source_sha256_idx ON facegate.transform (tenant, source_sha256);
CREATE INDEX transform_target_sha256_idx ON facegate.transform (tenant, target_sha256);
CREATE INDEX personal_consent_idx ON facegate.personal (tenant, md5(content::jsonb ->> 'reference'), id)
    WHERE kind IN ('consent', 'target_consent');
CREATE INDEX part_sha256_idx ON facegate.part (tenant, sha256);
"""

FUNCTIONS = """
-- What people block these bytes by: at each stage the latest word counts, whichever decision it was about.
CREATE FUNCTION facegate.blocks(tenant uuid, sha256 bytea) RETURNS TABLE (stage text, decision uuid, review uuid) LANGUAGE sql STABLE AS $$
SELECT l.stage, l.decision, l.review FROM (
    SELECT DISTINCT ON (m.stage) m.stage, m.decision, m.review, m.verdict FROM facegate.media_review m
    WHERE m.tenant = $1 AND m.sha256 = $2 ORDER BY m.stage, m.recorded_at DESC, m.review DESC
) l WHERE l.verdict = 'block'
$$;

-- What bears this text: as its reference, that of a consent, of a hold, or the label of a face; or as the one who wrote it. The oldest
-- `most`; null: all.
CREATE FUNCTION facegate.named_by(selector text, wanted text, most integer) RETURNS TABLE (id uuid)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
SELECT n.id FROM (
    SELECT p.id FROM facegate.personal p
    WHERE p.tenant = facegate.current_tenant() AND md5(p.content) = md5(wanted) AND p.content = wanted
      AND (p.kind = selector OR selector = 'reference' AND p.kind IN ('hold_reference', 'label'))
    UNION
    SELECT p.id FROM facegate.personal p
    WHERE p.tenant = facegate.current_tenant() AND p.kind IN ('consent', 'target_consent') AND selector = 'reference'
      AND md5(p.content::jsonb ->> 'reference') = md5(wanted) AND p.content::jsonb ->> 'reference' = wanted
) n ORDER BY n.id LIMIT most
$$;

-- Everything of this tenant that a hold in force covers, and which hold: what it names, directly or by its bytes or reference; the
-- transform that a covered decision belongs to; the decisions of a covered transform; and the hold itself.
CREATE FUNCTION facegate.held() RETURNS TABLE (id uuid, hold uuid) LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
WITH standing AS (
    SELECT h.tenant, h.id, coalesce(h.decision, h.transform) AS named, h.sha256,
        (SELECT p.content FROM facegate.personal p WHERE p.tenant = h.tenant AND p.id = h.id AND p.kind = 'hold_reference') AS reference
    FROM facegate.hold h
    WHERE h.tenant = facegate.current_tenant()
      AND NOT EXISTS (SELECT FROM facegate.hold_release r WHERE r.tenant = h.tenant AND r.hold = h.id)
), named AS (
    SELECT tenant, id AS hold, id FROM standing
    UNION SELECT tenant, id, named FROM standing WHERE named IS NOT NULL
    UNION SELECT s.tenant, s.id, d.id FROM standing s JOIN facegate.decision d ON d.tenant = s.tenant AND d.media_sha256 = s.sha256
    UNION SELECT s.tenant, s.id, t.id FROM standing s JOIN facegate.transform t ON t.tenant = s.tenant AND t.source_sha256 = s.sha256
    UNION SELECT s.tenant, s.id, t.id FROM standing s JOIN facegate.transform t ON t.tenant = s.tenant AND t.target_sha256 = s.sha256
    UNION SELECT s.tenant, s.id, p.transform FROM standing s JOIN facegate.part p ON p.tenant = s.tenant AND p.sha256 = s.sha256
    UNION SELECT s.tenant, s.id, n.id FROM standing s CROSS JOIN LATERAL facegate.named_by('reference', s.reference, NULL) n
), covered AS (
    SELECT tenant, hold, id FROM named
    UNION SELECT n.tenant, n.hold, d.transform FROM named n JOIN facegate.decision d ON d.tenant = n.tenant AND d.id = n.id
    WHERE d.transform IS NOT NULL
)
SELECT id, hold FROM covered
UNION SELECT d.id, c.hold FROM covered c JOIN facegate.decision d ON d.tenant = c.tenant AND d.transform = c.id
$$;

-- What removes something is an entry: none is committed without the other.
CREATE FUNCTION facegate.require_entry() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM facegate.entry e WHERE e.tenant = NEW.tenant AND e.id = NEW.id) THEN
        RAISE EXCEPTION '% without an entry', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER has_entry AFTER INSERT ON facegate.erasure DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION facegate.require_entry();
CREATE CONSTRAINT TRIGGER has_entry AFTER INSERT ON facegate.month_purge DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION facegate.require_entry();

-- One hold or erasure of a tenant at a time: whichever is first is heard by the other.
CREATE FUNCTION facegate.lock_holds() RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
SELECT pg_advisory_xact_lock(hashtextextended('facegate.hold/' || facegate.current_tenant(), 0))
$$;

-- The texts that an erasure is about, each with the decision, transform or hold that it rests on. A reference, also that of a consent
-- and the label of a face, stands for what was asked under it and for what people wrote about that; a subject for what that person has
-- written. `most` bounds the things.
CREATE FUNCTION facegate.texts_of(selector text, wanted text, most integer) RETURNS TABLE (id uuid, kind text, about uuid)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
WITH named AS (
    SELECT n.id FROM facegate.named_by(selector, wanted, most) n
), written AS (
    SELECT r.id, r.decision FROM facegate.review r WHERE r.tenant = facegate.current_tenant()
        AND (r.id IN (SELECT n.id FROM named n) OR r.decision IN (SELECT n.id FROM named n))
    UNION SELECT a.id, a.decision FROM facegate.appeal a WHERE a.tenant = facegate.current_tenant()
        AND (a.id IN (SELECT n.id FROM named n) OR a.decision IN (SELECT n.id FROM named n))
    UNION SELECT v.id, v.decision FROM facegate.review_view v WHERE v.tenant = facegate.current_tenant()
        AND v.id IN (SELECT n.id FROM named n)
), things AS (
    SELECT w.id, w.decision AS about FROM written w
    UNION SELECT n.id, n.id FROM named n WHERE n.id NOT IN (SELECT w.id FROM written w)
)
SELECT p.id, p.kind, t.about FROM things t JOIN facegate.personal p ON p.tenant = facegate.current_tenant() AND p.id = t.id
WHERE selector = 'subject' OR p.kind <> 'subject'
$$;

-- The only way to remove from `personal`, for the run-time role: by a text, within the tenant of the transaction (row-level security
-- is forced on the owner too), nothing under hold, nothing that is being worked on, and with its row of `erasure`, whose entry must
-- follow in the same transaction. Says what it did: the ids of the erased by kind, how many stay, because of which holds.
CREATE FUNCTION facegate.erase(erasure uuid, selector text, wanted text, actor text, at timestamptz, most integer DEFAULT 10000)
RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mine uuid := facegate.current_tenant();
    outcome jsonb;
    is_held boolean;
    payloads integer;
    payloads_running integer;
BEGIN
    PERFORM facegate.lock_holds();
    -- A worker that holds the job has read the texts and may write them again; one that takes it after this finds them gone.
    PERFORM j.id FROM facegate.job j WHERE j.tenant = mine AND j.kind <> 'webhook'
        AND (j.id IN (SELECT t.about FROM facegate.texts_of(selector, wanted, most) t) OR j.payload->>selector = wanted)
        FOR NO KEY UPDATE;
    is_held := EXISTS (SELECT FROM facegate.held() h JOIN facegate.personal p
                       ON p.tenant = mine AND p.id = h.hold AND p.kind = 'hold_' || selector AND p.content = wanted);
    payloads_running := (SELECT count(*) FROM facegate.job j WHERE j.tenant = mine AND j.payload->>selector = wanted
                         AND (j.state = 'running' OR is_held));
    UPDATE facegate.job j SET payload = jsonb_set(j.payload, ARRAY[selector], 'null')
        WHERE j.tenant = mine AND j.payload->>selector = wanted AND j.state <> 'running' AND NOT is_held;
    GET DIAGNOSTICS payloads = ROW_COUNT;
    WITH held AS MATERIALIZED (
        SELECT h.id, h.hold FROM facegate.held() h
    ), texts AS MATERIALIZED (
        SELECT t.id, t.kind, t.about, t.about IN (SELECT h.id FROM held h) AS stays,
            EXISTS (SELECT FROM facegate.job j WHERE j.tenant = mine AND j.id = t.about AND j.state = 'running' AND j.kind <> 'webhook') AS runs
        FROM facegate.texts_of(selector, wanted, most) t
    ), gone AS (
        DELETE FROM facegate.personal p USING texts t
        WHERE p.tenant = mine AND p.id = t.id AND p.kind = t.kind AND NOT t.stays AND NOT t.runs
        RETURNING p.id, p.kind
    )
    SELECT jsonb_build_object(
        'texts', (SELECT coalesce(jsonb_object_agg(k.kind, k.ids), '{}')
                  FROM (SELECT g.kind, jsonb_agg(g.id ORDER BY g.id) AS ids FROM gone g GROUP BY g.kind) k),
        'erased', (SELECT count(*) FROM gone) + payloads,
        'held', (SELECT count(*) FROM texts t WHERE t.stays) + CASE WHEN is_held THEN payloads_running ELSE 0 END,
        'holds', (SELECT coalesce(jsonb_agg(DISTINCT h.hold), '[]') FROM held h JOIN texts t ON t.about = h.id),
        'in_progress', (SELECT count(*) FROM texts t WHERE t.runs AND NOT t.stays) + CASE WHEN is_held THEN 0 ELSE payloads_running END,
        'is_complete', (SELECT count(*) < most FROM facegate.named_by(selector, wanted, most))
    ) INTO outcome;
    INSERT INTO facegate.erasure (id, tenant, selector, erased, held, in_progress, holds, is_complete, actor, at)
    VALUES (erasure, mine, selector, (outcome->>'erased')::integer, (outcome->>'held')::integer, (outcome->>'in_progress')::integer,
            ARRAY(SELECT jsonb_array_elements_text(outcome->'holds')::uuid), (outcome->>'is_complete')::boolean, actor, at);
    RETURN outcome;
END $$;

REVOKE ALL ON FUNCTION facegate.erase FROM PUBLIC;
"""

# What people have said until now, where it is looked up by bytes. The owner is under row-level security like everybody else.
BACKFILL = """
ALTER TABLE facegate.review NO FORCE ROW LEVEL SECURITY;
ALTER TABLE facegate.decision NO FORCE ROW LEVEL SECURITY;
ALTER TABLE facegate.media_review NO FORCE ROW LEVEL SECURITY;
INSERT INTO facegate.media_review (tenant, review, sha256, stage, decision, verdict, recorded_at)
SELECT r.tenant, r.id, d.media_sha256, d.stage, d.id, r.verdict, r.recorded_at
FROM facegate.review r JOIN facegate.decision d ON d.tenant = r.tenant AND d.id = r.decision;
ALTER TABLE facegate.review FORCE ROW LEVEL SECURITY;
ALTER TABLE facegate.decision FORCE ROW LEVEL SECURITY;
ALTER TABLE facegate.media_review FORCE ROW LEVEL SECURITY;
"""

# Columns and not tables: what the database itself knows better (`recorded_at`) cannot be given. Erasures are made by their function
# and months are dropped by the owner, so that neither can be claimed.
INSERTS = {
    "appeal": "id, tenant, decision, stood, review, actor, at",
    "media_review": "tenant, review, sha256, stage, decision, verdict",
    "hold": "id, tenant, decision, transform, sha256, actor, at",
    "hold_release": "id, tenant, hold, actor, at",
}
READ_ONLY = ("erasure", "month_purge")


def upgrade() -> None:
    """Tables, their protection, who may do what, then the months."""
    op.execute(TABLES)
    op.execute(FUNCTIONS)
    for table in (*INSERTS, *READ_ONLY):
        op.execute(f"SELECT facegate.force_tenancy('facegate.{table}'), facegate.make_append_only('facegate.{table}')")
        op.execute(f"GRANT SELECT ON facegate.{table} TO {RUNTIME}")
    for table, columns in INSERTS.items():
        op.execute(f"GRANT INSERT ({columns}) ON facegate.{table} TO {RUNTIME}")
    op.execute(f"GRANT EXECUTE ON FUNCTION facegate.erase TO {RUNTIME}")
    op.execute(BACKFILL)
    op.execute("SELECT facegate.make_partitions()")
