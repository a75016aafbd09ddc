"""What is asked of Postgres about transforms, in SQL.

Questions are prepared: one connection plans each of them once.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import Select, Uuid, bindparam, exists, func, select, text

from moderation.adapters import tables
from moderation.adapters.database import Question
from moderation.adapters.transform_rows import CALLBACK_URL, PART_COLUMNS, REFERENCE
from moderation.ports import QueueState, TransformFilter
from moderation.transform import State


def matching(tenant: UUID, wanted: TransformFilter) -> Select[UUID]:
    """The ids of the wanted transforms, newest first, and one more than asked for."""
    ids = tables.transform.c.id
    statement = select(ids).where(tables.transform.c.tenant == tenant).order_by(ids.desc()).limit(wanted.limit + 1)
    if wanted.before is not None:
        statement = statement.where(ids < wanted.before)
    if wanted.state is not None:
        statement = statement.where(ids.in_(_standing_in(tenant, wanted.state)))
    if wanted.reference is not None:
        personal = tables.personal.c
        statement = statement.where(
            ids.in_(
                select(personal.id).where(
                    personal.tenant == tenant,
                    personal.kind == REFERENCE,
                    func.md5(personal.content) == func.md5(wanted.reference),
                    personal.content == wanted.reference,
                )
            )
        )
    return statement


def _standing_in(tenant: UUID, state: State) -> Select[UUID]:
    event, later = tables.transform_event, tables.transform_event.alias()
    went_on = exists().where(later.c.tenant == event.c.tenant, later.c.transform == event.c.transform, later.c.sequence > event.c.sequence)
    return select(event.c.transform).where(event.c.tenant == tenant, event.c.state == str(state), ~went_on)


def floor_of(id: UUID, shift: timedelta) -> str:
    """The least UUIDv7 of the moment of `id`, shifted."""
    return str(UUID(int=max(0, (id.int >> 80) + round(shift.total_seconds() * 1000)) << 80))


# $1 tenant, $2 transforms, $3 and $4 the least and the greatest of them, $5 an id that is older than any of their decisions:
# the bounds are what lets Postgres look into the months in question only.
EVERYTHING: Final = Question(
    name="transform_everything",
    types=("uuid", "uuid[]", "uuid", "uuid", "uuid"),
    statement="""
SELECT 'transform', t.id, to_jsonb(t)
FROM facegate.transform t WHERE t.tenant = $1 AND t.id = ANY($2) AND t.id BETWEEN $3 AND $4
UNION ALL
SELECT 'event', e.transform, to_jsonb(e)
FROM facegate.transform_event e WHERE e.tenant = $1 AND e.transform = ANY($2) AND e.transform BETWEEN $3 AND $4
UNION ALL
SELECT 'personal', p.id, jsonb_build_object('kind', p.kind, 'content', p.content)
FROM facegate.personal p WHERE p.tenant = $1 AND p.id = ANY($2) AND p.id BETWEEN $3 AND $4
UNION ALL
SELECT 'decision', d.transform, jsonb_build_object(
    'id', d.id, 'recorded_at', d.recorded_at,
    'reference', (SELECT p.content FROM facegate.personal p WHERE p.tenant = $1 AND p.id = d.id AND p.kind = 'reference'))
FROM facegate.decision d WHERE d.tenant = $1 AND d.transform = ANY($2) AND d.id >= $5
UNION ALL
SELECT 'review', d.transform, to_jsonb(r) || jsonb_build_object(
    'reason', (SELECT p.content FROM facegate.personal p WHERE p.tenant = $1 AND p.id = r.id AND p.kind = 'review_reason'),
    'subject', (SELECT p.content FROM facegate.personal p WHERE p.tenant = $1 AND p.id = r.id AND p.kind = 'subject'))
FROM facegate.decision d JOIN facegate.review r ON r.tenant = d.tenant AND r.decision = d.id
WHERE d.tenant = $1 AND d.transform = ANY($2) AND d.id >= $5 AND r.id >= $5
UNION ALL
SELECT 'part', p.transform, to_jsonb(p)
FROM facegate.part p WHERE p.tenant = $1 AND p.transform = ANY($2) AND p.transform BETWEEN $3 AND $4
UNION ALL
SELECT 'release', r.transform, to_jsonb(r)
FROM facegate.release r WHERE r.tenant = $1 AND r.transform = ANY($2) AND r.transform BETWEEN $3 AND $4
UNION ALL
SELECT 'withdrawal', w.transform, '{}' FROM facegate.release_withdrawal w WHERE w.tenant = $1 AND w.transform = ANY($2)
UNION ALL
SELECT 'purge', p.transform, '{}'
FROM facegate.release_purge p WHERE p.tenant = $1 AND p.transform = ANY($2) AND p.transform BETWEEN $3 AND $4
UNION ALL
SELECT 'progress', p.transform, to_jsonb(p) FROM facegate.transform_progress p WHERE p.tenant = $1 AND p.transform = ANY($2)
UNION ALL
SELECT 'cancel', c.transform, '{}' FROM facegate.transform_cancel c WHERE c.tenant = $1 AND c.transform = ANY($2)
UNION ALL
SELECT 'block', own.transform, jsonb_build_object('sha256', own.sha256, 'stage', b.stage, 'decision', b.decision, 'review', b.review)
FROM (
    SELECT t.id AS transform, t.source_sha256 AS sha256
    FROM facegate.transform t WHERE t.tenant = $1 AND t.id = ANY($2) AND t.id BETWEEN $3 AND $4
    UNION SELECT t.id, t.target_sha256
    FROM facegate.transform t WHERE t.tenant = $1 AND t.id = ANY($2) AND t.id BETWEEN $3 AND $4
    UNION SELECT p.transform, p.sha256
    FROM facegate.part p WHERE p.tenant = $1 AND p.transform = ANY($2) AND p.transform BETWEEN $3 AND $4
) own CROSS JOIN LATERAL facegate.blocks($1, own.sha256) b
UNION ALL
SELECT 'source_removed', t.id, '{}' FROM facegate.transform t
JOIN facegate.source_event e ON e.tenant = $1 AND e.source = t.catalogue_source AND e.event = 'removed'
WHERE t.tenant = $1 AND t.id = ANY($2) AND t.id BETWEEN $3 AND $4
""",
)

EVENTS: Final = Question(
    name="transform_events",
    types=("uuid", "uuid", "integer"),
    statement="""
SELECT to_jsonb(e) FROM facegate.transform_event e WHERE e.tenant = $1 AND e.transform = $2 AND e.sequence > $3 ORDER BY e.sequence
""",
)

# $3 is the decision that a person would have to look at, or null; $4 an id that is older than any decision of the transform.
STANDING: Final = Question(
    name="transform_standing",
    types=("uuid", "uuid", "uuid", "uuid"),
    statement=f"""
SELECT e.sequence, e.state, e.held->>'decision' AS held,
    EXISTS (SELECT FROM facegate.release r WHERE r.tenant = $1 AND r.transform = $2) AS released,
    EXISTS (SELECT FROM facegate.transform_cancel c WHERE c.tenant = $1 AND c.transform = $2) AS cancelled,
    EXISTS (SELECT FROM facegate.personal p WHERE p.tenant = $1 AND p.id = $2 AND p.kind = '{CALLBACK_URL}') AS has_callback,
    EXISTS (SELECT FROM facegate.transform_progress p WHERE p.tenant = $1 AND p.transform = $2) AS has_progress,
    EXISTS (SELECT FROM facegate.review r WHERE r.tenant = $1 AND r.decision = $3) AS reviewed,
    $3 IS NOT NULL AND EXISTS (
        SELECT FROM (
            SELECT DISTINCT ON (r.decision) r.verdict
            FROM facegate.decision d JOIN facegate.review r ON r.tenant = d.tenant AND r.decision = d.id
            WHERE d.tenant = $1 AND d.transform = $2 AND d.id >= $4 AND r.id >= $4
            ORDER BY r.decision, r.recorded_at DESC, r.id DESC
        ) said WHERE said.verdict = 'block') AS blocked
FROM facegate.transform_event e WHERE e.tenant = $1 AND e.transform = $2
ORDER BY e.sequence DESC LIMIT 1
""",  # noqa: S608  # a constant of ours
)

# In one statement, since nobody but the holder of the lease writes events; of two at once the key refuses one.
ADVANCE: Final = Question(
    name="transform_advance",
    types=("uuid", "uuid", "bigint", "text"),
    may_lag=True,
    statement="""
WITH held AS (
    SELECT id FROM facegate.job WHERE id = $2 AND fence = $3 AND state = 'running' FOR NO KEY UPDATE
), stopped AS (
    SELECT EXISTS (SELECT FROM facegate.transform_cancel c WHERE c.tenant = $1 AND c.transform = $2)
        AND NOT EXISTS (SELECT FROM facegate.release r WHERE r.tenant = $1 AND r.transform = $2) AS is_so
), made AS (
    INSERT INTO facegate.transform_event (tenant, transform, sequence, state)
    SELECT $1, $2, last.sequence + 1, $4
    FROM held, stopped, (SELECT e.sequence, e.state FROM facegate.transform_event e WHERE e.tenant = $1 AND e.transform = $2
                         ORDER BY e.sequence DESC LIMIT 1) last
    WHERE last.state <> $4 AND NOT stopped.is_so
)
SELECT EXISTS (SELECT FROM held), is_so FROM stopped
""",
)

# A segment is what an attempt was for: only attempts that bring none are counted against a video.
ADD_PART: Final = Question(
    name="transform_add_part",
    types=("uuid", "uuid", "bigint", *PART_COLUMNS.values()),
    may_lag=True,
    statement=f"""
WITH held AS (
    SELECT id FROM facegate.job WHERE id = $2 AND fence = $3 AND state = 'running' FOR NO KEY UPDATE
), made AS (
    INSERT INTO facegate.part (tenant, transform, {", ".join(PART_COLUMNS)})
    SELECT $1, $2, {", ".join(f"${at}" for at, _ in enumerate(PART_COLUMNS, 4))} FROM held
    ON CONFLICT DO NOTHING RETURNING kind
), gone_on AS (
    UPDATE facegate.job j SET attempts = 1 FROM made WHERE j.id = $2 AND made.kind = 'segment' AND j.attempts > 1
)
SELECT kind FROM made
""",  # noqa: S608  # constants of ours
)

PROGRESS: Final = Question(
    name="transform_progress",
    types=("uuid", "uuid", "bigint", "integer", "integer", "integer"),
    may_lag=True,
    statement="""
WITH held AS (
    SELECT id FROM facegate.job WHERE id = $2 AND fence = $3 AND state = 'running' FOR NO KEY UPDATE
), said AS (
    INSERT INTO facegate.transform_progress (tenant, transform, done, total, eta_s) SELECT $1, $2, $4, $5, $6 FROM held
    ON CONFLICT (tenant, transform) DO UPDATE SET done = excluded.done, total = excluded.total, eta_s = excluded.eta_s
)
SELECT EXISTS (SELECT FROM held), EXISTS (SELECT FROM facegate.transform_cancel c WHERE c.tenant = $1 AND c.transform = $2)
""",
)

HEED: Final = Question(
    name="transform_heed",
    types=("uuid", "uuid", "bigint"),
    statement="""
SELECT EXISTS (SELECT FROM facegate.job WHERE id = $2 AND fence = $3 AND state = 'running'),
    EXISTS (SELECT FROM facegate.transform_cancel c WHERE c.tenant = $1 AND c.transform = $2)
""",
)

# What the gate has seen to, once more and by the database itself; $4 and $5 are the first and the last segment, $8 an id that is older
# than any decision of the transform, $9 to $11 the policy that is in force. A person's block stands for the bytes, whichever decision
# about them it is about; only a decision under the policy that was pinned lets them pass.
SHOW: Final = Question(
    name="transform_show",
    types=("uuid", "uuid", "uuid", "integer", "integer", "text", "timestamptz", "uuid", "text", "integer", "text"),
    statement="""
WITH own AS (
    SELECT 'source' AS stage, source_sha256 AS sha256 FROM facegate.transform WHERE tenant = $1 AND id = $2
    UNION SELECT 'target', target_sha256 FROM facegate.transform WHERE tenant = $1 AND id = $2
    UNION SELECT 'output', sha256 FROM facegate.part WHERE tenant = $1 AND transform = $2
), judged AS (
    SELECT d.stage, d.media_sha256 AS sha256, d.verdict, d.policy_digest,
        (SELECT r.verdict FROM facegate.review r WHERE r.tenant = $1 AND r.decision = d.id AND r.id >= $8
         ORDER BY r.recorded_at DESC, r.id DESC LIMIT 1) AS said
    FROM facegate.decision d JOIN own ON own.stage = d.stage AND own.sha256 = d.media_sha256
    WHERE d.tenant = $1 AND d.transform = $2 AND d.id >= $8
), asked AS (
    SELECT p.number, p.sha256 FROM facegate.part p JOIN facegate.transform t ON t.tenant = $1 AND t.id = $2
    WHERE p.tenant = $1 AND p.transform = $2 AND p.kind = 'segment' AND p.number BETWEEN $4 AND $5 AND t.policy_name = $9
      AND EXISTS (SELECT FROM judged WHERE judged.stage = 'output' AND judged.sha256 = p.sha256 AND judged.policy_digest = t.policy_digest
                  AND (judged.verdict = 'allow' OR judged.verdict = 'review' AND (judged.said = 'allow' OR EXISTS (
                      SELECT FROM judged whole JOIN facegate.part e ON e.tenant = $1 AND e.transform = $2 AND e.kind = 'encoded'
                          AND e.sha256 = whole.sha256
                      WHERE whole.stage = 'output' AND whole.policy_digest = t.policy_digest AND whole.said = 'allow'))))
), shown AS (
    INSERT INTO facegate.stream_view (tenant, transform, id, first_segment, last_segment, actor, at)
    SELECT $1, $2, $3, $4, $5, $6, $7
    WHERE (SELECT count(*) FROM asked) = $5 - $4 + 1
      AND ($10, $11) = (SELECT i.version, i.digest FROM facegate.policy i WHERE i.tenant = $1 AND i.name = $9 ORDER BY i.version DESC LIMIT 1)
      AND NOT EXISTS (SELECT FROM judged WHERE said = 'block' OR verdict = 'block')
      AND NOT EXISTS (SELECT FROM own CROSS JOIN LATERAL facegate.blocks($1, own.sha256))
      AND NOT EXISTS (SELECT FROM facegate.transform_cancel c WHERE c.tenant = $1 AND c.transform = $2)
      AND NOT EXISTS (SELECT FROM facegate.release_withdrawal w WHERE w.tenant = $1 AND w.transform = $2)
      AND NOT EXISTS (SELECT FROM facegate.release r WHERE r.tenant = $1 AND r.transform = $2 AND r.expires_at <= $7)
      AND NOT EXISTS (SELECT FROM facegate.release_purge p WHERE p.tenant = $1 AND p.transform = $2)
      AND NOT EXISTS (SELECT FROM facegate.transform t
                      JOIN facegate.source_event e ON e.tenant = $1 AND e.source = t.catalogue_source AND e.event = 'removed'
                      WHERE t.tenant = $1 AND t.id = $2)
      AND NOT EXISTS (SELECT FROM facegate.transform_event e WHERE e.tenant = $1 AND e.transform = $2
                      AND e.state IN ('denied', 'failed', 'cancelled'))
    RETURNING id
)
SELECT encode(asked.sha256, 'hex') FROM asked, shown ORDER BY asked.number
""",
)

OWN_BYTES: Final = Question(
    name="transform_own_bytes",
    types=("uuid", "uuid"),
    statement="""
SELECT t.source_sha256 FROM facegate.transform t WHERE t.tenant = $1 AND t.id = $2
UNION SELECT t.target_sha256 FROM facegate.transform t WHERE t.tenant = $1 AND t.id = $2
UNION SELECT p.sha256 FROM facegate.part p WHERE p.tenant = $1 AND p.transform = $2
""",
)

BLOCKED: Final = Question(
    name="transform_blocked",
    types=("uuid", "bytea[]"),
    statement="SELECT b.review FROM unnest($2) AS own (sha256) CROSS JOIN LATERAL facegate.blocks($1, own.sha256) b LIMIT 1",
)

# What a release depends on and others may have written meanwhile; asked once job, policy and bytes are locked. $3 is the policy's name,
# $4 an id that is older than any decision of the transform, $5 the screened file, $6 all that was sent or made. A person's block stands
# for the bytes: it counts whichever decision about them the release names. What people said of others does not concern it.
MEANWHILE: Final = Question(
    name="transform_meanwhile",
    types=("uuid", "uuid", "text", "uuid", "bytea", "bytea[]"),
    statement="""
SELECT in_force.version, in_force.digest,
    (SELECT to_jsonb(r) FROM facegate.release r WHERE r.tenant = $1 AND r.transform = $2) AS earlier,
    EXISTS (SELECT FROM facegate.transform_cancel c WHERE c.tenant = $1 AND c.transform = $2) AS is_stopped,
    EXISTS (SELECT FROM facegate.transform t
            JOIN facegate.source_event e ON e.tenant = $1 AND e.source = t.catalogue_source AND e.event = 'removed'
            WHERE t.tenant = $1 AND t.id = $2) AS is_source_gone,
    EXISTS (SELECT FROM unnest($6) AS own (sha256) CROSS JOIN LATERAL facegate.blocks($1, own.sha256)) AS is_blocked,
    (SELECT coalesce(jsonb_object_agg(said.decision, said.verdict), '{}') FROM (
        SELECT DISTINCT ON (r.decision) r.decision, r.verdict
        FROM facegate.transform t JOIN facegate.decision d ON d.tenant = t.tenant AND d.transform = t.id
            AND ((d.stage, d.media_sha256) IN (('source', t.source_sha256), ('target', t.target_sha256), ('output', $5))
                 OR d.stage = 'output' AND EXISTS (
                     SELECT FROM facegate.part s WHERE s.tenant = $1 AND s.transform = $2 AND s.sha256 = d.media_sha256))
        JOIN facegate.review r ON r.tenant = d.tenant AND r.decision = d.id
        WHERE t.tenant = $1 AND t.id = $2 AND d.id >= $4 AND r.id >= $4
        ORDER BY r.decision, r.recorded_at DESC, r.id DESC
    ) said) AS said
FROM (SELECT i.version, i.digest FROM facegate.policy i WHERE i.tenant = $1 AND i.name = $3 ORDER BY i.version DESC LIMIT 1) in_force
""",
)

# Once more, and by the database itself, what the gate has seen to: everything that the release names is there, is about exactly
# these bytes, and was made under the policy that was pinned; and no decision that stops a transform is among the three. Of a video,
# each segment up to the last one has such a decision as well; what a person says about the whole, $8, is said about its segments.
RELEASE: Final = Question(
    name="transform_release",
    types=(
        *("uuid", "uuid", "uuid", "bytea", "bytea", "uuid", "uuid", "uuid", "text", "integer", "text", "integer", "text"),
        *("timestamptz", "timestamptz", "uuid[]"),
    ),
    statement="""
WITH accepted AS (
    SELECT t.tenant, t.id, t.actor FROM facegate.transform t
    JOIN facegate.part encoded ON encoded.tenant = $1 AND encoded.transform = $2 AND encoded.kind = 'encoded' AND encoded.sha256 = $5
    JOIN facegate.part signed ON signed.tenant = $1 AND signed.transform = $2 AND signed.kind = 'signed' AND signed.sha256 = $4
        AND signed.made_of = encoded.sha256
    JOIN facegate.decision d ON d.tenant = $1 AND d.id IN ($6, $7, $8) AND d.transform = $2 AND d.policy_digest = t.policy_digest
        AND (d.id, d.stage, d.media_sha256)
            IN (($6, 'source', t.source_sha256), ($7, 'target', t.target_sha256), ($8, 'output', encoded.sha256))
        AND (d.stage <> 'output' OR d.media_facts->>'frame_digest' = signed.frame_digest)
        AND (d.verdict = 'allow' OR d.verdict = 'review' AND d.id = ANY($16))
    WHERE t.tenant = $1 AND t.id = $2 AND t.policy_name = $9 AND t.policy_version = $10 AND t.policy_digest = $11
      AND (NOT starts_with(t.target_type, 'video/') AND encoded.type <> 'video/mp4' OR EXISTS (
          SELECT FROM facegate.part s WHERE s.tenant = $1 AND s.transform = $2 AND s.kind = 'segment' AND s.is_last))
      AND NOT EXISTS (
          SELECT FROM facegate.part s WHERE s.tenant = $1 AND s.transform = $2 AND s.kind = 'segment' AND NOT EXISTS (
              SELECT FROM facegate.decision o WHERE o.tenant = $1 AND o.transform = $2 AND o.stage = 'output'
                  AND o.media_sha256 = s.sha256 AND o.policy_digest = t.policy_digest
                  AND (o.verdict = 'allow' OR o.verdict = 'review' AND (o.id = ANY($16) OR $8 = ANY($16)))))
    GROUP BY t.tenant, t.id HAVING count(*) = 3
), made AS (
    INSERT INTO facegate.release (tenant, transform, id, signed_sha256, encoded_sha256, source_decision, target_decision, output_decision,
        policy_name, pinned_version, pinned_digest, in_force_version, in_force_digest, released_at, expires_at)
    SELECT tenant, accepted.id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15 FROM accepted RETURNING transform
)
SELECT accepted.actor FROM accepted JOIN made ON made.transform = accepted.id
""",
)

STILL_PARKED: Final = (
    select(tables.job.c.last_error)
    .where(tables.job.c.id == bindparam("id_"), tables.job.c.state == QueueState.PARKED.value)
    .with_for_update(key_share=True, skip_locked=True)
)

# Not while there is work left to do: what is published after the purge would lie there for good.
EXPIRED: Final = text("""
SELECT to_jsonb(r) FROM facegate.release r
JOIN (SELECT tenant, transform FROM facegate.release WHERE expires_at <= :now
      UNION SELECT tenant, transform FROM facegate.release_withdrawal) gone USING (tenant, transform)
WHERE r.transform > :after
  AND NOT EXISTS (SELECT FROM facegate.release_purge p WHERE p.tenant = r.tenant AND p.transform = r.transform)
  AND NOT EXISTS (SELECT FROM facegate.job j WHERE j.tenant = r.tenant AND j.id = r.transform AND j.state <> 'done')
ORDER BY r.transform LIMIT :limit
""").bindparams(bindparam("after", type_=Uuid))
