"""Policies in force that the running classifiers do not serve any more.

A policy is checked against the classifiers when it comes into force, and outlives them. Nothing is let through for that (`decide` says
`error`), but somebody should hear of it before the first request does: `facegate doctor` names such policies, and a worker says so when
it starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog

from moderation.adapters.database import Database
from moderation.adapters.policies import PostgresPolicies
from moderation.adapters.reports.reader import PostgresReports
from moderation.errors import PolicyRefused, RecordUnavailable
from moderation.policy import Policy, check_coverage
from moderation.ports import Classifier
from moderation.scores import ClassifierVersion

_LOG: Final = structlog.get_logger("facegate.policy_watch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unserved:
    """A policy in force that could not come into force now; `why` is what `check_coverage` says."""

    tenant: UUID
    tenant_name: str
    policy: Policy
    why: str


async def unserved(database: Database, classifiers: Sequence[ClassifierVersion]) -> list[Unserved]:
    """Those among the policies in force of all tenants. Raises RecordUnavailable."""
    policies, found = PostgresPolicies(database), []
    for tenant, name in await PostgresReports(database).tenants(None):
        for policy in await policies.list(tenant):
            try:
                check_coverage(policy, classifiers)
            except PolicyRefused as refused:
                found.append(Unserved(tenant=tenant, tenant_name=name, policy=policy, why=str(refused)))
    return found


class PolicyWatch:
    """Looks once and says in the log what it has found. What it finds, or that it could not look, ends nothing."""

    def __init__(self, database: Database, classifiers: Sequence[Classifier]) -> None:
        self._database = database
        self._classifiers = classifiers

    async def run(self) -> None:
        """One line for each policy: ids only, as in all logs; `facegate doctor` has the names."""
        try:
            found = await unserved(self._database, [classifier.version for classifier in self._classifiers])
        except RecordUnavailable as fault:
            _LOG.warning("policies in force not looked at", why=str(fault))
            return
        for one in found:
            _LOG.error("policy in force is not served by the classifiers", tenant=str(one.tenant), digest=one.policy.digest)
