"""A record of a year: `python -m bench.record_fill`'s millions of decisions, made inside Postgres, so that reports have something to count.

Each month is filled as a table of its own, indexed and attached when it is full, as the administrator: row-level security would
not let anybody else write for several tenants at once, and nothing of it is anybody's real record. Thresholds, classifier and policy are
those of one decision that went through the recorder.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import psycopg2

from bench.recorder import CATEGORIES
from deployments.embedded_postgres import ROLES, DatabaseUrls, EmbeddedPostgres
from deployments.ids import new_id
from moderation.adapters.database import Database
from moderation.adapters.keys import tenant_id
from moderation.adapters.policies import PostgresPolicies
from moderation.adapters.postgres import PostgresRecord
from moderation.decision import Decision, PolicyRef
from moderation.frames import Fit, InputSpec
from moderation.media import Facts, Media, MediaKind, Stage
from moderation.policy import Policy, Rule, decide
from moderation.scores import ClassifierScores, ClassifierVersion, FrameScores

MONTHS: Final = 12
POLICY: Final = Policy(
    name="default",
    version=1,
    rules=(
        Rule(category="sexual.nudity_explicit", block_at=450_000, review_at=200_000),
        Rule(category="sexual", review_at=990_000),
        Rule(category="violence", block_at=999_000),
    ),
)
_CLASSIFIER: Final = ClassifierVersion(
    name="bench",
    version="1",
    digest="sha256:" + "1" * 64,
    mapping_digest="sha256:" + "2" * 64,
    categories=CATEGORIES,
    input=InputSpec(width=320, height=320, fit=Fit.LETTERBOX),
)
_PARENTS: Final = (
    "transform",
    "transform_event",
    "part",
    "stream_view",
    "release",
    "release_purge",
    "review",
    "review_view",
    "personal",
    "appeal",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """The tenant that all of it belongs to, and the months, oldest first."""

    tenant: UUID
    months: tuple[datetime, ...]
    decisions: int


def fill(postgres: EmbeddedPostgres, urls: DatabaseUrls, rows: int, *, now: datetime | None = None) -> Filled:
    """Fill an empty migrated database with `rows` decisions over the twelve months before this one."""
    tenant = tenant_id("bench")
    months = tuple(_months_before((now or datetime.now(UTC)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)))
    _seed(urls, tenant, months[0])
    with closing(psycopg2.connect(**postgres.administrator("facegate"))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(
                "SET maintenance_work_mem = '512MB'; SET synchronous_commit = off; SET session_replication_role = replica; SELECT setseed(0.5)"
            )
            for month in months:
                begun = time.perf_counter()
                _fill_month(cursor, tenant, month, rows // MONTHS)
                print(f"{month:%Y-%m}: {rows // MONTHS:,} decisions in {time.perf_counter() - begun:.0f} s", flush=True)
            for statement in _LOG:
                cursor.execute(statement)
            cursor.execute(_OWNED)
            cursor.execute("VACUUM ANALYZE")
    return Filled(tenant=tenant, months=months, decisions=rows // MONTHS * MONTHS)


def filled_before(postgres: EmbeddedPostgres) -> Filled | None:
    """What an earlier run has filled, or None where there is nothing yet."""
    tenant = tenant_id("bench")
    with closing(psycopg2.connect(**postgres.administrator("facegate"))) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SELECT min(created_at), count(*) - 1 FROM facegate.decision WHERE tenant = %s", (str(tenant),))
        first, decisions = cursor.fetchone()
    if decisions <= 0:
        return None
    begin = first.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    years = [divmod(begin.month - 1 + month, 12) for month in range(MONTHS)]
    months = tuple(begin.replace(year=begin.year + year, month=month + 1) for year, month in years)
    return Filled(tenant=tenant, months=months, decisions=decisions)


def _months_before(month: datetime) -> Iterator[datetime]:
    for back in range(MONTHS, 0, -1):
        years, left = divmod(month.month - 1 - back, 12)
        yield month.replace(year=month.year + years, month=left + 1)


def _seed(urls: DatabaseUrls, tenant: UUID, since: datetime) -> None:
    """The tenant, its policy, and the one decision whose thresholds and classifier all others have."""
    with closing(psycopg2.connect(urls.runtime.replace("+psycopg2", ""))) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SELECT set_config('facegate.tenant', %s, true)", (str(tenant),))
        cursor.execute("INSERT INTO facegate.tenant (id, name) VALUES (%s, 'bench')", (str(tenant),))
    database, record = Database(urls.runtime, connections=1), PostgresRecord(urls.runtime)
    try:
        asyncio.run(PostgresPolicies(database, clock=lambda: since).publish(tenant, "default", POLICY, "bench"))
        asyncio.run(record.append(_decision(tenant)))
    finally:
        record.close()
        database.close()


def _decision(tenant: UUID) -> Decision:
    facts = Facts(type="image/jpeg", kind=MediaKind.IMAGE, width=1920, height=1080, frames=1, frames_declared=None)
    sheet = ClassifierScores(classifier=_CLASSIFIER, frames=(FrameScores(frame=0, time_us=None, scores=dict.fromkeys(CATEGORIES, 1)),))
    outcome = decide(stage=Stage.UPLOAD, facts=facts, required=[_CLASSIFIER], sheets=[sheet], policy=POLICY)
    return Decision(
        id=new_id(),
        tenant=tenant,
        actor="k" * 20,
        stage=Stage.UPLOAD,
        media=Media(sha256="00" * 32, size=1, facts=facts),
        verdict=outcome.verdict,
        reasons=outcome.reasons,
        thresholds=outcome.thresholds,
        sheets=(sheet,),
        policy=PolicyRef(name="default", version=1, digest=POLICY.digest),
        plan_digest="sha256:" + "4" * 64,
        decoder="pillow-13.0.0",
        created_at=datetime.now(UTC),
        request_id="req_seed",
    )


def _fill_month(cursor: Any, tenant: UUID, month: datetime, rows: int) -> None:
    child = month.strftime("_%Y_%m")
    following = month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)
    for parent in _PARENTS:
        cursor.execute("SELECT facegate.make_partition(%s, %s)", (parent, month.date()))
    for parent in ("decision", "entry"):  # the newest of these may be there already, empty
        cursor.execute(f"DROP TABLE IF EXISTS facegate.{parent}{child} CASCADE")
        cursor.execute(
            f"CREATE TABLE facegate.{parent}{child} (LIKE facegate.{parent} INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING CONSTRAINTS)"
        )
    named = {"tenant": str(tenant), "month": month, "span_s": (following - month).total_seconds(), "rows": rows}
    cursor.execute(_DECISIONS.format(table=f"facegate.decision{child}"), named)
    cursor.execute(_ENTRIES.format(child=child))
    for parent in ("decision", "entry"):
        cursor.execute("SELECT facegate.uuid_floor(%s), facegate.uuid_floor(%s)", (month, following))
        low, high = cursor.fetchone()
        cursor.execute(f"ALTER TABLE facegate.{parent} ATTACH PARTITION facegate.{parent}{child} FOR VALUES FROM ('{low}') TO ('{high}')")
    cursor.execute(f"ANALYZE facegate.decision{child}")  # otherwise what follows is planned for an empty table
    for statement in _BESIDE:
        cursor.execute(statement.format(decision=f"facegate.decision{child}"), named)


# An entry of a decision has 2,100 bytes, of which Postgres stores some 1,000.
_ENTRIES: Final = """
INSERT INTO facegate.entry{child} (id, tenant, kind, canonical, recorded_at)
SELECT id, tenant, 'decision', convert_to(rpad(id::text, 1000, md5(id::text)), 'UTF8'), recorded_at FROM facegate.decision{child}
"""

# All of it is sealed hour by hour, in the order in which it was written; roots and signatures are none.
_LOG: Final = (
    "INSERT INTO facegate.log (number, origin, entry) SELECT 1, 'bench', min(id::text)::uuid FROM facegate.entry",
    """
INSERT INTO facegate.entry (id, tenant, kind, canonical, recorded_at) SELECT id, tenant, 'purge', '', purged_at FROM facegate.release_purge
""",
    """
INSERT INTO facegate.leaf (log, index, entry, xid, hash)
SELECT 1, row_number() OVER (ORDER BY recorded_at, id) - 1, id, xid, leaf FROM facegate.entry
""",
    """
INSERT INTO facegate.seal (log, size, root, note, through, sealed_at)
SELECT 1, max(max(f.index)) OVER (ORDER BY date_bin('1 hour', e.recorded_at, '2000-01-01')) + 1, sha256(''), '', max(f.xid::text::bigint)::text::xid8,
    date_bin('1 hour', e.recorded_at, '2000-01-01') + interval '1 hour'
FROM facegate.entry e JOIN facegate.leaf f ON f.entry = e.id GROUP BY date_bin('1 hour', e.recorded_at, '2000-01-01')
""",
)

# So that a record that stays can be migrated.
_OWNED: Final = f"""
DO $$
DECLARE made regclass;
BEGIN
    FOR made IN SELECT oid FROM pg_class WHERE relnamespace = 'facegate'::regnamespace AND relkind = 'r' AND relowner <> '{ROLES["owner"]}'::regrole LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO {ROLES["owner"]}', made);
    END LOOP;
END $$
"""  # noqa: S608  # ours

# Of twenty decisions three are of a transform. Of a hundred some six block, six are held, two are animations of eight frames.
_DECISIONS: Final = """
INSERT INTO {table} (id, tenant, actor, automated, created_at, request_id, transform, stage, media_sha256, media_bytes, media_facts, verdict,
    categories, reasons, thresholds, classifiers, sheets, policy_name, policy_version, policy_digest, plan_digest, decoder, recorded_at)
SELECT (ms || '7' || lpad(to_hex(i %% 4096), 3, '0') || '8' || substr(md5(i::text), 1, 15))::uuid, %(tenant)s, 'k' || lpad((i %% 7)::text, 19, '0'), true, at,
    'req_' || i,
    CASE WHEN i %% 20 < 3 THEN (lpad(to_hex((extract(epoch FROM at_of_first) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex((i - i %% 20) %% 4096), 3, '0')
                                || '9' || substr(md5((i - i %% 20)::text), 1, 15))::uuid END,
    CASE i %% 20 WHEN 0 THEN 'source' WHEN 1 THEN 'target' WHEN 2 THEN 'output' ELSE 'upload' END,
    sha256(convert_to(CASE WHEN i %% 50 = 7 THEN 'again' || i / 500 ELSE 'media' || i || at END, 'UTF8')), 312456,
    CASE WHEN is_error THEN NULL WHEN is_film THEN
        '{{"kind": "animation", "type": "image/gif", "width": 640, "height": 480, "frames": 8, "frames_declared": 8, "duration_us": 4000000, "unscreened": [], "renderings": ["plain"]}}'::jsonb
    ELSE '{{"kind": "image", "type": "image/jpeg", "width": 1920, "height": 1080, "frames": 1, "frames_declared": null, "duration_us": null, "unscreened": [], "renderings": ["plain"]}}'::jsonb END,
    CASE WHEN is_error THEN 'error' WHEN explicit >= 450000 THEN CASE WHEN is_film THEN 'review' ELSE 'block' END WHEN explicit >= 200000 THEN 'review' ELSE 'allow' END,
    CASE WHEN explicit >= 200000 AND NOT is_error THEN ARRAY['sexual.nudity_explicit'] ELSE ARRAY[]::text[] END,
    CASE WHEN is_error THEN '[{{"code": "classifier_unavailable", "verdict": "error", "classifier": "bench"}}]'::jsonb
         WHEN explicit >= 450000 AND NOT is_film THEN jsonb_build_array(jsonb_build_object('code', 'over_block_threshold', 'verdict', 'block',
              'category', 'sexual.nudity_explicit', 'score', explicit, 'threshold', 450000, 'classifier', 'bench', 'frame', 0))
         WHEN explicit >= 200000 THEN jsonb_build_array(jsonb_build_object('code', 'over_review_threshold', 'verdict', 'review',
              'category', 'sexual.nudity_explicit', 'score', explicit, 'threshold', 200000, 'classifier', 'bench', 'frame', 0))
         ELSE '[]'::jsonb END,
    seed.thresholds, CASE WHEN is_error THEN ARRAY[]::bytea[] ELSE seed.classifiers END,
    CASE WHEN is_error THEN '[]' ELSE ('[{{"frames": [' || array_to_string(ARRAY(
        SELECT format('{{"frame": %%s, "time_us": %%s, "scores": {{"sexual.nudity_explicit": %%s, "sexual.nudity_partial": %%s, "sexual.activity": %%s,'
                      ' "sexual.suggestive": %%s, "violence.graphic": %%s}}, "boxes": {{}}}}', frame, CASE WHEN is_film THEN (frame * 500000)::text ELSE 'null' END,
                      CASE WHEN frame = 0 THEN explicit ELSE explicit / 4 END, partial, activity, suggestive, graphic)
        FROM generate_series(0, CASE WHEN is_film THEN 7 ELSE 0 END) AS frame), ', ') || '], "detections": []}}]')::jsonb END,
    'default', 1, seed.policy_digest, seed.plan_digest, seed.decoder, at + interval '40 ms'
FROM (
    SELECT i, at, at_of_first, lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') AS ms, i %% 200 = 13 AS is_error, i %% 50 = 21 AS is_film,
           (random() ^ 12 * 999999)::int AS explicit, (random() * 400000)::int AS partial, (random() ^ 6 * 400000)::int AS activity,
           (random() * 900000)::int AS suggestive, (random() ^ 4 * 990000)::int AS graphic
    FROM (SELECT i, %(month)s::timestamptz + make_interval(secs => %(span_s)s * (i + 0.25) / %(rows)s) AS at,
                 %(month)s::timestamptz + make_interval(secs => %(span_s)s * (i - i %% 20) / %(rows)s) AS at_of_first
          FROM generate_series(0, %(rows)s - 1) AS i) moments
) drawn CROSS JOIN (SELECT * FROM facegate.decision WHERE request_id = 'req_seed') seed
"""

_BESIDE: Final = (
    """
INSERT INTO facegate.transform (id, tenant, actor, request_id, created_at, policy_name, policy_version, policy_digest, source_sha256, source_size,
    source_type, target_sha256, target_size, target_type, options, consent_basis, recorded_at)
SELECT s.transform, s.tenant, s.actor, s.request_id, s.created_at, 'default', 1, s.policy_digest, s.media_sha256, 1, 'image/jpeg',
    t.media_sha256, 1, 'image/jpeg', '{{"label": true}}', 'self', s.recorded_at
FROM {decision} s JOIN {decision} t ON t.transform = s.transform AND t.stage = 'target' WHERE s.stage = 'source'
""",
    """
INSERT INTO facegate.part (tenant, transform, kind, sha256, size, type, width, height, frame_digest, made_of, swapper, is_trained, faces_changed,
    faces_skipped, recorded_at)
SELECT o.tenant, o.transform, kind, CASE kind WHEN 'encoded' THEN o.media_sha256 ELSE sha256(o.media_sha256) END, 1, 'image/jpeg', 1920, 1080, 'sha256:0',
    CASE kind WHEN 'signed' THEN o.media_sha256 END, 'classical 1', false, 1, 0, o.recorded_at
FROM {decision} o CROSS JOIN (VALUES ('encoded'), ('signed')) AS kinds (kind) WHERE o.stage = 'output'
""",
    """
INSERT INTO facegate.release (tenant, transform, id, signed_sha256, encoded_sha256, source_decision, target_decision, output_decision, policy_name,
    pinned_version, pinned_digest, in_force_version, in_force_digest, released_at, expires_at, recorded_at)
SELECT o.tenant, o.transform,
    (substr(replace(o.transform::text, '-', ''), 1, 12) || '7' || substr(md5(o.transform::text), 1, 19))::uuid, sha256(o.media_sha256), o.media_sha256, s.id, t.id, o.id, 'default', 1, o.policy_digest, 1,
    o.policy_digest, o.created_at + interval '100 ms', o.created_at + interval '7 days', o.recorded_at + interval '100 ms'
FROM {decision} o JOIN {decision} s ON s.transform = o.transform AND s.stage = 'source'
JOIN {decision} t ON t.transform = o.transform AND t.stage = 'target'
WHERE o.stage = 'output' AND (o.verdict, s.verdict, t.verdict) = ('allow', 'allow', 'allow')
""",
    """
INSERT INTO facegate.entry (id, tenant, kind, canonical, recorded_at)
SELECT l.id, l.tenant, 'release', '', l.recorded_at
FROM facegate.release l WHERE l.transform IN (SELECT transform FROM {decision} WHERE stage = 'output')
""",
    """
INSERT INTO facegate.transform_event (tenant, transform, sequence, state, denial, held, recorded_at)
SELECT o.tenant, o.transform, e.sequence, e.state, CASE e.state WHEN 'denied' THEN '{{}}'::jsonb END,
    CASE e.state WHEN 'held' THEN jsonb_build_object('decision', o.id) END, o.recorded_at + make_interval(secs => e.sequence * 0.1 - 0.5)
FROM {decision} o LEFT JOIN facegate.release l ON l.tenant = o.tenant AND l.transform = o.transform
CROSS JOIN LATERAL (VALUES (1, 'queued'), (2, 'screening'), (3, 'transforming'), (4, 'screening_output'),
    (5, CASE WHEN l.transform IS NOT NULL THEN 'released' WHEN o.verdict = 'review' THEN 'held' ELSE 'denied' END)) AS e (sequence, state)
WHERE o.stage = 'output'
""",
    """
INSERT INTO facegate.release_purge (tenant, transform, id, result, purged_at)
SELECT l.tenant, l.transform, (lpad(to_hex((extract(epoch FROM l.expires_at) * 1000)::bigint), 12, '0') || '7' || substr(md5(l.id::text), 1, 19))::uuid,
    '{{"deleted": true}}', l.expires_at + interval '1 hour'
FROM facegate.release l WHERE l.transform IN (SELECT transform FROM {decision} WHERE stage = 'output')
""",
    """
INSERT INTO facegate.review (id, tenant, decision, verdict, actor, at, recorded_at)
SELECT (lpad(to_hex((extract(epoch FROM d.created_at + waited) * 1000)::bigint), 12, '0') || '7' || substr(md5(d.id::text), 1, 3) || '8'
        || substr(md5(d.id::text), 4, 15))::uuid, d.tenant, d.id, CASE WHEN random() < 0.4 THEN 'block' ELSE 'allow' END,
       'r' || lpad((random() * 4)::int::text, 19, '0'), d.created_at + waited, d.created_at + waited
FROM (SELECT *, make_interval(mins => (5 + random() ^ 3 * 4000)::int) AS waited FROM {decision}) d
WHERE d.verdict = 'review' AND random() < 0.9 AND d.created_at + waited < %(month)s::timestamptz + make_interval(secs => %(span_s)s)
""",
    """
INSERT INTO facegate.personal (id, tenant, kind, salt, content)
SELECT r.id, r.tenant, k.kind, decode(md5(r.id::text || k.kind), 'hex'), CASE k.kind WHEN 'subject' THEN 'reviewer-' || right(r.actor, 1) ELSE 'looked at it' END
FROM facegate.review r CROSS JOIN (VALUES ('subject'), ('review_reason')) AS k (kind)
WHERE r.tenant = %(tenant)s AND r.id >= facegate.uuid_floor(%(month)s) AND r.id < facegate.uuid_floor(%(month)s::timestamptz + make_interval(secs => %(span_s)s))
""",
    """
INSERT INTO facegate.entry (id, tenant, kind, canonical, recorded_at)
SELECT r.id, r.tenant, 'review', '', r.recorded_at FROM facegate.review r
WHERE r.tenant = %(tenant)s AND r.id >= facegate.uuid_floor(%(month)s) AND r.id < facegate.uuid_floor(%(month)s::timestamptz + make_interval(secs => %(span_s)s))
""",
)
