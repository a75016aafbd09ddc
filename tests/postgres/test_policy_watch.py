"""Who hears of a policy in force that the running classifiers do not serve."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from deployments import doctor
from deployments.doctor import Finding, findings
from deployments.embedded_postgres import DatabaseUrls
from deployments.policy_file import shipped_policy
from deployments.policy_watch import PolicyWatch
from deployments.settings import Settings
from moderation.adapters.database import Database
from moderation.adapters.keys import PostgresKeys
from moderation.adapters.policies import PostgresPolicies
from moderation.policy import Policy
from tests.builders import make_policy, make_rule
from tests.fakes import ScriptedClassifier

pytestmark = pytest.mark.postgres

VIOLENT = make_policy(make_rule("sexual"), make_rule("violence"), name="shop", ignore=("test.*",), requires=("violence",))


@pytest.fixture
def settings(database: DatabaseUrls, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", database_url=database.runtime, classifiers=("correlation",))


def put_in_force(urls: DatabaseUrls, **policies: Policy) -> None:
    """One policy for each tenant named."""

    async def publish() -> None:
        for tenant, policy in policies.items():
            await PostgresPolicies(pool).publish(await PostgresKeys(pool).make_tenant(tenant), policy.name, policy, "test")

    pool = Database(urls.runtime, connections=1)
    try:
        asyncio.run(publish())
    finally:
        pool.close()


def said(settings: Settings) -> Finding:
    return next(findings(settings, {"policies in force": doctor._policies}))


def test_doctor_names_the_policies_in_force_of_every_tenant_that_the_classifiers_do_not_serve(database: DatabaseUrls, settings: Settings):
    put_in_force(database, bakery=shipped_policy("marker"))
    assert said(settings).is_good
    put_in_force(database, shop=VIOLENT, zoo=shipped_policy("default"))
    found = said(settings)
    assert not found.is_good
    assert found.detail == (
        "policy shop: no configured classifier judges anything under it (tenant shop); "
        "policy default: no configured classifier judges anything under it (tenant zoo)"
    )


def test_a_starting_worker_says_so_and_goes_on(database: DatabaseUrls):
    put_in_force(database, bakery=make_policy(), shop=VIOLENT)
    pool = Database(database.runtime, connections=1)
    with capture_logs() as logs:
        asyncio.run(PolicyWatch(pool, [ScriptedClassifier()]).run())
        pool.close()
        asyncio.run(PolicyWatch(Database("postgresql://nobody@127.0.0.1:1/none", connections=1), [ScriptedClassifier()]).run())
    assert [(line["log_level"], line["event"], line.get("digest")) for line in logs] == [
        ("error", "policy in force is not served by the classifiers", VIOLENT.digest),
        ("warning", "policies in force not looked at", None),
    ]
