"""The hashes of the tree as they lie in Postgres, for whoever appends to it and whoever proves from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, text

from moderation.errors import RecordUnavailable
from moderation.merkle import LeafRange, Node, complete_subtrees, fold, hash_of, stored_under

_HASHES: Final = text("""
SELECT found.hash
FROM unnest(CAST(:heights AS integer[]), CAST(:firsts AS bigint[]), CAST(:ends AS bigint[])) WITH ORDINALITY AS run (height, first, "end", at)
CROSS JOIN LATERAL (
    SELECT index AS place, hash FROM facegate.leaf WHERE run.height = 0 AND log = :log AND index >= run.first AND index < run."end"
    UNION ALL
    SELECT place, hash FROM facegate.node WHERE log = :log AND height = run.height AND place >= run.first AND place < run."end"
) AS found
ORDER BY run.at, found.place
""")


class TreeDamaged(RecordUnavailable):
    """Leaves or nodes of the tree are missing from the database."""


def hashes_of_nodes(connection: Connection, log: int, nodes: Sequence[Node]) -> list[bytes]:
    """The hashes of complete subtrees, in order; one query of a few dozen rows for a proof. Raises TreeDamaged where any is missing."""
    runs = [stored_under(node) for node in nodes]
    values = {"log": log, "heights": [run[0] for run in runs], "firsts": [run[1] for run in runs], "ends": [run[2] for run in runs]}
    found = [bytes(hashed) for (hashed,) in connection.execute(_HASHES, values)] if runs else []
    if len(found) != sum(end - first for _, first, end in runs):
        raise TreeDamaged("the tree in the database has holes")
    hashes, at = [], 0
    for _, first, end in runs:
        hashes.append(hash_of(found[at : at + end - first]))
        at += end - first
    return hashes


def hashes_of_ranges(connection: Connection, log: int, ranges: Sequence[LeafRange]) -> tuple[bytes, ...]:
    """The hash over each range of a proof, or of a whole tree. Raises TreeDamaged."""
    parts = [complete_subtrees(leaves) for leaves in ranges]
    found = hashes_of_nodes(connection, log, [node for nodes in parts for node in nodes])
    hashes, at = [], 0
    for nodes in parts:
        hashes.append(fold(found[at : at + len(nodes)]))
        at += len(nodes)
    return tuple(hashes)
