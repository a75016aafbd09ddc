"""Videos: their segments, each a file with a decision of its own, how far they are, and to whom segments were shown before the release.

`pre`: what the code before it writes is still right, and what it reads is still there.
"""

from __future__ import annotations

from alembic import op

revision = "2026_11_27_video"
down_revision = "2026_11_27_reports"
branch_labels = None
depends_on = None

RUNTIME = "facegate_runtime"

TABLES = """
ALTER TABLE facegate.part
    ADD COLUMN number integer NOT NULL DEFAULT 0,
    ADD COLUMN first_frame integer,
    ADD COLUMN frames integer,
    ADD COLUMN head integer,
    ADD COLUMN is_last boolean,
    ADD COLUMN meant jsonb,
    ALTER COLUMN frame_digest DROP NOT NULL,
    DROP CONSTRAINT part_pkey,
    ADD CONSTRAINT part_pkey PRIMARY KEY (tenant, transform, kind, number),
    DROP CONSTRAINT part_kind_check,
    ADD CONSTRAINT part_kind_check CHECK (kind IN ('segment', 'encoded', 'signed')),
    ADD CONSTRAINT part_frame_digest_check CHECK ((kind = 'segment') = (frame_digest IS NULL)),
    ADD CONSTRAINT part_span_check CHECK (
        CASE kind WHEN 'segment' THEN number > 0 AND first_frame >= 0 AND frames > 0 AND head > 0 AND is_last IS NOT NULL
                  ELSE number = 0 AND num_nonnulls(first_frame, frames, head, is_last, meant) = 0 END
    );
COMMENT ON COLUMN facegate.part.frame_digest IS 'of the frames that a decoder shows; of a segment its decision says it';
COMMENT ON COLUMN facegate.part.number IS 'of a segment, from 1 without gaps';
COMMENT ON COLUMN facegate.part.head IS 'bytes at the beginning that all segments of a video share';
COMMENT ON COLUMN facegate.part.meant IS 'faces that were being changed where whoever goes on begins to look; no identities';

CREATE TABLE facegate.transform_progress (
    tenant uuid NOT NULL,
    transform uuid NOT NULL,
    done integer NOT NULL,
    total integer NOT NULL,
    eta_s integer,
    CONSTRAINT transform_progress_pkey PRIMARY KEY (tenant, transform),
    CONSTRAINT transform_progress_tenant_transform_fkey FOREIGN KEY (tenant, transform) REFERENCES facegate.transform (tenant, id)
);
COMMENT ON TABLE facegate.transform_progress IS 'of a video that is being made; no record, and gone with its end';
COMMENT ON COLUMN facegate.transform_progress.done IS 'frames';

CREATE TABLE facegate.stream_view (
    tenant uuid NOT NULL,
    transform uuid NOT NULL,
    id uuid NOT NULL,
    first_segment integer NOT NULL,
    last_segment integer NOT NULL,
    actor text NOT NULL,
    at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT stream_view_pkey PRIMARY KEY (tenant, transform, id),
    CONSTRAINT stream_view_tenant_transform_fkey FOREIGN KEY (tenant, transform) REFERENCES facegate.transform (tenant, id),
    CONSTRAINT stream_view_segments_check CHECK (first_segment BETWEEN 1 AND last_segment)
) PARTITION BY RANGE (transform);
COMMENT ON COLUMN facegate.stream_view.id IS 'entry.id';
COMMENT ON COLUMN facegate.stream_view.actor IS 'to whom they were shown before the release';
"""


def upgrade() -> None:
    """Columns, tables, their protection, who may do what, then the months."""
    op.execute(TABLES)
    op.execute("SELECT facegate.force_tenancy('facegate.stream_view'), facegate.make_append_only('facegate.stream_view')")
    op.execute("SELECT facegate.force_tenancy('facegate.transform_progress')")
    op.execute(f"GRANT INSERT (number, first_frame, frames, head, is_last, meant) ON facegate.part TO {RUNTIME}")
    op.execute(f"GRANT SELECT, INSERT (tenant, transform, id, first_segment, last_segment, actor, at) ON facegate.stream_view TO {RUNTIME}")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON facegate.transform_progress TO {RUNTIME}")
    op.execute("SELECT facegate.make_partitions()")
