"""The log: leaves with their indexes, the nodes above them, seals, and the keys of seals and receipts.

`pre`: it adds tables and policies, which the code before it does not look at.

None of these tables has a tenant: hashes and signatures tell nothing, and whoever verifies needs all of them. What may not be read
by everybody are the entries' bytes.
"""

from __future__ import annotations

from alembic import op

revision = "2026_11_27_log"
down_revision = "2026_11_26_transforms"
branch_labels = None
depends_on = None

RUNTIME = "facegate_runtime"
SEALER = "facegate_sealer"
OPERATOR = "00000000-0000-0000-0000-000000000000"

TABLES = """
CREATE TABLE facegate.log (
    number integer NOT NULL,
    origin text NOT NULL,
    entry uuid NOT NULL,
    reason text,
    former text,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT log_pkey PRIMARY KEY (number),
    CONSTRAINT log_origin_key UNIQUE (origin),
    CONSTRAINT log_number_check CHECK (number > 0)
);
COMMENT ON COLUMN facegate.log.entry IS 'that it was opened: its first leaf';
COMMENT ON COLUMN facegate.log.reason IS 'why there is more than one';
COMMENT ON COLUMN facegate.log.former IS 'the checkpoint that could not be gone on from';

CREATE TABLE facegate.seal_key (
    key text NOT NULL,
    entry uuid NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT seal_key_pkey PRIMARY KEY (key)
);
COMMENT ON COLUMN facegate.seal_key.key IS 'name+hash+key';

CREATE TABLE facegate.leaf (
    log integer NOT NULL,
    index bigint NOT NULL,
    entry uuid NOT NULL,
    xid xid8 NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT leaf_pkey PRIMARY KEY (log, index),
    CONSTRAINT leaf_index_check CHECK (index >= 0),
    CONSTRAINT leaf_hash_check CHECK (octet_length(hash) = 32)
);
COMMENT ON COLUMN facegate.leaf.index IS 'from 0 without gaps';
COMMENT ON COLUMN facegate.leaf.entry IS 'entry.id; outlives the entry''s month';
COMMENT ON COLUMN facegate.leaf.xid IS 'entry.xid, by which an entry is found without its tenant';
CREATE INDEX leaf_entry_idx ON facegate.leaf (entry);

CREATE TABLE facegate.node (
    log integer NOT NULL,
    height smallint NOT NULL,
    place bigint NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT node_pkey PRIMARY KEY (log, height, place),
    CONSTRAINT node_hash_check CHECK (octet_length(hash) = 32)
);
COMMENT ON COLUMN facegate.node.height IS '4, 8, 12, ...; leaves are 0';

CREATE TABLE facegate.seal (
    log integer NOT NULL,
    size bigint NOT NULL,
    root bytea NOT NULL,
    note text NOT NULL,
    through xid8 NOT NULL,
    sealed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT seal_pkey PRIMARY KEY (log, size),
    CONSTRAINT seal_log_fkey FOREIGN KEY (log) REFERENCES facegate.log (number),
    CONSTRAINT seal_size_check CHECK (size > 0),
    CONSTRAINT seal_root_check CHECK (octet_length(root) = 32)
);
COMMENT ON COLUMN facegate.seal.note IS 'the signed checkpoint';
COMMENT ON COLUMN facegate.seal.through IS 'all entries of earlier transactions are sealed';

CREATE TABLE facegate.receipt_key (
    key text NOT NULL,
    entry uuid NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT receipt_key_pkey PRIMARY KEY (key)
);
COMMENT ON COLUMN facegate.receipt_key.key IS 'name+hash+key';
"""

SEALED = {
    "log": "number, origin, entry, reason, former",
    "seal_key": "key, entry",
    "leaf": "log, index, entry, xid, hash",
    "node": "log, height, place, hash",
    "seal": "log, size, root, note, through",
}

# The entries that the sealer writes are about the log and belong to nobody; everybody may read them. Reading across tenants is
# for those who hold `audit.all`.
POLICIES = f"""
CREATE POLICY everybody_reads ON facegate.entry FOR SELECT USING (tenant = '{OPERATOR}');
CREATE POLICY auditor_reads ON facegate.entry FOR SELECT USING (current_setting('facegate.auditor', true) = 'on');
CREATE POLICY sealer_writes ON facegate.entry AS RESTRICTIVE FOR INSERT TO {SEALER} WITH CHECK (tenant = '{OPERATOR}');
GRANT INSERT (id, tenant, kind, canonical) ON facegate.entry TO {SEALER};
GRANT SELECT ON facegate.receipt_key TO {SEALER};
GRANT SELECT, INSERT (key, entry) ON facegate.receipt_key TO {RUNTIME};
SELECT facegate.make_append_only('facegate.receipt_key');
"""


def upgrade() -> None:
    """Tables, who may do what with them, and who may read entries."""
    op.execute(TABLES)
    for table, columns in SEALED.items():
        op.execute(f"SELECT facegate.make_append_only('facegate.{table}')")
        op.execute(f"GRANT SELECT, INSERT ({columns}) ON facegate.{table} TO {SEALER}")
        op.execute(f"GRANT SELECT ON facegate.{table} TO {RUNTIME}")
    op.execute(POLICIES)
