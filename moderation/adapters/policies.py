"""Policies in Postgres: every version is kept, a new one comes into force by being the newest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row, Select, func, insert, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.exc import IntegrityError
from uuid_utils.compat import uuid7

from moderation.adapters.brief_memory import BriefMemory
from moderation.adapters.clock import utc_now
from moderation.adapters.database import Context, Database, Question, answer
from moderation.adapters.entries import new_nonce, write_entry
from moderation.adapters.tables import policy, policy_event
from moderation.audit import policy_entry
from moderation.canonical import Json
from moderation.decision import Verdict
from moderation.errors import PolicyRefused, RecordUnavailable
from moderation.media import Stage, Unscreened
from moderation.policy import CUTS_LEFT_OUT, NEAR_PERCENT, Consent, InputSampling, KOfN, Policy, PolicyLimits, Rule
from moderation.ports import Clock

_MEMORY_SIZE: Final = 1024
_RELY: Final = Question(name="rely_on_policy", types=("text",), statement="SELECT pg_advisory_xact_lock_shared(hashtextextended($1, 0))")


class PostgresPolicies:
    """Implements `moderation.ports.PolicyShelf`. What is in force is remembered for `remember_s`."""

    def __init__(self, database: Database, *, remember_s: float = 1.0, clock: Clock = utc_now) -> None:
        self._database = database
        self._memory: BriefMemory[tuple[UUID, str, int | None], Policy | None] = BriefMemory(seconds=remember_s, size=_MEMORY_SIZE)
        self._clock = clock

    async def latest(self, tenant: UUID, name: str) -> Policy | None:
        """The version in force. Raises RecordUnavailable."""
        return await self._memory.get((tenant, name, None), lambda: self._load(tenant, _newest(tenant, name)))

    async def version(self, tenant: UUID, name: str, version: int) -> Policy | None:
        """One version. Raises RecordUnavailable."""
        return await self._memory.get((tenant, name, version), lambda: self._load(tenant, _exactly(tenant, name, version)))

    async def versions(self, tenant: UUID, name: str, *, newest: int, limit: int) -> Sequence[Policy]:
        """At most `limit` versions from `newest` down. Raises RecordUnavailable."""
        of_this_name = select(policy).where(policy.c.tenant == tenant, policy.c.name == name, policy.c.version <= newest)
        statement = of_this_name.order_by(policy.c.version.desc()).limit(limit)
        rows = await self._database.run(Context(tenant=tenant), lambda connection: connection.execute(statement).all())
        return [_policy(row) for row in rows]

    async def list(self, tenant: UUID) -> Sequence[Policy]:
        """The version in force of each policy, by name. Raises RecordUnavailable."""
        newest_first = select(policy).where(policy.c.tenant == tenant).order_by(policy.c.name, policy.c.version.desc())
        statement = newest_first.ext(distinct_on(policy.c.name))
        rows = await self._database.run(Context(tenant=tenant), lambda connection: connection.execute(statement).all())
        return sorted((_policy(row) for row in rows), key=lambda found: found.name)

    async def publish(self, tenant: UUID, name: str, content: Policy, actor: str) -> Policy:
        """Put a new version in force and return it; content that is in force already gives the version that says it.

        Going back to an older content makes a new version. Several at once get consecutive versions.
        Raises RecordUnavailable, ValueError for a tenant that does not exist. Whether the policy fits the classifiers is the caller's question (`check_coverage`).
        """
        at = self._clock()
        try:
            published = await self._database.run(
                Context(tenant=tenant), lambda connection: _publish(connection, tenant, name, content, actor, at)
            )
        except IntegrityError as error:
            raise ValueError("there is no such tenant") from error
        self._memory.forget((tenant, name, None))
        self._memory.forget((tenant, name, published.version))
        return published

    async def _load(self, tenant: UUID, statement: Select[Any]) -> Policy | None:
        row = await self._database.run(Context(tenant=tenant), lambda connection: connection.execute(statement).one_or_none())
        return None if row is None else _policy(row)


def _exactly(tenant: UUID, name: str, version: int) -> Select[Any]:
    return select(policy).where(policy.c.tenant == tenant, policy.c.name == name, policy.c.version == version)


def _newest(tenant: UUID, name: str) -> Select[Any]:
    return select(policy).where(policy.c.tenant == tenant, policy.c.name == name).order_by(policy.c.version.desc()).limit(1)


def rely_on_policy(connection: Connection, tenant: UUID, name: str) -> None:
    """Nobody publishes a policy of this name until the transaction ends; others may rely on it beside this one.

    A lock of its own kind: the run-time role may not lock rows of an append-only table.
    """
    answer(connection, _RELY, _lock_name(tenant, name))


def _lock_name(tenant: UUID, name: str) -> str:
    return f"facegate.policy/{tenant}/{name}"


def _publish(connection: Connection, tenant: UUID, name: str, content: Policy, actor: str, at: datetime) -> Policy:
    connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(_lock_name(tenant, name), 0))))
    row = connection.execute(_newest(tenant, name)).one_or_none()
    if row is not None and row.digest == content.digest:
        return _policy(row)
    version = 1 if row is None else row.version + 1
    published = policy_from_content(name, version, content.content())
    event: UUID = uuid7()
    connection.execute(
        insert(policy).values(
            tenant=tenant,
            name=name,
            version=version,
            digest=published.digest,
            content=published.content(),
            actor=actor,
            created_at=at,
        )
    )
    connection.execute(
        insert(policy_event).values(id=event, tenant=tenant, name=name, version=version, event="published", actor=actor, at=at)
    )
    canonical = policy_entry(id=event, tenant=tenant, event="published", actor=actor, at=at, nonce=new_nonce(), policy=published)
    write_entry(connection, id=event, tenant=tenant, kind="policy", canonical=canonical)
    return published


def _policy(row: Row[Any]) -> Policy:
    """The stored policy, which must be the one that was hashed: an altered rule must never decide."""
    try:
        stored = policy_from_content(row.name, row.version, row.content)
    except PolicyRefused as error:
        raise RecordUnavailable(f"policy {row.name} version {row.version} cannot be read: {error}") from error
    if stored.digest != row.digest:
        raise RecordUnavailable(f"policy {row.name} version {row.version} is not the one that was published")
    return stored


# --- stored content -------------------------------------------------------------------------------


def policy_from_content(name: str, version: int, content: Mapping[str, Json]) -> Policy:
    """The inverse of `Policy.content`: a policy with the same digest. Raises PolicyRefused on anything else."""
    try:
        return _from_content(name, version, content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PolicyRefused(f"not the content of a policy: {type(error).__name__} {error}") from error


def _from_content(name: str, version: int, content: Mapping[str, Any]) -> Policy:
    sampling = content["video"]["input"]
    return Policy(
        name=name,
        version=version,
        combine=None if content["combine"] == "max" else _k_of_n(content["combine"]),
        rules=tuple(_rule(rule) for rule in content["rules"]),
        ignore=tuple(content["ignore"]),
        requires=tuple(content.get("requires", ())),
        sampling=InputSampling(
            interval_ms=sampling["interval_ms"],
            min_frames=sampling["min_frames"],
            first_and_last=sampling["first_and_last"],
            scene_cuts=sampling["scene_cuts"],
            isolated_at_block=Verdict(sampling["isolated_at_block"]),
            run=_k_of_n(sampling["run"]),
            near_percent=sampling.get("near_percent", NEAR_PERCENT),
            cuts_left_out=Verdict(sampling.get("cuts_left_out", CUTS_LEFT_OUT)),
        ),
        unscreened=_verdicts(content["unscreened"]),
        unscreened_by_stage={Stage(stage): _verdicts(verdicts) for stage, verdicts in content["unscreened_by_stage"].items()},
        consent=Consent(content["consent"]),
        target_consent=Consent(content.get("target_consent", Consent.OPTIONAL)),
        sources=content.get("sources", "any"),
        label_visible=content["label"]["visible"],
        stream=content["stream"],
        audio=content["audio"],
        limits=PolicyLimits(**content["limits"]),
    )


def _rule(content: Mapping[str, Any]) -> Rule:
    return Rule(
        category=content["category"],
        block_at=content["block_at"],
        review_at=content["review_at"],
        stages=frozenset(Stage(stage) for stage in content["stages"]),
        classifier=content["classifier"],
    )


def _k_of_n(content: Mapping[str, Any]) -> KOfN:
    return KOfN(k=content["k"], n=content["n"])


def _verdicts(content: Mapping[str, Any]) -> dict[Unscreened, Verdict]:
    return {Unscreened(what): Verdict(verdict) for what, verdict in content.items()}
