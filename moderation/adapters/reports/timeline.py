"""Everything that happened to one media, decision, transform or reference, in order."""

from __future__ import annotations

from typing import Final

from moderation.adapters.reports.statement import Statement, wire
from moderation.reports import Asked, Key, Kind, Parameter, Report, columns


def _said(id: str) -> str:
    """What people said about it, as far as it is not erased."""
    return f"SELECT w.said FROM words w WHERE w.id = {id}"  # noqa: S608  # ours


# What it is about is found first, so that the many tables of what happened are only looked into in the months of these ids: a list of them
# leaves no month out, the bounds of the list do.
_TRANSFORMS: Final = "CAST(:transforms AS uuid[])"
_DECISIONS: Final = "CAST(:decisions AS uuid[])"


def _among(column: str, found: str) -> str:
    """That an id is in a list that was found, and so between its ends."""
    return f"{column} = ANY(CAST(:{found} AS uuid[])) AND {column} BETWEEN :first_{found} AND :last_{found}"


def _listed(found: str, ids: str = "id") -> str:
    """The columns of what was found: the list, and its ends, between which nothing is where it is empty."""
    return f"""coalesce(array_agg({ids}), '{{}}')::text AS {found},
       coalesce(min({ids}::text COLLATE "C"), 'ffffffff-ffff-ffff-ffff-ffffffffffff') AS first_{found},
       coalesce(max({ids}::text COLLATE "C"), '00000000-0000-0000-0000-000000000000') AS last_{found}"""


_NAMED: Final = f"""
SELECT {_listed("named", "p.id")} FROM facegate.personal p
WHERE p.tenant = :tenant AND p.kind = 'reference' AND md5(p.content) = md5(:reference) AND p.content = :reference
"""  # noqa: S608  # pieces of ours

_FIND_TRANSFORMS: Final = f"""
SELECT {_listed("transforms")},
       coalesce(facegate.uuid_floor(min(facegate.uuid_time(id)) - interval '1 day'), 'ffffffff-ffff-ffff-ffff-ffffffffffff')::text AS begun
FROM (
    SELECT t.id FROM facegate.transform t WHERE t.tenant = :tenant AND t.id = :transform
    UNION SELECT t.id FROM facegate.transform t WHERE t.tenant = :tenant AND t.source_sha256 = decode(:media_sha256, 'hex')
    UNION SELECT t.id FROM facegate.transform t WHERE t.tenant = :tenant AND t.target_sha256 = decode(:media_sha256, 'hex')
    UNION SELECT p.transform FROM facegate.part p WHERE p.tenant = :tenant AND p.sha256 = decode(:media_sha256, 'hex')
    UNION SELECT d.transform FROM facegate.decision d WHERE d.tenant = :tenant AND d.id = :decision AND d.transform IS NOT NULL
    UNION SELECT t.id FROM facegate.transform t WHERE t.tenant = :tenant AND {_among("t.id", "named")}
) found
"""  # noqa: S608  # pieces of ours

_FIND_DECISIONS: Final = f"""
SELECT {_listed("decisions")}, least(facegate.uuid_floor(min(facegate.uuid_time(id)) - interval '1 day')::text, CAST(:begun AS text)) AS earliest
FROM (
    SELECT d.id FROM facegate.decision d WHERE d.tenant = :tenant AND d.id >= CAST(CAST(:begun AS text) AS uuid) AND d.transform = ANY({_TRANSFORMS})
    UNION SELECT d.id FROM facegate.decision d WHERE d.tenant = :tenant AND d.media_sha256 = decode(:media_sha256, 'hex')
    UNION SELECT d.id FROM facegate.decision d WHERE d.tenant = :tenant AND d.id = :decision
    UNION SELECT d.id FROM facegate.decision d WHERE d.tenant = :tenant AND {_among("d.id", "named")}
) found
"""  # noqa: S608  # pieces of ours

# A hold is on a decision, a transform, bytes or a reference: all holds that cover something of what was found.
_FIND_HOLDS: Final = f"""
SELECT {_listed("holds", "h.id")} FROM facegate.hold h
WHERE h.tenant = :tenant AND (
    h.decision = ANY({_DECISIONS}) OR h.transform = ANY({_TRANSFORMS}) OR h.sha256 = decode(:media_sha256, 'hex')
    OR h.sha256 IN (SELECT d.media_sha256 FROM facegate.decision d WHERE d.tenant = :tenant AND {_among("d.id", "decisions")})
    OR h.sha256 IN (SELECT unnest(ARRAY[t.source_sha256, t.target_sha256]) FROM facegate.transform t WHERE t.tenant = :tenant AND {_among("t.id", "transforms")})
    OR h.sha256 IN (SELECT p.sha256 FROM facegate.part p WHERE p.tenant = :tenant AND {_among("p.transform", "transforms")})
    OR EXISTS (
        SELECT FROM facegate.personal named WHERE named.tenant = :tenant AND named.id = h.id AND named.kind = 'hold_reference' AND (
            named.content = :reference OR named.content IN (
                SELECT p.content FROM facegate.personal p
                WHERE p.tenant = :tenant AND p.kind = 'reference' AND {_among("p.id", "decisions")}
                UNION ALL
                SELECT p.content FROM facegate.personal p
                WHERE p.tenant = :tenant AND p.kind = 'reference' AND {_among("p.id", "transforms")}))))
"""  # noqa: S608  # pieces of ours

# What people did about the decisions, by its ids: next to always nothing, and then no month is looked into for it.
_FIND_SAID: Final = f"""
SELECT {_listed("said")} FROM (
    SELECT r.id FROM facegate.review r WHERE r.tenant = :tenant AND r.id >= :earliest AND r.decision = ANY({_DECISIONS})
    UNION ALL SELECT v.id FROM facegate.review_view v WHERE v.tenant = :tenant AND v.id >= :earliest AND v.decision = ANY({_DECISIONS})
    UNION ALL SELECT a.id FROM facegate.appeal a WHERE a.tenant = :tenant AND a.id >= :earliest AND a.decision = ANY({_DECISIONS})
) deeds
"""  # noqa: S608  # pieces of ours

TIMELINE: Final = Statement(
    report=Report(
        name="timeline",
        title="Everything that happened, in order",
        parameters=(
            Parameter(name="media_sha256", asked=Asked.SHA256, title="To these bytes, sent or made."),
            Parameter(name="decision", asked=Asked.DECISION, title="To this decision and its transform."),
            Parameter(name="transform", asked=Asked.TRANSFORM, title="To this transform."),
            Parameter(name="reference", asked=Asked.TEXT, title="To what the caller named so."),
        ),
        one_of=("media_sha256", "decision", "transform", "reference"),
        columns=columns(
            ("at", Kind.TIME, "When"),
            ("event", Kind.TEXT, "What happened"),
            ("id", Kind.TEXT, "The decision, transform or review it is about"),
            ("stage", Kind.TEXT, "Stage"),
            ("verdict", Kind.TEXT, "Verdict or state"),
            ("actor", Kind.TEXT, "The key that asked"),
            ("automated", Kind.FLAG, "By the policy or by a person; null for what is no verdict"),
            ("policy", Kind.TEXT, "Policy, version and digest"),
            ("classifiers", Kind.TEXTS, "Name, version and digest of each"),
            ("thresholds", Kind.JSON, "The thresholds that applied, in millionths"),
            ("scores", Kind.JSON, "Every raw score, frame by frame, in millionths"),
            ("detail", Kind.JSON, "What else is known of it"),
        ),
        keys=(Key("at", "timestamptz"), Key("k_rank", "integer"), Key("k_id", "text")),
        totals={},
    ),
    sql=f"""
WITH words AS MATERIALIZED (
    SELECT p.id, jsonb_object_agg(p.kind, p.content) AS said FROM facegate.personal p WHERE p.tenant = :tenant AND {_among("p.id", "said")} GROUP BY p.id
    UNION ALL
    SELECT p.id, jsonb_object_agg(p.kind, p.content) FROM facegate.personal p WHERE p.tenant = :tenant AND {_among("p.id", "holds")} GROUP BY p.id
),
events AS (
    SELECT d.created_at AS at, 2 AS k_rank, 'decision' AS event, {wire("dec", "d.id")} AS id, d.stage, d.verdict, d.actor, d.automated,
           concat_ws(' ', d.policy_name, d.policy_version, d.policy_digest) AS policy,
           ARRAY(SELECT concat_ws(' ', c.name, c.version, c.digest) FROM unnest(d.classifiers) WITH ORDINALITY AS n (id, place)
                 JOIN facegate.classifier c ON c.id = n.id ORDER BY n.place) AS classifiers,
           (SELECT h.applied FROM facegate.thresholds h WHERE h.tenant = d.tenant AND h.id = d.thresholds) AS thresholds,
           d.sheets AS scores,
           jsonb_build_object('media_sha256', encode(d.media_sha256, 'hex'), 'reasons', d.reasons, 'request_id', d.request_id,
               'transform', {wire("trf", "d.transform")}, 'reused_from', {wire("dec", "d.reused_from")}) AS detail
    FROM facegate.decision d WHERE d.tenant = :tenant AND {_among("d.id", "decisions")}
    UNION ALL
    SELECT s.at, 14, 'judged in shadow', {wire("dec", "s.decision")}, NULL, NULL, NULL, NULL, NULL,
           (SELECT ARRAY[concat_ws(' ', c.name, c.version, c.digest)] FROM facegate.classifier c WHERE c.id = s.classifier),
           (SELECT h.applied FROM facegate.thresholds h WHERE h.tenant = s.tenant AND h.id = s.thresholds), s.sheet,
           jsonb_build_object('classifier', s.name, 'fault', s.fault)
    FROM facegate.shadow s WHERE s.tenant = :tenant AND s.id >= :earliest AND s.decision = ANY({_DECISIONS})
    UNION ALL
    SELECT t.created_at, 0, 'transform accepted', {wire("trf", "t.id")}, NULL, NULL, t.actor, NULL,
           concat_ws(' ', t.policy_name, t.policy_version, t.policy_digest), NULL, NULL, NULL,
           jsonb_build_object('source_sha256', encode(t.source_sha256, 'hex'), 'target_sha256', encode(t.target_sha256, 'hex'),
               'options', t.options, 'consent', t.consent_basis, 'target_consent', t.target_consent_basis, 'request_id', t.request_id)
    FROM facegate.transform t WHERE t.tenant = :tenant AND {_among("t.id", "transforms")}
    UNION ALL
    SELECT e.recorded_at, 1, 'state', {wire("trf", "e.transform")}, NULL, e.state, NULL, NULL, NULL, NULL, NULL, NULL,
           coalesce(e.denial, e.failure, e.held)
    FROM facegate.transform_event e WHERE e.tenant = :tenant AND {_among("e.transform", "transforms")}
    UNION ALL
    SELECT v.at, 4, 'shown before the release', {wire("trf", "v.transform")}, NULL, NULL, v.actor, NULL, NULL, NULL, NULL, NULL,
           jsonb_build_object('first_segment', v.first_segment, 'last_segment', v.last_segment)
    FROM facegate.stream_view v WHERE v.tenant = :tenant AND {_among("v.transform", "transforms")}
    UNION ALL
    SELECT c.recorded_at, 3, 'end asked for', {wire("trf", "c.transform")}, NULL, NULL, c.actor, NULL, NULL, NULL, NULL, NULL, NULL
    FROM facegate.transform_cancel c WHERE c.tenant = :tenant AND {_among("c.transform", "transforms")}
    UNION ALL
    SELECT p.recorded_at, 4, 'file made: ' || p.kind, {wire("trf", "p.transform")}, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
           jsonb_build_object('sha256', encode(p.sha256, 'hex'), 'swapper', p.swapper, 'is_trained', p.is_trained,
               'faces_changed', p.faces_changed, 'faces_skipped', p.faces_skipped)
    FROM facegate.part p WHERE p.tenant = :tenant AND {_among("p.transform", "transforms")}
    UNION ALL
    SELECT l.released_at, 5, 'released', {wire("trf", "l.transform")}, NULL, NULL, NULL, NULL,
           concat_ws(' ', l.policy_name, l.pinned_version, l.pinned_digest), NULL, NULL, NULL,
           jsonb_build_object('signed_sha256', encode(l.signed_sha256, 'hex'), 'encoded_sha256', encode(l.encoded_sha256, 'hex'),
               'source', {wire("dec", "l.source_decision")}, 'target', {wire("dec", "l.target_decision")},
               'output', {wire("dec", "l.output_decision")}, 'in_force', l.in_force_version, 'expires_at', l.expires_at)
    FROM facegate.release l WHERE l.tenant = :tenant AND {_among("l.transform", "transforms")}
    UNION ALL
    SELECT w.at, 6, 'withdrawn', {wire("trf", "w.transform")}, NULL, NULL, w.actor, NULL, NULL, NULL, NULL, NULL,
           jsonb_build_object('review', {wire("rev", "w.review")}, 'decision', {wire("dec", "m.decision")},
               'media_sha256', encode(m.sha256, 'hex'))
    FROM facegate.release_withdrawal w LEFT JOIN facegate.media_review m ON m.tenant = w.tenant AND m.review = w.review
    WHERE w.tenant = :tenant
      AND (w.transform = ANY({_TRANSFORMS}) OR m.decision = :decision OR m.decision = ANY(CAST(:named AS uuid[])))
    UNION ALL
    SELECT g.purged_at, 7, 'purged', {wire("trf", "g.transform")}, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, g.result
    FROM facegate.release_purge g WHERE g.tenant = :tenant AND {_among("g.transform", "transforms")}
    UNION ALL
    SELECT r.at, 8, 'review', {wire("rev", "r.id")}, NULL, r.verdict, r.actor, false, NULL, NULL, NULL, NULL,
           jsonb_build_object('decision', {wire("dec", "r.decision")},
               'said', ({_said("r.id")}))
    FROM facegate.review r WHERE r.tenant = :tenant AND {_among("r.id", "said")}
    UNION ALL
    SELECT v.at, 9, 'media seen', {wire("dec", "v.decision")}, NULL, NULL, v.actor, NULL, NULL, NULL, NULL, NULL,
           jsonb_build_object('rendition', v.rendition)
    FROM facegate.review_view v WHERE v.tenant = :tenant AND {_among("v.id", "said")}
    UNION ALL
    SELECT a.at, 11, 'appeal', {wire("apl", "a.id")}, NULL, a.stood, a.actor, NULL, NULL, NULL, NULL, NULL,
           jsonb_build_object('decision', {wire("dec", "a.decision")}, 'said', ({_said("a.id")}))
    FROM facegate.appeal a WHERE a.tenant = :tenant AND {_among("a.id", "said")}
    UNION ALL
    SELECT h.at, 12, 'hold', {wire("hld", "h.id")}, NULL, NULL, h.actor, NULL, NULL, NULL, NULL, NULL, jsonb_build_object('said', ({_said("h.id")}))
    FROM facegate.hold h WHERE h.tenant = :tenant AND h.id = ANY(CAST(:holds AS uuid[]))
    UNION ALL
    SELECT r.at, 13, 'hold ended', {wire("hld", "r.hold")}, NULL, NULL, r.actor, NULL, NULL, NULL, NULL, NULL, NULL
    FROM facegate.hold_release r JOIN facegate.hold h ON h.tenant = r.tenant AND h.id = r.hold
    WHERE h.tenant = :tenant AND h.id = ANY(CAST(:holds AS uuid[]))
    UNION ALL
    SELECT e.at, 10, 'catalogue: ' || e.event, {wire("src", "e.source")}, 'source', NULL, e.actor, NULL, NULL, NULL, NULL, NULL,
           jsonb_build_object('decision', {wire("dec", "s.decision")}, 'consent', s.consent_basis)
    FROM facegate.source_event e JOIN facegate.source s ON s.tenant = e.tenant AND s.id = e.source
    WHERE e.tenant = :tenant AND s.decision = ANY({_DECISIONS})
)
SELECT e.*, e.event || e.id || coalesce(e.verdict, '') || md5(coalesce(e.detail::text, '')) AS k_id FROM events e
""",  # noqa: S608  # pieces of ours
    first=(_NAMED, _FIND_TRANSFORMS, _FIND_DECISIONS, _FIND_HOLDS, _FIND_SAID),
    often=True,
)
